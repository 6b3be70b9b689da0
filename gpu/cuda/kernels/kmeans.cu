// Training: means of groups of vectors. No float atomics, so the same input gives the same output.
#include "compat.cuh"

// sums f64[groups, stride] of points f32[n, stride]: group g has points order[starts[g]] ..
// order[starts[g + 1] - 1], added in that order. A thread a component.
// Grid: groups, ceil(stride / 128).
KERNEL __launch_bounds__(128)
sum_groups(const float* __restrict__ points, int stride, const int* __restrict__ order,
           const int* __restrict__ starts, double* __restrict__ sums) {
  const int group = (int)blockIdx.x, column = (int)(blockIdx.y * blockDim.x + threadIdx.x);
  if (column >= stride) return;
  const int end = starts[group + 1];
  double sum = 0;
  for (int i = starts[group]; i < end; i++) sum += (double)points[(i64)order[i] * stride + column];
  sums[(i64)group * stride + column] = sum;
}

// The next centroids f32[groups, stride]: means, or the old ones of groups without points.
// Grid: ceil(groups * stride / 128).
KERNEL __launch_bounds__(128)
means(const double* __restrict__ sums, const int* __restrict__ starts, int groups, int stride,
      float* __restrict__ centroids) {
  const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= (i64)groups * stride) return;
  const int group = (int)(i / stride), count = starts[group + 1] - starts[group];
  if (count > 0) centroids[i] = (float)(sums[i] / (double)count);
}

constexpr int ROWS_AT_A_TIME = 64;
constexpr int MOST_COMPONENTS = 256 / 16;  // of a block, with 16 codewords

// Sums f64[parts, m, width, K] and counts i32[parts, m, K] of the pieces of residuals
// f32[n, stride] by their codes u8[n, m]; part p has rows [p * rows, (p + 1) * rows). A thread a
// (component, codeword) looks at all rows of its part in order: codes and pieces come by shared
// memory, and each row is added by the threads of one codeword only.
// Grid: ceil(width * K / 256), m, parts.
KERNEL __launch_bounds__(256)
sum_codewords(const float* __restrict__ residuals, int n, int stride, const u8* __restrict__ codes,
              int m, int width, int bits, int rows, double* __restrict__ sums,
              int* __restrict__ counts) {
  __shared__ float pieces[ROWS_AT_A_TIME * MOST_COMPONENTS];
  __shared__ int own_codes[ROWS_AT_A_TIME];
  const int lowest = (int)(blockIdx.x * blockDim.x) >> bits;  // component of this block
  const int span = min((int)blockDim.x >> bits, width - lowest);
  const int entry = (int)(blockIdx.x * blockDim.x + threadIdx.x), j = (int)blockIdx.y;
  const int component = entry >> bits, word = entry & ((1 << bits) - 1);
  const int first = (int)blockIdx.z * rows, end = min(first + rows, n);
  double sum = 0;
  int count = 0;
  for (int base = first; base < end; base += ROWS_AT_A_TIME) {
    const int there = min(ROWS_AT_A_TIME, end - base);
    __syncthreads();
    for (int i = (int)threadIdx.x; i < there * span; i += (int)blockDim.x)
      pieces[i] = residuals[(i64)(base + i / span) * stride + (i64)j * width + lowest + i % span];
    for (int i = (int)threadIdx.x; i < there; i += (int)blockDim.x)
      own_codes[i] = codes[(i64)(base + i) * m + j];
    __syncthreads();
    if (component < width)
      for (int i = 0; i < there; i++)
        if (own_codes[i] == word) {
          sum += (double)pieces[i * span + component - lowest];
          count++;
        }
  }
  if (component >= width) return;
  const i64 part = (i64)blockIdx.z * m + j;
  sums[(part * width << bits) + entry] = sum;
  if (component == 0) counts[(part << bits) + word] = count;
}
