// Lookup tables: one for each query, minus the products of its pieces with all codewords.
#include "compat.cuh"

constexpr int TABLE_QUERIES = 4;  // share a codeword read from the cache

// placed f32[q, stride]; codebooks f32[m, width, K]; tables f32[q, padded_m * K], 0 for padding;
// largest u32[q], 0 before: bits of the largest |entry|.
// Grid: entries / 256, queries / TABLE_QUERIES; 256 threads.
KERNEL __launch_bounds__(256) make_tables(const float* __restrict__ placed, int stride,
                                          const float* __restrict__ codebooks, int m, int width,
                                          int bits, int padded_m, int queries,
                                          float* __restrict__ tables, u32* __restrict__ largest) {
  const int entry = (int)(blockIdx.x * blockDim.x + threadIdx.x);
  const int first = (int)blockIdx.y * TABLE_QUERIES;
  const int j = entry >> bits, word = entry & ((1 << bits) - 1);
  const int together = min(TABLE_QUERIES, queries - first);
  float sums[TABLE_QUERIES] = {};
  if (j < m) {
    const float* words = codebooks + ((i64)j * width << bits) + word;
    const float* pieces = placed + (i64)first * stride + j * width;
    for (int t = 0; t < width; t++) {
      const float component = words[(i64)t << bits];
#pragma unroll
      for (int u = 0; u < TABLE_QUERIES; u++)
        if (u < together) sums[u] = fmaf(pieces[(i64)u * stride + t], component, sums[u]);
    }
  }
#pragma unroll
  for (int u = 0; u < TABLE_QUERIES; u++) {
    if (u >= together) break;
    if (j < padded_m) tables[((i64)(first + u) * padded_m << bits) + entry] = -sums[u];
    const float most = warp_max(fabsf(sums[u]));
    if (lane_id() == 0) atomicMax(&largest[first + u], __float_as_uint(most));
  }
}
