// Exact search: the k nearest of a range of rows, or of given rows, under a bitmap.
//
// A warp reads a row and compares it with TOGETHER queries at once, in float32, with a bound on the
// error; only where that leaves a chance to be among the k nearest is the distance computed in
// float64 (the idea of exact.py). The answer is that of a loop over all pairs, ties by row id.
#include "lists.cuh"
#include "rows.cuh"

constexpr int ROWS_A_STEP = 8;  // of a warp, between two waits of the block

// Sums over a lane's components for one query.
struct Sums {
  float first;   // (x - q)^2, or x q
  float square;  // x^2, not for l2
};

// A lower bound of the distance in the terms of its metric, or -inf where float32 cannot tell.
// A sum of n products errs by at most n u times the sum of their sizes (Higham 2002, section 3.1):
// a lane adds dim / 32 of them, five shuffles the rest; u = 2^-24, doubled to be safe.
DEVICE float lower_bound(Sums sums, int metric, float query_norm, int dim) {
  const float slack = 2.0f * 5.9604645e-8f * (float)(dim / WARP + 16);
  const bool safe = metric == L2 ? sums.first > 1e-30f && sums.first < 1e30f
                                 : sums.square > 1e-30f && sums.square < 1e30f &&
                                       query_norm > 1e-15f && query_norm < 1e15f;
  if (!safe) return -positive_infinity();
  if (metric == L2) return sqrtf(sums.first * (1.0f - slack)) * (1.0f - 1e-6f);
  const float size = sqrtf(sums.square) * query_norm * (1.0f + slack);
  if (metric == IP) return -sums.first - slack * size;
  return 1.0f - sums.first / size - 2.0f * slack - 1e-6f;
}

// This lane's sums of one row with all queries: the row is read once.
template <class T, int QUERIES>
DEVICE void sum_up(const u8* row, const float* queries, int together, int dim, int metric,
                   Sums (&sums)[QUERIES]) {
  constexpr int WIDE = 16 / (int)sizeof(T);
  const auto add = [&](int i, float x) {
#pragma unroll
    for (int u = 0; u < QUERIES; u++) {
      const float q = queries[(i64)(u < together ? u : 0) * dim + i];
      if (metric == L2) {
        sums[u].first = fmaf(x - q, x - q, sums[u].first);
      } else {
        sums[u].first = fmaf(x, q, sums[u].first);
        sums[u].square = fmaf(x, x, sums[u].square);
      }
    }
  };
  int done = 0;
  if (is_wide(row, row)) {
    done = dim / WIDE * WIDE;
    for (int i = lane_id(); i < done / WIDE; i += WARP) {
      const uint4 bits = load_streaming((const uint4*)row + i);  // @streamed-row
      const u32 words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
      for (int j = 0; j < WIDE; j++) {
        if (sizeof(T) == 4) {
          add(i * WIDE + j, __uint_as_float(words[j & 3]));
        } else {
          const __half2 two = as_half2(words[j >> 1 & 3]);
          add(i * WIDE + j, j & 1 ? __high2float(two) : __low2float(two));
        }
      }
    }
  }
  for (int i = done + lane_id(); i < dim; i += WARP) add(i, component(row, i, (const T*)0));
}

// rows: first .. first + n - 1, or ids i32[n] where that is not null. undefined cosines are no hits.
// Grid: blocks, ceil(queries / QUERIES). Dynamic shared memory: keys u64[QUERIES, capacity].
// runs u64[q, blocks, k], arrived u32[q]: 0 before and after. ids i64[q, k] and distances f32[q, k].
template <class T, int QUERIES>
TEMPLATE_KERNEL __launch_bounds__(TOP_THREADS, 2)
exact(const float* __restrict__ queries, int n_queries, const u64* __restrict__ chunks, int shift,
      i64 stride_bytes, int dim, int metric, int first, int n, const int* __restrict__ ids,
      const u32* __restrict__ allowed, int k, int capacity, u64* runs, u32* arrived,
      i64* __restrict__ out_ids, float* __restrict__ out) {
  __shared__ Top tops[QUERIES];
  __shared__ double squares[QUERIES];
  DYNAMIC_SHARED(u64, keys);
  const Rows rows = {chunks, shift, stride_bytes, dim};
  const int base = (int)blockIdx.y * QUERIES;
  const int together = min(QUERIES, n_queries - base);
  const float* asked = queries + (i64)base * dim;
  if (warp_id() < together) {
    const double square = square_of(asked + (i64)warp_id() * dim, dim);
    if (lane_id() == 0) squares[warp_id()] = square;
  }
  for (int u = 0; u < QUERIES; u++) top_begin(tops[u]);
  const int step = TOP_WARPS * ROWS_A_STEP, blocks = (int)gridDim.x;
  for (i64 start = (i64)blockIdx.x * step; start < n; start += (i64)blocks * step) {
    bool full = false;
    for (int i = 0; i < ROWS_A_STEP; i++) {
      const i64 place = start + i * TOP_WARPS + warp_id();
      if (place >= n) break;
      const int row = ids ? ids[place] : first + (int)place;
      if (allowed && !bit_at(allowed, row)) continue;
      const u8* at = rows.at(row);
      Sums sums[QUERIES] = {};
      sum_up<T, QUERIES>(at, asked, together, dim, metric, sums);
#pragma unroll
      for (int u = 0; u < QUERIES; u++) {
        if (u >= together) break;
        const float norm = (float)sqrt(squares[u]);
        const Sums whole = {warp_sum(sums[u].first), warp_sum(sums[u].square)};
        const u64 limit = tops[u].limit;
        const float farthest = limit == NO_KEY ? positive_infinity() : value_of(limit);
        if (lower_bound(whole, metric, norm, dim) > farthest) continue;
        if (metric == COSINE && !(squares[u] > 0)) continue;
        const float distance = exact_distance<T>(at, asked + (i64)u * dim, dim, metric, squares[u]);
        const u64 key = distance_key(distance, row);
        const bool defined = metric != COSINE || distance == distance;
        const bool wanted = lane_id() == 0 && defined && key <= limit;
        full |= top_push(tops[u], keys + u * capacity, capacity, wanted, key);
      }
    }
    if (__syncthreads_or(full))
      for (int u = 0; u < QUERIES; u++) top_shrink(tops[u], keys + u * capacity, k);
  }
  for (int u = 0; u < together; u++) {
    const i64 number = base + u;
    u64* own = keys + u * capacity;
    if (!top_merge(tops[u], own, capacity, k, runs + number * blocks * k, k, (int)blockIdx.x,
                   blocks, &arrived[number]))
      continue;
    for (int i = (int)threadIdx.x; i < k; i += TOP_THREADS) {
      const u64 key = i < tops[u].count ? own[i] : NO_KEY;
      out_ids[number * k + i] = id_of(key);
      out[number * k + i] = value_of(key);
    }
  }
}
