// Training: sums of vectors by group, and of pieces by codeword. In float64, in the order of the
// rows and without float atomics, so the same input gives the same output.
#include "topk.cuh"

// Which points are whose, and in which order they are added: four kernels sort points by group and
// leave those of a group in their order. Points are cut into parts of `rows`.

// members i32[parts, groups]: how many points of each part each group has. groups_of i32[n].
// Grid: parts.
KERNEL __launch_bounds__(TOP_THREADS)
count_members(const int* __restrict__ groups_of, int n, int rows, int groups, int* members) {
  int* own = members + (i64)blockIdx.x * groups;
  for (int g = (int)threadIdx.x; g < groups; g += TOP_THREADS) own[g] = 0;
  __syncthreads();
  const int first = (int)blockIdx.x * rows, end = min(first + rows, n);
#pragma unroll 1
  for (int i = first + (int)threadIdx.x; i < end; i += TOP_THREADS)
    atomicAdd(&own[groups_of[i]], 1);
}

// Turns members into how many points of the parts before each part the group has, and writes sizes
// i32[groups]. Grid: ceil(groups / TOP_THREADS).
KERNEL __launch_bounds__(TOP_THREADS)
sum_members(int parts, int groups, int* __restrict__ members, int* __restrict__ sizes) {
  const int g = (int)(blockIdx.x * TOP_THREADS + threadIdx.x);
  if (g >= groups) return;
  int before = 0;
  for (int p = 0; p < parts; p++) {
    const int here = members[(i64)p * groups + g];
    members[(i64)p * groups + g] = before;
    before += here;
  }
  sizes[g] = before;
}

// starts i32[groups + 1]: where each group begins among all points in order. One block.
KERNEL __launch_bounds__(TOP_THREADS)
start_groups(int groups, const int* __restrict__ sizes, int* __restrict__ starts) {
  __shared__ int warp_sums[TOP_WARPS];
  int before = 0;
  for (int base = 0; base < groups; base += TOP_THREADS) {
    const int g = base + (int)threadIdx.x;
    int total;
    const int start = before + block_prefix(g < groups ? sizes[g] : 0, warp_sums, total);
    if (g < groups) starts[g] = start;
    before += total;
  }
  if (threadIdx.x == 0) starts[groups] = before;
}

// order i32[n]: the points of each group from its start on. A warp a part, which goes through its
// points in turn and counts in `members`. Grid: parts; 32 threads.
KERNEL __launch_bounds__(WARP)
order_members(const int* __restrict__ groups_of, int n, int rows, int groups, int* members,
              const int* __restrict__ starts, int* __restrict__ order) {
  int* own = members + (i64)blockIdx.x * groups;
  const int first = (int)blockIdx.x * rows, end = min(first + rows, n);
  const u32 below = (1u << lane_id()) - 1u;
  for (int base = first; base < end; base += WARP) {
    const int i = base + lane_id();
    const int group = i < end ? groups_of[i] : -1;
    const u32 same = __match_any_sync(FULL_WARP, group);
    const int before = group < 0 ? 0 : own[group];
    if (group >= 0) order[starts[group] + before + __popc(same & below)] = i;
    __syncwarp();
    if (group >= 0 && (same & below) == 0) own[group] = before + __popc(same);
    __syncwarp();
  }
}

// Adds to sums f64[groups, stride] the points f32[n, stride] of each group: order[starts[g]] ..
// order[starts[g + 1] - 1], in that order. A thread a component. Grid: groups, ceil(stride / 128).
KERNEL __launch_bounds__(128)
sum_groups(const float* __restrict__ points, int stride, const int* __restrict__ order,
           const int* __restrict__ starts, double* __restrict__ sums) {
  const int group = (int)blockIdx.x, column = (int)(blockIdx.y * blockDim.x + threadIdx.x);
  if (column >= stride) return;
  const int first = starts[group], end = starts[group + 1];
  if (first == end) return;
  double sum = sums[(i64)group * stride + column];
  for (int i = first; i < end; i++) sum += (double)points[(i64)order[i] * stride + column];
  sums[(i64)group * stride + column] = sum;
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

// Adds the parts, in order, to totals f64[m, K, width] and total_counts i64[m, K].
// Grid: ceil(m * width * K / 256).
KERNEL __launch_bounds__(256)
add_parts(const double* __restrict__ sums, const int* __restrict__ counts, int parts, int m,
          int width, int bits, double* __restrict__ totals, i64* __restrict__ total_counts) {
  const i64 size = (i64)m * width << bits, i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= size) return;
  const i64 piece = i >> bits, word = i & ((1 << bits) - 1);  // of [m, width, K]
  const i64 j = piece / width, component = piece % width, entry = (j << bits) + word;
  double sum = totals[entry * width + component];
  for (int p = 0; p < parts; p++) sum += sums[p * size + i];
  totals[entry * width + component] = sum;
  if (component != 0) return;
  i64 count = total_counts[entry];
  for (int p = 0; p < parts; p++) count += counts[((i64)p * m << bits) + entry];
  total_counts[entry] = count;
}
