// Placed rows to codes, biases and gains: encoding.py's formulas, all in float32.
#include "topk.cuh"

constexpr int WORDS_TOGETHER = 16;  // codewords whose sums a thread holds

// residuals f32[n, stride] = (rows - centroid) / sigma of each row's list. Grid-stride over floats.
KERNEL __launch_bounds__(256)
residuals(const float* __restrict__ rows, int n, int stride, const int* __restrict__ lists,
          const float* __restrict__ centroids, const float* __restrict__ sigma,
          float* __restrict__ out) {
  const i64 items = (i64)n * stride, step = (i64)gridDim.x * blockDim.x;
  for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < items; i += step) {
    const int list = lists[i / stride];
    out[i] = __fdiv_rn(rows[i] - centroids[(i64)list * stride + i % stride], sigma[list]);
  }
}

// codes u8[n, m]: the nearest codewords of residuals f32[n, stride]; the smaller number wins a tie.
// books f32[m, width, K]. A thread a row, all threads of a block one sub-quantizer: codewords come
// as broadcasts. Grid: ceil(n / 256), m.
KERNEL __launch_bounds__(256)
encode(const float* __restrict__ residuals, int n, int stride, const float* __restrict__ books,
       int m, int width, int bits, u8* __restrict__ codes) {
  const int row = (int)(blockIdx.x * blockDim.x + threadIdx.x), j = (int)blockIdx.y;
  if (row >= n) return;
  const float* piece = residuals + (i64)row * stride + (i64)j * width;
  const float* words = books + ((i64)j * width << bits);
  float best = positive_infinity();
  int code = 0;
  for (int first = 0; first < 1 << bits; first += WORDS_TOGETHER) {
    float products[WORDS_TOGETHER] = {}, squares[WORDS_TOGETHER] = {};
    for (int t = 0; t < width; t++) {
      const float x = piece[t];
      const float4* at = (const float4*)(words + ((i64)t << bits) + first);
#pragma unroll
      for (int f = 0; f < WORDS_TOGETHER / 4; f++) {
        const float4 four = at[f];
        const float w[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
          products[4 * f + i] = fmaf(x, w[i], products[4 * f + i]);
          squares[4 * f + i] = fmaf(w[i], w[i], squares[4 * f + i]);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < WORDS_TOGETHER; i++) {
      const float score = 0.5f * squares[i] - products[i];
      if (score < best) {
        best = score;
        code = first + i;
      }
    }
  }
  codes[(i64)row * m + j] = (u8)code;
}


DEVICE float finite_or_zero(float x) {  // numpy.nan_to_num
  if (x != x) return 0.0f;
  return fminf(fmaxf(x, -3.402823466e38f), 3.402823466e38f);
}

// bias and gain f16[n], fits i32[n] (whether lists can hold the row), squares f32[n] = |r|^2 in
// placed units. A warp a row. Grid: ceil(n / 8).
KERNEL __launch_bounds__(256)
factors(const float* __restrict__ rows, const float* __restrict__ residuals, int n, int stride,
        const int* __restrict__ lists, const u8* __restrict__ codes, const float* __restrict__ books,
        int m, int width, int bits, const float* __restrict__ centroids,
        const float* __restrict__ sigma, const float* __restrict__ bias_mean,
        const float* __restrict__ bias_unit, int dim, int is_ip, int use_gain,
        float largest_residual, float zero_residual, float smallest_gain, float largest_gain,
        float largest_half, f16* __restrict__ bias, f16* __restrict__ gain,
        int* __restrict__ fits, float* __restrict__ squares) {
  const int row = (int)blockIdx.x * TOP_WARPS + warp_id();
  if (row >= n) return;
  const int list = lists[row];
  const float* centroid = centroids + (i64)list * stride;
  const float* residual = residuals + (i64)row * stride;
  float rr = 0, ss = 0, rs = 0, cr = 0, cs = 0;
  bool finite = true;
  for (int i = lane_id(); i < m * width; i += WARP) {
    const int j = i / width, t = i - j * width;
    const int code = codes[(i64)row * m + j];
    const float r = residual[i], c = centroid[i];
    const float s = books[(((i64)j * width + t) << bits) + code];
    finite &= fabsf(rows[(i64)row * stride + i]) <= 3.402823466e38f;
    rr = fmaf(r, r, rr), ss = fmaf(s, s, ss), rs = fmaf(r, s, rs);
    cr = fmaf(c, r, cr), cs = fmaf(c, s, cs);
  }
  finite = __all_sync(FULL_WARP, finite);
  rr = warp_sum(rr), ss = warp_sum(ss), rs = warp_sum(rs);
  cr = warp_sum(cr), cs = warp_sum(cs);
  if (lane_id() != 0) return;
  const float unit = sigma[list];
  float g = 1.0f, b;
  if (use_gain) {
    g = rs > 0.001f * rr ? __fdiv_rn(rr, rs) : 1.0f;
    g = fminf(fmaxf(g, smallest_gain), largest_gain);
    if (rr <= (float)dim * zero_residual * zero_residual) g = 0.0f;
    g = __half2float(__float2half_rn(g));
    b = is_ip ? unit * (g * cs - cr) : unit * (unit * rr * 0.5f + g * cs);
  } else {
    b = is_ip ? 0.0f : unit * (unit * ss * 0.5f + cs);
  }
  const float relative = __fdiv_rn(finite_or_zero(b) - bias_mean[list], bias_unit[list]);
  bias[row] = __float2half_rn(fminf(fmaxf(relative, -largest_half), largest_half));
  gain[row] = __float2half_rn(g);
  fits[row] = finite && sqrtf(rr / (float)dim) <= largest_residual;
  squares[row] = rr * unit * unit;
}
