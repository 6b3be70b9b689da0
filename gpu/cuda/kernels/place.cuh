// Rows and queries in a codec's terms: normalised, centred, scaled (Codec.place_rows and
// place_queries; the rotation comes after).
#pragma once
#include "topk.cuh"

constexpr int L2 = 0, COSINE = 1, IP = 2;

template <class T>
DEVICE T block_sum(T value, T* warp_sums /* [TOP_WARPS], shared */) {
#pragma unroll
  for (int step = 16; step > 0; step >>= 1) value += __shfl_xor_sync(FULL_WARP, value, step);
  __syncthreads();
  if (lane_id() == 0) warp_sums[warp_id()] = value;
  __syncthreads();
  T sum = 0;
#pragma unroll
  for (int w = 0; w < TOP_WARPS; w++) sum += warp_sums[w];
  return sum;
}

// codec.lengths: the norm of f32[dim], 1 for zero vectors.
DEVICE float length_of(const float* vector, int dim, double* warp_sums) {
  double sum = 0;
  for (int i = (int)threadIdx.x; i < dim; i += TOP_THREADS)
    sum += (double)vector[i] * (double)vector[i];
  const double norm = sqrt(block_sum(sum, warp_sums));
  return norm > 0 ? (float)fmin(norm, 3.4028234663852886e38) : 1.0f;
}

// Writes one vector to out f32[stride] (zero behind dim) and returns its squared norm there. For
// ip only queries are placed: they get the norm `query_norm`. The whole block calls it.
DEVICE double place_one(const float* vector, int dim, int stride, int metric, const float* centre,
                        float scale, float query_norm, float* out, double* warp_sums) {
  const float length = metric == L2 ? 1.0f : length_of(vector, dim, warp_sums);
  double square = 0;
  for (int i = (int)threadIdx.x; i < stride; i += TOP_THREADS) {
    float x = 0;
    if (i < dim) {
      x = metric == L2 ? vector[i] : __fdiv_rn(vector[i], length);
      x = metric == IP ? __fmul_rn(x, query_norm)
                       : __fmul_rn(__fadd_rn(x, -centre[i]), scale);
    }
    out[i] = x;
    square += (double)x * (double)x;
  }
  return block_sum(square, warp_sums);
}
