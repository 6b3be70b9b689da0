// The low-latency list scan: scores and the r best rows in one launch. Work is (query, slice of its
// lists), spread over all SMs.
//
// Blocks of a query take turns at steps of 16 groups of 32 rows, so each sees near and far lists
// alike and all work equally long. Each warp scores two groups at a time, a row a lane: codes come
// by coalesced 16-byte loads, table entries from shared memory. With 4 bits a sub-quantizer's 16
// floats lie in 16 different banks: no conflicts. The last block of a query merges.
#include "table.cuh"

constexpr int TOGETHER = 2;  // groups of a warp
constexpr int STEP_GROUPS = TOP_WARPS * TOGETHER;

// least[c] = a lower bound of the sum of entries of chunks c and later; least[chunks] = 0.
// Each warp takes chunks: 512 entries of 4 bits (lane = sub-quantizer, starting at different
// entries to meet no bank twice) or 4,096 of 8 bits.
template <int BITS, class T>
DEVICE void lower_bounds(const T& table, int chunks, float* least) {
  for (int c = warp_id(); c < chunks; c += TOP_WARPS) {
    float sum;
    if (BITS == 4) {
      float low = positive_infinity();
      const int row = 512 * c + 16 * lane_id();
      for (int k = 0; k < 16; k++) low = fminf(low, table.at(row + ((k + (lane_id() >> 1)) & 15)));
      sum = warp_sum(low);
    } else {
      sum = 0;
      for (int j = 0; j < 16; j++) {
        float low = positive_infinity();
        for (int k = lane_id(); k < 256; k += WARP)
          low = fminf(low, table.at(256 * (16 * c + j) + k));
        sum += warp_min(low);
      }
    }
    if (lane_id() == 0) least[c] = sum;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    float sum = 0;
    least[chunks] = 0;
    for (int c = chunks - 1; c >= 0; c--) {
      sum += least[c];
      least[c] = sum - 1e-5f * fabsf(sum);  // rounding must not make it larger than a true sum
    }
  }
  __syncthreads();
}

// The span that holds group g; `from` is the span of an earlier group. Whole warps call it.
DEVICE int span_of(const int4* spans, int nprobe, int from, int g) {
  while (true) {
    const int i = min(from + 1 + lane_id(), nprobe);
    const int passed = __popc(__ballot_sync(FULL_WARP, spans[i].x <= g && i < nprobe));
    from += passed;
    if (passed < WARP) return from;
  }
}

// Scores of TOGETHER groups; stops at a chunk where nothing can come to `bound` any more.
template <int BITS, class T>
DEVICE bool add_chunks(const T& table, const float* least, const Row (&rows)[TOGETHER], int chunks,
                       float bound, float (&sums)[TOGETHER]) {
  const uint4* from[TOGETHER];
  uint4 next[TOGETHER];
#pragma unroll
  for (int u = 0; u < TOGETHER; u++) {
    from[u] = (const uint4*)rows[u].group + lane_id();
    next[u] = load_streaming(from[u]);  // @codes
  }
  for (int c = 0; c < chunks; c++) {
    uint4 codes[TOGETHER];
#pragma unroll
    for (int u = 0; u < TOGETHER; u++) {
      codes[u] = next[u];
      from[u] += GROUP_ROWS;
      if (c + 1 < chunks) next[u] = load_streaming(from[u]);  // @codes
    }
#pragma unroll
    for (int u = 0; u < TOGETHER; u++) sums[u] = table.add_chunk(c, codes[u], sums[u]);
    bool hopes = false;
#pragma unroll
    for (int u = 0; u < TOGETHER; u++)
      hopes |= !(fmaf(rows[u].gain, sums[u] + least[c + 1], rows[u].base) > bound);
    if (!__any_sync(FULL_WARP, hopes)) return false;
  }
  return true;
}

// spans and factors belong to `stride` probes of each query, of which the first nprobe are scanned.
// only i32[q], or null for all: which queries are. reach u32[q], 0 before: the complement of the
// ordered bits of a score that r rows of some block are within. out: row ids i64[q, r], -1 for
// none, and scores. Grid: blocks, queries. Dynamic shared memory: the table, keys u64[capacity],
// least f32[chunks + 1].
// Four blocks on an SM, 64 registers a thread, leave nothing spilled; the rare tables that do not
// fit into shared memory take 64-bit addresses and more registers.
template <int BITS, class Entry, bool SHARED>
TEMPLATE_KERNEL __launch_bounds__(TOP_THREADS, SHARED ? 4 : 2)
scan_slices(const float* __restrict__ tables, const u32* __restrict__ largest, int rounds,
            const int4* __restrict__ spans, const float4* __restrict__ factors, int nprobe,
            int stride, const u64* __restrict__ pages, int chunks,
            const u32* __restrict__ allowed, const int* __restrict__ only, int r, int capacity,
            u32* reach, u32* arrived, u64* runs, i64* out_ids, float* out_scores) {
  __shared__ Top top;
  DYNAMIC_SHARED(unsigned char, dynamic);
  const int query = (int)blockIdx.y;
  if (only && !only[query]) return;
  Entry* staged = table_room<BITS, Entry, SHARED>(dynamic);
  u64* keys = (u64*)behind_table<BITS, Entry, SHARED>(staged, chunks);
  float* least = (float*)(keys + capacity);
  const float* raw = tables + (i64)query * (BITS == 4 ? 512 : 4096) * chunks;
  const float unit = table_unit(largest[query], rounds != 0);
  stage_table<BITS, Entry, SHARED>(raw, unit, rounds, chunks, staged);
  top_begin(top);
  const Table<BITS, Entry, SHARED> table(raw, staged, unit, rounds != 0);
  lower_bounds<BITS>(table, chunks, least);

  const int4* mine = spans + (i64)query * (stride + 1);
  const float4* my_factors = factors + (i64)query * stride;
  const int groups = mine[nprobe].x;
  int span = 0;
  for (int step = (int)blockIdx.x; step * STEP_GROUPS < groups; step += (int)gridDim.x) {
    const int g = step * STEP_GROUPS + warp_id() * TOGETHER;
    bool full = false;
    if (g < groups) {
      const float known = from_ordered_bits(~load_relaxed(&reach[query]));
      const u64 limit = top.limit;
      const float bound = fminf(value_of(limit), known == known ? known : positive_infinity());
      Row rows[TOGETHER];
      bool exists[TOGETHER];
#pragma unroll
      for (int u = 0; u < TOGETHER; u++) {
        const int here = min(g + u, groups - 1);
        span = span_of(mine, nprobe, span, here);
        const int4 where = mine[span];
        const int slot = (here - where.x) * GROUP_ROWS;
        const u8* group = group_of(pages, where.y, slot, chunks);
        rows[u] = row_at(group, lane_id(), my_factors[span], chunks, unit);
        exists[u] = slot + lane_id() < where.z && g + u < groups;
      }
      float sums[TOGETHER] = {};
      if (add_chunks<BITS>(table, least, rows, chunks, bound, sums)) {
#pragma unroll
        for (int u = 0; u < TOGETHER; u++) {
          const float score = rows[u].score(sums[u]);
          bool wanted = exists[u] && !(score > bound);
          u64 key = NO_KEY;
          if (wanted) {
            const int id = row_id_of(rows[u], chunks, lane_id());
            key = key_of(score, id);
            wanted = key <= limit && bit_at(allowed, id);
          }
          full |= top_push(top, keys, capacity, wanted, key);
        }
      }
    }
    if (__syncthreads_or(full)) {
      top_shrink(top, keys, r);
      if (threadIdx.x == 0) atomicMax(&reach[query], ~(u32)(top.limit >> 32));
    }
  }
  u64* query_runs = runs + (i64)query * gridDim.x * r;
  if (!top_merge(top, keys, capacity, r, query_runs, r, (int)blockIdx.x, (int)gridDim.x,
                 &arrived[query]))
    return;
  for (int i = (int)threadIdx.x; i < r; i += TOP_THREADS) {
    const u64 key = i < top.count ? keys[i] : NO_KEY;
    out_ids[(i64)query * r + i] = key == NO_KEY ? -1 : id_of(key);
    out_scores[(i64)query * r + i] = value_of(key);
  }
}

// All keys of one query's groups, for more than 1,024 results: keys u64[groups * 32], NO_KEY for
// rows that are not there or not allowed. Grid: blocks; TOP_THREADS threads.
template <int BITS>
TEMPLATE_KERNEL __launch_bounds__(TOP_THREADS, 3)
score_all(const float* __restrict__ table_entries, const u32* __restrict__ largest, int rounds,
          const int4* __restrict__ spans, const float4* __restrict__ factors, int nprobe,
          const u64* __restrict__ pages, int chunks, const u32* __restrict__ allowed, u64* keys) {
  const float unit = table_unit(*largest, rounds != 0);
  const Table<BITS, float, false> table(table_entries, nullptr, unit, rounds != 0);
  const int groups = spans[nprobe].x;
  int span = 0;
  for (int g = (int)blockIdx.x * TOP_WARPS + warp_id(); g < groups;
       g += (int)gridDim.x * TOP_WARPS) {
    span = span_of(spans, nprobe, span, g);
    const int4 where = spans[span];
    const int slot = (g - where.x) * GROUP_ROWS;
    const u8* group = group_of(pages, where.y, slot, chunks);
    const Row row = row_at(group, lane_id(), factors[span], chunks, unit);
    float sum = 0;
    for (int c = 0; c < chunks; c++)
      sum = table.add_chunk(c, codes_of(row, c, lane_id()), sum);
    u64 key = NO_KEY;
    if (slot + lane_id() < where.z) {
      const int id = row_id_of(row, chunks, lane_id());
      if (bit_at(allowed, id)) key = key_of(row.score(sum), id);
    }
    keys[(i64)g * GROUP_ROWS + lane_id()] = key;
  }
}
