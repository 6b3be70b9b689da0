// Exact distances of candidate rows, and the k nearest of them: a warp reads a row at a time from
// device or pinned host memory. The last block of a query sorts.
#include "rows.cuh"

// candidates i64[q, r], -1 for none; distances f32[q, r], +inf there. Grid: blocks, queries.
template <class T>
TEMPLATE_KERNEL __launch_bounds__(TOP_THREADS, 3)
distances(const float* __restrict__ queries, const u64* __restrict__ chunks, int shift,
          i64 stride_bytes, int dim, int metric, const i64* __restrict__ candidates, int r,
          float* __restrict__ out) {
  const i64 number = blockIdx.y;
  const Rows rows = {chunks, shift, stride_bytes, dim};
  const float* query = queries + number * dim;
  const double query_square = metric == COSINE ? square_of(query, dim) : 0;
  for (int i = (int)blockIdx.x * TOP_WARPS + warp_id(); i < r; i += (int)gridDim.x * TOP_WARPS) {
    const i64 row = candidates[number * r + i];
    float distance = positive_infinity();
    if (row >= 0)
      distance = exact_distance<T>(rows.at((int)row), query, dim, metric, query_square);
    if (lane_id() == 0) out[number * r + i] = distance;
  }
}

// ids i64[q, k] of the k <= r <= 1,024 nearest candidates, nearest first, -1 for none, and their
// distances. keys u64[q, r]; arrived u32[q], 0 before and after. Grid: blocks, queries. Dynamic
// shared memory: keys u64[capacity].
template <class T>
TEMPLATE_KERNEL __launch_bounds__(TOP_THREADS, 3)
rerank(const float* __restrict__ queries, const u64* __restrict__ chunks, int shift,
       i64 stride_bytes, int dim, int metric, const i64* __restrict__ candidates, int r, int k,
       int capacity, u64* keys, u32* arrived, i64* __restrict__ ids, float* __restrict__ out) {
  __shared__ Top top;
  DYNAMIC_SHARED(u64, sorted);
  const i64 number = blockIdx.y;
  const Rows rows = {chunks, shift, stride_bytes, dim};
  const float* query = queries + number * dim;
  const double query_square = metric == COSINE ? square_of(query, dim) : 0;
  u64* own = keys + number * r;
  for (int i = (int)blockIdx.x * TOP_WARPS + warp_id(); i < r; i += (int)gridDim.x * TOP_WARPS) {
    const i64 row = candidates[number * r + i];
    u64 key = NO_KEY;
    if (row >= 0)
      key = distance_key(exact_distance<T>(rows.at((int)row), query, dim, metric, query_square),
                         (int)row);
    if (lane_id() == 0) own[i] = key;
  }
  top_begin(top);
  if (!last_to_arrive(top, &arrived[number], (int)gridDim.x)) return;
  for (int i = (int)threadIdx.x; i < r; i += TOP_THREADS) sorted[i] = own[i];
  if (threadIdx.x == 0) top.count = r;
  __syncthreads();
  top_shrink(top, sorted, k);
  for (int i = (int)threadIdx.x; i < k; i += TOP_THREADS) {
    const u64 key = i < top.count ? sorted[i] : NO_KEY;
    ids[number * k + i] = id_of(key);
    out[number * k + i] = value_of(key);
  }
}
