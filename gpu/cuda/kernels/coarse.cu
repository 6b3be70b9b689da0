// Which lists a query probes, nearest first, and what the list scan must know about them.
#include "lists.cuh"
#include "place.cuh"

constexpr int LISTS_TOGETHER = 4;  // of a warp: their loads are in flight at the same time
constexpr int ROTATED_TOGETHER = WARP;  // outputs of a block that rotates

// Half the squared distances (minus products for ip) of the query to LISTS_TOGETHER centroids.
DEVICE void score_lists(const float* query, const float* centroids, int stride, int metric,
                        const int (&lists)[LISTS_TOGETHER], float (&scores)[LISTS_TOGETHER]) {
  float sums[LISTS_TOGETHER] = {};
  for (int i = lane_id(); i < stride / 4; i += WARP) {
    const float4 q = ((const float4*)query)[i];
#pragma unroll
    for (int u = 0; u < LISTS_TOGETHER; u++) {
      float4 c = ((const float4*)(centroids + (i64)lists[u] * stride))[i];
      if (metric == IP) {
        sums[u] = fmaf(q.x, c.x, fmaf(q.y, c.y, fmaf(q.z, c.z, fmaf(q.w, c.w, sums[u]))));
      } else {
        c.x -= q.x, c.y -= q.y, c.z -= q.z, c.w -= q.w;
        sums[u] = fmaf(c.x, c.x, fmaf(c.y, c.y, fmaf(c.z, c.z, fmaf(c.w, c.w, sums[u]))));
      }
    }
  }
#pragma unroll
  for (int u = 0; u < LISTS_TOGETHER; u++) {
    const float sum = warp_sum(sums[u]);
    scores[u] = metric == IP ? 0.0f - sum : 0.5f * sum;
  }
}

// One block's share of a rotation: outputs [first, first + 32) of query f32[dim] times
// rotation f32[dim, stride].
DEVICE void rotate_part(const float* query, int dim, const float* rotation, int stride, int first,
                        float* out, float* partial /* [TOP_THREADS], shared */) {
  const int column = first + lane_id();
  float sum = 0;
  if (column < stride)
    for (int i = warp_id(); i < dim; i += TOP_WARPS)
      sum = fmaf(query[i], rotation[(i64)i * stride + column], sum);
  partial[threadIdx.x] = sum;
  __syncthreads();
  if (warp_id() == 0 && column < stride) {
    sum = 0;
    for (int w = 0; w < TOP_WARPS; w++) sum += partial[WARP * w + lane_id()];
    out[column] = sum;
  }
}

// Few queries in one launch: places, rotates, scores all lists, picks nprobe <= 1,024 of them and
// writes spans. Grid: list blocks, then rotating blocks; queries. Dynamic shared memory: the query
// f32[plain_stride], keys u64[capacity]. arrived u32[q], 0 before and after.
// Three blocks on an SM: for more the compiler would spill registers; so in choose and rewrite.
KERNEL __launch_bounds__(TOP_THREADS, 3)
coarse_few(const float* __restrict__ queries, int dim, int metric,
           const float* __restrict__ centre, float scale, float query_norm, float farthest,
           const float* __restrict__ rotation, int stride,
           const float* __restrict__ plain_centroids, int plain_stride, int nlist,
           int lists_a_block, int list_blocks, int nprobe, int capacity, int length,
           const int* __restrict__ starts, const int* __restrict__ lengths,
           const float* __restrict__ bias_mean, const float* __restrict__ bias_unit,
           const float* __restrict__ sigma, u64* runs, u32* arrived, float* placed, int* near,
           int* probes, float* constants, int4* spans, float4* factors, u32* largest, u32* reach,
           u32* scan_arrived) {
  __shared__ Top top;
  __shared__ double sums[TOP_WARPS];
  __shared__ float partial[TOP_THREADS];
  DYNAMIC_SHARED(float, query);
  u64* keys = (u64*)(query + plain_stride);
  const i64 number = blockIdx.y;
  const int block = (int)blockIdx.x;
  const double square = place_one(queries + number * dim, dim, plain_stride, metric, centre,
                                  scale, query_norm, query, sums);
  const bool is_near = sqrt(square) <= (double)farthest;
  if (!is_near)
    for (int i = (int)threadIdx.x; i < plain_stride; i += TOP_THREADS) query[i] = 0;
  top_begin(top);
  if (block >= list_blocks) {
    const int first = (block - list_blocks) * ROTATED_TOGETHER;
    rotate_part(query, dim, rotation, stride, first, placed + number * stride, partial);
    return;
  }
  if (block == 0) {
    if (!rotation)
      for (int i = (int)threadIdx.x; i < stride; i += TOP_THREADS)
        placed[number * stride + i] = query[i];
    if (threadIdx.x == 0) near[number] = is_near;
  }
  const int first = block * lists_a_block, end = min(first + lists_a_block, nlist);
  for (int base = first; base < end; base += TOP_WARPS * LISTS_TOGETHER) {
    int lists[LISTS_TOGETHER];
    float scores[LISTS_TOGETHER];
    const int own = base + warp_id() * LISTS_TOGETHER;
#pragma unroll
    for (int u = 0; u < LISTS_TOGETHER; u++) lists[u] = min(own + u, end - 1);
    score_lists(query, plain_centroids, plain_stride, metric, lists, scores);
    float score = scores[0];
#pragma unroll
    for (int u = 1; u < LISTS_TOGETHER; u++)
      if (lane_id() == u) score = scores[u];
    const int list = own + lane_id();
    const u64 key = key_of(score, list);
    const bool wanted = lane_id() < LISTS_TOGETHER && list < end && key <= top.limit;
    if (__syncthreads_or(top_push(top, keys, capacity, wanted, key)))
      top_shrink(top, keys, nprobe);
  }
  u64* query_runs = runs + number * list_blocks * length;
  if (!top_merge(top, keys, capacity, nprobe, query_runs, length, block, list_blocks,
                 &arrived[number]))
    return;
  int* chosen = probes + number * nprobe;
  float* values = constants + number * nprobe;
  for (int i = (int)threadIdx.x; i < nprobe; i += TOP_THREADS) {
    chosen[i] = id_of(keys[i]);
    values[i] = value_of(keys[i]);
  }
  __syncthreads();
  begin_query(chosen, values, nprobe, is_near, starts, lengths, bias_mean, bias_unit, sigma,
              spans + number * (nprobe + 1), factors + number * nprobe, &largest[number],
              &reach[number], &scan_arrived[number], (int*)partial);
}

// The nprobe best of scores f32[q, nlist], in order; their constants are computed anew from
// differences, because the products that chose them may have cancelled. Grid: queries. Dynamic
// shared memory: keys u64[capacity].
KERNEL __launch_bounds__(TOP_THREADS, 3)
choose(const float* __restrict__ scores, int nlist, int nprobe, int capacity,
       const float* __restrict__ placed, const float* __restrict__ centroids, int stride,
       int metric, int* __restrict__ probes, float* __restrict__ constants) {
  __shared__ Top top;
  DYNAMIC_SHARED(u64, keys);
  const i64 number = blockIdx.x;
  top_begin(top);
  for (int base = 0; base < nlist; base += TOP_STEP) {
    bool full = false;
#pragma unroll
    for (int u = 0; u < 2; u++) {
      const int list = base + u * TOP_THREADS + (int)threadIdx.x;
      const u64 key = list < nlist ? key_of(scores[number * nlist + list], list) : NO_KEY;
      full |= top_push(top, keys, capacity, list < nlist && key <= top.limit, key);
    }
    if (__syncthreads_or(full)) top_shrink(top, keys, nprobe);
  }
  __syncthreads();
  top_shrink(top, keys, nprobe);
  for (int base = warp_id() * LISTS_TOGETHER; base < nprobe; base += TOP_WARPS * LISTS_TOGETHER) {
    int lists[LISTS_TOGETHER];
    float values[LISTS_TOGETHER];
#pragma unroll
    for (int u = 0; u < LISTS_TOGETHER; u++) lists[u] = id_of(keys[min(base + u, nprobe - 1)]);
    score_lists(placed + number * stride, centroids, stride, metric, lists, values);
    for (int u = 0; u < LISTS_TOGETHER && base + u < nprobe; u++)
      if (lane_id() == 0) {
        probes[number * nprobe + base + u] = lists[u];
        constants[number * nprobe + base + u] = values[u];
      }
  }
}

// Spans of given probes and constants. Grid: queries.
KERNEL __launch_bounds__(TOP_THREADS)
prepare(const int* probes, const float* constants, int nprobe, const int* __restrict__ near,
        const int* __restrict__ starts, const int* __restrict__ lengths,
        const float* __restrict__ bias_mean, const float* __restrict__ bias_unit,
        const float* __restrict__ sigma, int4* spans, float4* factors, u32* largest, u32* reach,
        u32* arrived) {
  __shared__ int warp_sums[TOP_WARPS];
  const i64 number = blockIdx.x;
  begin_query(probes + number * nprobe, constants + number * nprobe, nprobe, near[number] != 0,
              starts, lengths, bias_mean, bias_unit, sigma, spans + number * (nprobe + 1),
              factors + number * nprobe, &largest[number], &reach[number], &arrived[number],
              warp_sums);
}
