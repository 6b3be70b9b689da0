// Products of many vectors with many: rotations, scores of lists, nearest centroids. Tiles of 64 by
// 64 in float32: 256 threads hold 4 by 4 sums each and read their factors from shared memory.
#include "topk.cuh"

constexpr int TILE = 64, DEPTH = 16, SIDE = 4;
// Threads of a warp store to different banks, and rows stay aligned to float4.
constexpr int TILE_PITCH = TILE + 4;

struct Tiles {
  float a[DEPTH][TILE_PITCH];
  float b[DEPTH][TILE_PITCH];
};

// Loads a 64 x 16 piece of f32[rows, stride] transposed; zero outside of [rows, depth].
DEVICE void load_rows(float (&tile)[DEPTH][TILE_PITCH], const float* from, i64 stride, int first,
                      int rows, int k, int depth) {
  for (int i = (int)threadIdx.x; i < TILE * DEPTH; i += TOP_THREADS) {
    const int row = i / DEPTH, column = i % DEPTH;
    const bool inside = first + row < rows && k + column < depth;
    tile[column][row] = inside ? from[(i64)(first + row) * stride + k + column] : 0.0f;
  }
}

// Loads a 16 x 64 piece of f32[depth, stride] as it lies.
DEVICE void load_columns(float (&tile)[DEPTH][TILE_PITCH], const float* from, i64 stride,
                         int first, int columns, int k, int depth) {
  for (int i = (int)threadIdx.x; i < TILE * DEPTH; i += TOP_THREADS) {
    const int row = i / TILE, column = i % TILE;
    const bool inside = first + column < columns && k + row < depth;
    tile[row][column] = inside ? from[(i64)(k + row) * stride + first + column] : 0.0f;
  }
}

// sums[i][j] += a[row i] . b[row j] for this thread's 4 rows of both tiles.
DEVICE void multiply(const Tiles& tiles, float (&sums)[SIDE][SIDE]) {
  const int x = (int)threadIdx.x % (TILE / SIDE) * SIDE, y = (int)threadIdx.x / (TILE / SIDE) * SIDE;
#pragma unroll
  for (int k = 0; k < DEPTH; k++) {
    const float4 a = *(const float4*)&tiles.a[k][y], b = *(const float4*)&tiles.b[k][x];
    const float left[SIDE] = {a.x, a.y, a.z, a.w}, right[SIDE] = {b.x, b.y, b.z, b.w};
#pragma unroll
    for (int i = 0; i < SIDE; i++)
#pragma unroll
      for (int j = 0; j < SIDE; j++) sums[i][j] = fmaf(left[i], right[j], sums[i][j]);
  }
}

// out f32[n, out_stride] = a f32[n, depth] times rotation f32[depth, out_stride].
// Grid: ceil(n / 64), ceil(out_stride / 64).
KERNEL __launch_bounds__(TOP_THREADS, 3)
rotate(const float* __restrict__ a, int n, int depth, int a_stride,
       const float* __restrict__ rotation, int out_stride, float* __restrict__ out) {
  __shared__ __align__(16) Tiles tiles;
  const int first = (int)blockIdx.x * TILE, column = (int)blockIdx.y * TILE;
  float sums[SIDE][SIDE] = {};
  for (int k = 0; k < depth; k += DEPTH) {
    load_rows(tiles.a, a, a_stride, first, n, k, depth);
    load_columns(tiles.b, rotation, out_stride, column, out_stride, k, depth);
    __syncthreads();
    multiply(tiles, sums);
    __syncthreads();
  }
  const int x = column + (int)threadIdx.x % (TILE / SIDE) * SIDE;
  const int y = first + (int)threadIdx.x / (TILE / SIDE) * SIDE;
#pragma unroll
  for (int i = 0; i < SIDE; i++)
#pragma unroll
    for (int j = 0; j < SIDE; j++)
      if (y + i < n && x + j < out_stride) out[(i64)(y + i) * out_stride + x + j] = sums[i][j];
}

// halves f32[n] = |v|^2 / 2 of f32[n, stride], a warp each. Grid: ceil(n / TOP_WARPS).
KERNEL __launch_bounds__(TOP_THREADS)
half_squares(const float* __restrict__ vectors, int n, int stride, float* __restrict__ halves) {
  const int row = (int)blockIdx.x * TOP_WARPS + warp_id();
  if (row >= n) return;
  float sum = 0;
  for (int i = lane_id(); i < stride; i += WARP) {
    const float x = vectors[(i64)row * stride + i];
    sum = fmaf(x, x, sum);
  }
  sum = warp_sum(sum);
  if (lane_id() == 0) halves[row] = 0.5f * sum;
}

// scores f32[n, nlist] = halves[list] - a . centroid; halves may be null (ip).
// Grid: ceil(n / 64), ceil(nlist / 64).
KERNEL __launch_bounds__(TOP_THREADS)
list_scores(const float* __restrict__ a, int n, int stride, const float* __restrict__ centroids,
            int nlist, const float* __restrict__ halves, float* __restrict__ scores) {
  __shared__ __align__(16) Tiles tiles;
  const int first = (int)blockIdx.x * TILE, list = (int)blockIdx.y * TILE;
  float sums[SIDE][SIDE] = {};
  for (int k = 0; k < stride; k += DEPTH) {
    load_rows(tiles.a, a, stride, first, n, k, stride);
    load_rows(tiles.b, centroids, stride, list, nlist, k, stride);
    __syncthreads();
    multiply(tiles, sums);
    __syncthreads();
  }
  const int x = list + (int)threadIdx.x % (TILE / SIDE) * SIDE;
  const int y = first + (int)threadIdx.x / (TILE / SIDE) * SIDE;
#pragma unroll
  for (int i = 0; i < SIDE; i++)
#pragma unroll
    for (int j = 0; j < SIDE; j++)
      if (y + i < n && x + j < nlist)
        scores[(i64)(y + i) * nlist + x + j] = (halves ? halves[x + j] : 0.0f) - sums[i][j];
}

// The nearest centroid of each point and half its squared distance; the smaller number wins a tie.
// points f32[n, stride], centroids f32[nlist, stride], halves f32[nlist]. Grid: ceil(n / 64).
KERNEL __launch_bounds__(TOP_THREADS)
nearest(const float* __restrict__ points, int n, int stride,
        const float* __restrict__ centroids, int nlist, const float* __restrict__ halves,
        int* __restrict__ numbers, float* __restrict__ values) {
  __shared__ __align__(16) Tiles tiles;
  __shared__ u64 best[TILE];
  const int first = (int)blockIdx.x * TILE;
  const int x = (int)threadIdx.x % (TILE / SIDE) * SIDE, y = (int)threadIdx.x / (TILE / SIDE) * SIDE;
  u64 own[SIDE] = {NO_KEY, NO_KEY, NO_KEY, NO_KEY};
  if (threadIdx.x < TILE) best[threadIdx.x] = NO_KEY;
  for (int list = 0; list < nlist; list += TILE) {
    float sums[SIDE][SIDE] = {};
    for (int k = 0; k < stride; k += DEPTH) {
      load_rows(tiles.a, points, stride, first, n, k, stride);
      load_rows(tiles.b, centroids, stride, list, nlist, k, stride);
      __syncthreads();
      multiply(tiles, sums);
      __syncthreads();
    }
#pragma unroll
    for (int j = 0; j < SIDE; j++) {
      const int number = list + x + j;
      if (number >= nlist) break;
      const float half = halves[number];
#pragma unroll
      for (int i = 0; i < SIDE; i++) {
        const u64 key = key_of(half - sums[i][j], number);
        own[i] = key < own[i] ? key : own[i];
      }
    }
  }
#pragma unroll
  for (int i = 0; i < SIDE; i++) atomicMin(&best[y + i], own[i]);
  __syncthreads();
  for (int i = warp_id(); i < TILE && first + i < n; i += TOP_WARPS) {
    float square = 0;
    for (int t = lane_id(); t < stride; t += WARP) {
      const float p = points[(i64)(first + i) * stride + t];
      square = fmaf(p, p, square);
    }
    square = warp_sum(square);
    if (lane_id() == 0) {
      numbers[first + i] = id_of(best[i]);
      values[first + i] = fmaxf(value_of(best[i]) + 0.5f * square, 0.0f);
    }
  }
}

// covariance f64[stride, stride] = the sum of v v^T over the rows of f32[n, stride]; only tiles on
// and above the diagonal, the rest is their mirror. Float sums of SUMMED rows are added up in double,
// so that many rows lose no digits. Grid: ceil(stride / 64), ceil(stride / 64).
constexpr int SUMMED = 256;
KERNEL __launch_bounds__(TOP_THREADS, 2)
covariance(const float* __restrict__ rows, int n, int stride, double* __restrict__ out) {
  __shared__ __align__(16) Tiles tiles;
  const int column = (int)blockIdx.x * TILE, row = (int)blockIdx.y * TILE;
  if (column < row) return;
  double totals[SIDE][SIDE] = {};
  for (int base = 0; base < n; base += SUMMED) {
    const int end = min(base + SUMMED, n);
    float sums[SIDE][SIDE] = {};
    for (int k = base; k < end; k += DEPTH) {
      load_columns(tiles.a, rows, stride, row, stride, k, end);
      load_columns(tiles.b, rows, stride, column, stride, k, end);
      __syncthreads();
      multiply(tiles, sums);
      __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < SIDE; i++)
#pragma unroll
      for (int j = 0; j < SIDE; j++) totals[i][j] += (double)sums[i][j];
  }
  const int x = column + (int)threadIdx.x % (TILE / SIDE) * SIDE;
  const int y = row + (int)threadIdx.x / (TILE / SIDE) * SIDE;
#pragma unroll
  for (int i = 0; i < SIDE; i++)
#pragma unroll
    for (int j = 0; j < SIDE; j++)
      if (y + i < stride && x + j < stride) {
        out[(i64)(y + i) * stride + x + j] = totals[i][j];
        if (column > row) out[(i64)(x + j) * stride + y + i] = totals[i][j];
      }
}
