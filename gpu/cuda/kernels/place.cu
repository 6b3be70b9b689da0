// Places many queries or rows, a block each; products.cu rotates them.
#include "place.cuh"

// vectors f32[n, dim]; plain f32[n, stride]; near i32[n]: whether the norm is at most `farthest`.
// A query that is not (Codec.in_range) becomes zero. Rows are placed with is_row: ip leaves those
// as they are but for centre and scale, and none becomes zero. Grid: n blocks.
KERNEL __launch_bounds__(TOP_THREADS, 4)
place(const float* __restrict__ vectors, int dim, int stride, int metric, int is_row,
      const float* __restrict__ centre, float scale, float query_norm, float farthest,
      float* plain, int* near) {
  __shared__ double sums[TOP_WARPS];
  const i64 n = blockIdx.x;
  float* out = plain + n * stride;
  const int as = is_row && metric == IP ? L2 : metric;
  const double square =
      place_one(vectors + n * dim, dim, stride, as, centre, scale, query_norm, out, sums);
  const bool is_near = is_row || sqrt(square) <= (double)farthest;
  if (!is_near)
    for (int i = (int)threadIdx.x; i < stride; i += TOP_THREADS) out[i] = 0;
  if (threadIdx.x == 0) near[n] = is_near;
}
