// The low-latency list scan: scores and the r best rows, one launch. Work = (query, slice of its lists), spread over all SMs.
//
// Blocks of a query take turns at steps of 16 groups of 32 rows, so each sees near and far lists
// alike and all work equally long. Each warp scores two groups at a time, a row a lane: codes come
// by coalesced 16-byte loads, table entries from shared memory. With 4 bits a sub-quantizer's 16
// floats lie in 16 different banks: no conflicts. The last block of a query merges.
#include "lists.cuh"
#include "shared.cuh"

constexpr int TOGETHER = 2;  // groups of a warp
constexpr int STEP_GROUPS = TOP_WARPS * TOGETHER;

// The power of two that brings the largest entry into [4, 8), where float16 neither overflows nor
// loses digits (pq.py). Entries too small for that count as nothing beside the constants.
DEVICE float table_unit(u32 largest, bool rounds) {
  const float most = __uint_as_float(largest);
  if (!rounds) return 1.0f;
  return most > 1e-30f ? __uint_as_float(largest & 0x7f800000u) * 0.25f : 0.25f;
}
DEVICE float rounded(float entry, float inverse) {
  return __half2float(__float2half_rn(entry * inverse));
}

// How a table is read: staged in shared memory as Entry at a multiple of TABLE_ALIGNMENT, or (too
// large for that) as it lies. `at` gives an entry; `of_byte` that of byte b of a word, in a row
// `from` bytes behind the first of its chunk. Both halves of a byte come in two words, so that
// one instruction extracts a byte and puts the chunk's address above it.
constexpr int TABLE_ALIGNMENT = 1024;

template <int BITS, class Entry, bool SHARED>
struct Table;

template <>
struct Table<4, float, true> {
  u32 address;
  DEVICE Table(const float*, const void* staged, float, bool) : address(shared_address(staged)) {}
  DEVICE float at(int i) const { return shared_float(address + 4 * i); }
  DEVICE float add_chunk(int chunk, uint4 codes, float sum) const {
    const u32 words[4] = {codes.x, codes.y, codes.z, codes.w};
    const u32 base = address + 2048 * chunk;
#pragma unroll
    for (int w = 0; w < 4; w++) {
      const u32 low = words[w] << 2 & 0x3c3c3c3cu, high = words[w] >> 2 & 0x3c3c3c3cu;
#pragma unroll
      for (int b = 0; b < 4; b++) {
        const u32 row = 128 * (4 * w + b);
        const float second = shared_float(__byte_perm(high, base, 0x7650 + b) + row + 64);
        sum += second + shared_float(__byte_perm(low, base, 0x7650 + b) + row);
      }
    }
    return sum;
  }
};

template <class Entry>
struct Table<8, Entry, true> {
  u32 address;
  DEVICE Table(const float*, const void* staged, float, bool) : address(shared_address(staged)) {}
  DEVICE static float load(u32 at) {
    return sizeof(Entry) == 2 ? __half2float(shared_half(at)) : shared_float(at);
  }
  DEVICE float at(int i) const { return load(address + (u32)sizeof(Entry) * i); }
  DEVICE float add_chunk(int chunk, uint4 codes, float sum) const {
    constexpr u32 size = sizeof(Entry), shift = size == 2 ? 1 : 2;
    const u32 words[4] = {codes.x, codes.y, codes.z, codes.w};
    const u32 base = address + 4096 * size * chunk;
#pragma unroll
    for (int w = 0; w < 4; w++)
#pragma unroll
      for (int b = 0; b < 4; b++) {
        const u32 moved = b == 0 ? words[w] << shift : words[w] >> (8 * b - shift);
        sum += load(((moved & 255u << shift) | base) + 256 * size * (4 * w + b));
      }
    return sum;
  }
};

template <int BITS>
struct Table<BITS, float, false> {
  const float* entries;
  float inverse;
  bool rounds;
  DEVICE Table(const float* raw, const void*, float unit, bool rounds)
      : entries(raw), inverse(1.0f / unit), rounds(rounds) {}
  DEVICE float at(i64 i) const { return rounds ? rounded(entries[i], inverse) : entries[i]; }
  DEVICE float add_chunk(int chunk, uint4 codes, float sum) const {
    const u32 words[4] = {codes.x, codes.y, codes.z, codes.w};
    const i64 base = (i64)(BITS == 4 ? 512 : 4096) * chunk;
#pragma unroll
    for (int w = 0; w < 4; w++)
#pragma unroll
      for (int b = 0; b < 4; b++) {
        const int j = 4 * w + b, code = (int)(words[w] >> 8 * b & 255u);
        if (BITS == 8)
          sum += at(base + 256 * j + code);
        else
          sum += at(base + 32 * j + 16 + (code >> 4)) + at(base + 32 * j + (code & 15));
      }
    return sum;
  }
};

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

// One lane's row of a group.
struct Row {
  const u8* group;
  float base, gain;  // score = base + gain * sum
  bool exists;
};

DEVICE Row row_of(const int4* spans, const float4* factors, const u64* pages, int span, int g,
                  int chunks, float unit) {
  const int4 where = spans[span];
  const float4 f = factors[span];
  const int slot = (g - where.x) * GROUP_ROWS;
  Row row;
  row.group = group_of(pages, where.y, slot, chunks);
  const u8* own = row.group + (i64)CHUNK_ROW_BYTES * chunks + 2 * lane_id();
  const float bias = __half2float(*(const f16*)(own + BIAS_AT));
  const float gain = __half2float(*(const f16*)(own + GAIN_AT));
  row.exists = slot + lane_id() < where.z;
  row.base = __fadd_rn(f.x, __fmul_rn(f.y, bias));
  row.gain = __fmul_rn(gain, f.z) * unit;
  return row;
}

DEVICE uint4 codes_of(const Row& row, int chunk) {
  return load_streaming((const uint4*)(row.group + (i64)CHUNK_ROW_BYTES * chunk) + lane_id());  // @codes
}
DEVICE int row_id_of(const Row& row, int chunks) {
  return *(const int*)(row.group + (i64)CHUNK_ROW_BYTES * chunks + IDS_AT + 4 * lane_id());
}

// Scores of TOGETHER groups; stops at a chunk where nothing can come to `bound` any more.
template <int BITS, class T>
DEVICE bool add_chunks(const T& table, const float* least, const Row (&rows)[TOGETHER], int chunks,
                       float bound, float (&sums)[TOGETHER]) {
  uint4 next[TOGETHER];
#pragma unroll
  for (int u = 0; u < TOGETHER; u++) next[u] = codes_of(rows[u], 0);
  for (int c = 0; c < chunks; c++) {
    uint4 codes[TOGETHER];
#pragma unroll
    for (int u = 0; u < TOGETHER; u++) {
      codes[u] = next[u];
      if (c + 1 < chunks) next[u] = codes_of(rows[u], c + 1);
    }
#pragma unroll
    for (int u = 0; u < TOGETHER; u++)
      sums[u] = table.add_chunk(c, codes[u], sums[u]);
    bool hopes = false;
#pragma unroll
    for (int u = 0; u < TOGETHER; u++)
      hopes |= !(fmaf(rows[u].gain, sums[u] + least[c + 1], rows[u].base) > bound);
    if (!__any_sync(FULL_WARP, hopes)) return false;
  }
  return true;
}

// Grid: blocks, queries; TOP_THREADS threads. Dynamic shared memory: keys u64[capacity], least
// f32[chunks + 1], up to TABLE_ALIGNMENT bytes of nothing, the table. reach u32[q], 0 before: the complement of the ordered bits of a
// score that r rows of some block are within. out: row ids i64[q, r], -1 for none, and scores.
// Four blocks on an SM, 64 registers a thread, leave nothing spilled; the rare tables that do not
// fit into shared memory take 64-bit addresses and more registers.
template <int BITS, class Entry, bool SHARED>
TEMPLATE_KERNEL __launch_bounds__(TOP_THREADS, SHARED ? 4 : 2)
scan_slices(const float* __restrict__ tables, const u32* __restrict__ largest, int rounds,
            const int4* __restrict__ spans, const float4* __restrict__ factors, int nprobe,
            const u64* __restrict__ pages, int chunks, const u32* __restrict__ allowed, int r,
            int capacity, u32* reach, u32* arrived, u64* runs, i64* out_ids, float* out_scores) {
  constexpr int ENTRIES = BITS == 4 ? 512 : 4096;
  __shared__ Top top;
  DYNAMIC_SHARED(u64, keys);
  float* least = (float*)(keys + capacity);
  unsigned char* behind = (unsigned char*)(least + chunks + 1);
  Entry* staged = (Entry*)(behind + (0u - shared_address(behind)) % TABLE_ALIGNMENT);
  const int query = (int)blockIdx.y;
  const float* raw = tables + (i64)query * ENTRIES * chunks;
  const float unit = table_unit(largest[query], rounds != 0);
  if (SHARED)
    for (int i = (int)threadIdx.x; i < ENTRIES * chunks; i += TOP_THREADS)
      staged[i] = (Entry)(rounds ? rounded(raw[i], 1.0f / unit) : raw[i]);
  top_begin(top);
  const Table<BITS, Entry, SHARED> table(raw, staged, unit, rounds != 0);
  lower_bounds<BITS>(table, chunks, least);

  const int4* mine = spans + (i64)query * (nprobe + 1);
  const float4* my_factors = factors + (i64)query * nprobe;
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
#pragma unroll
      for (int u = 0; u < TOGETHER; u++) {
        const int here = min(g + u, groups - 1);
        span = span_of(mine, nprobe, span, here);
        rows[u] = row_of(mine, my_factors, pages, span, here, chunks, unit);
        rows[u].exists &= g + u < groups;
      }
      float sums[TOGETHER] = {};
      if (add_chunks<BITS>(table, least, rows, chunks, bound, sums)) {
#pragma unroll
        for (int u = 0; u < TOGETHER; u++) {
          const float score = __fadd_rn(rows[u].base, __fmul_rn(rows[u].gain, sums[u]));
          bool wanted = rows[u].exists && !(score > bound);
          u64 key = NO_KEY;
          if (wanted) {
            const int id = row_id_of(rows[u], chunks);
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
TEMPLATE_KERNEL __launch_bounds__(TOP_THREADS)
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
    const Row row = row_of(spans, factors, pages, span, g, chunks, unit);
    float sum = 0;
    for (int c = 0; c < chunks; c++)
      sum = table.add_chunk(c, codes_of(row, c), sum);
    u64 key = NO_KEY;
    if (row.exists) {
      const int id = row_id_of(row, chunks);
      if (bit_at(allowed, id)) key = key_of(__fadd_rn(row.base, __fmul_rn(row.gain, sum)), id);
    }
    keys[(i64)g * GROUP_ROWS + lane_id()] = key;
  }
}
