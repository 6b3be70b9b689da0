// Raw rows, float32 or float16, and exact distances to them: sums in float64, rounded once, as
// metrics.py defines them. See layout.py for where rows lie.
#pragma once
#include "place.cuh"

struct Rows {
  const u64* chunks;
  int shift;
  i64 stride_bytes;
  int dim;

  DEVICE const u8* at(int row) const {
    const u64 chunk = chunks[row >> shift];
    return (const u8*)chunk + (i64)(row & ((1 << shift) - 1)) * stride_bytes;
  }
};

// Whether 16-byte loads may be used for a row and a query.
DEVICE bool is_wide(const void* row, const void* query) {
  return (((u64)row | (u64)query) & 15) == 0;
}

DEVICE float component(const u8* row, int i, const float*) { return ((const float*)row)[i]; }
DEVICE float component(const u8* row, int i, const f16*) {
  return __half2float(((const f16*)row)[i]);
}

// Calls add(x, q) for this lane's share of the components of a row and a query: 16 bytes of the
// row at a time where they are aligned, which they are in memory made for the device.
template <class T, class F>
DEVICE void each_component(const u8* row, const float* query, int dim, F add) {
  constexpr int WIDE = 16 / (int)sizeof(T);
  int done = 0;
  if (is_wide(row, query)) {
    done = dim / WIDE * WIDE;
    for (int i = lane_id(); i < done / WIDE; i += WARP) {
      const uint4 bits = ((const uint4*)row)[i];  // @row
      const u32 words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
      for (int f = 0; f < WIDE / 4; f++) {
        const float4 q = ((const float4*)query)[i * (WIDE / 4) + f];
        const float asked[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
        for (int j = 0; j < 4; j++) {
          float x;
          if (sizeof(T) == 4) {
            x = __uint_as_float(words[j]);
          } else {
            const __half2 two = as_half2(words[2 * f + (j >> 1)]);
            x = j & 1 ? __high2float(two) : __low2float(two);
          }
          add(x, asked[j]);
        }
      }
    }
  }
  for (int i = done + lane_id(); i < dim; i += WARP) add(component(row, i, (const T*)0), query[i]);
}

DEVICE double warp_sum_double(double x) {
#pragma unroll
  for (int step = 16; step > 0; step >>= 1) x += __shfl_xor_sync(FULL_WARP, x, step);
  return x;
}

// What a warp's sums of (x - q)^2, or of x q and x^2, say. query_square: |q|^2, under cosine.
DEVICE float distance_of(double off, double product, double square, int metric,
                         double query_square) {
  if (metric == L2) return (float)sqrt(off);
  if (metric == IP) return (float)(0.0 - product);
  const double cosine = product / (sqrt(square) * sqrt(query_square));
  return cosine == cosine ? (float)(1.0 - fmin(fmax(cosine, -1.0), 1.0))
                          : __int_as_float(0x7fc00000);
}

// The distance of one row by a whole warp; every lane gets it.
template <class T>
DEVICE float exact_distance(const u8* row, const float* query, int dim, int metric,
                            double query_square) {
  double first = 0, square = 0;
  if (metric == L2)
    each_component<T>(row, query, dim, [&](float x, float q) {
      const double off = (double)x - (double)q;
      first = fma(off, off, first);
    });
  else
    each_component<T>(row, query, dim, [&](float x, float q) {
      first = fma((double)x, (double)q, first);
      square = fma((double)x, (double)x, square);
    });
  first = warp_sum_double(first);
  if (metric == L2) return distance_of(first, 0, 0, metric, 0);
  return distance_of(0, first, warp_sum_double(square), metric, query_square);
}

// |q|^2 of f32[dim] in float64, by a whole warp.
DEVICE double square_of(const float* query, int dim) {
  double sum = 0;
  for (int i = lane_id(); i < dim; i += WARP) sum = fma((double)query[i], (double)query[i], sum);
  return warp_sum_double(sum);
}
