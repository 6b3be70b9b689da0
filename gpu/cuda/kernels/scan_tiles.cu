// The throughput list scan, for many queries that share lists (sm_80 and newer).
//
// Pairs (query, probe) are grouped by list. A block takes a page of 128 rows and up to 64 queries
// of its list: codes are decoded once into half tiles in shared memory and multiplied with the
// queries by mma.sync. Scores from halves only filter: rows that may be among the r best, by a
// limit from the nearest lists and a bound on the error, are appended to their query and scored
// anew from its table, as the low-latency scan scores. So both scans return the same rows.
#include "lists.cuh"
#include "table.cuh"

constexpr int TILE_QUERIES = 64;
constexpr int TILE_DEPTH = 64;               // components of a step
constexpr int TILE_PITCH = TILE_DEPTH + 8;   // halves; rows of 8 x 8 tiles meet different banks
constexpr int QUERY_TILES = TILE_QUERIES / 8;
// Rounding queries and codewords to halves errs by at most 2^-10 of |p| |codeword|, rounding table
// entries by half as much; float32 sums add little.
constexpr float ROUNDING = 1.0f / 512;

// ---------------------------------------------------------------- pairs by list

// counts i32[nlist], 0 before: pairs of each list. Far queries have no rows to scan. Grid-stride.
KERNEL __launch_bounds__(256)
count_pairs(const int* __restrict__ probes, const int* __restrict__ near, int queries, int nprobe,
            int* counts) {
  const int step = (int)(gridDim.x * blockDim.x);
  for (int i = (int)(blockIdx.x * blockDim.x + threadIdx.x); i < queries * nprobe; i += step)
    if (near[i / nprobe]) atomicAdd(&counts[probes[i]], 1);
}

// first_pairs i32[nlist + 1] and first_items i32[nlist + 1]: sums over the lists before; an item is
// a page with up to TILE_QUERIES queries. cursors i32[nlist] = first_pairs. counts become 0 again.
// One block.
KERNEL __launch_bounds__(TOP_THREADS)
plan_pairs(int* __restrict__ counts, const int* __restrict__ lengths, int nlist,
           int* __restrict__ first_pairs, int* __restrict__ first_items, int* __restrict__ cursors) {
  __shared__ int warp_sums[TOP_WARPS];
  int pairs = 0, items = 0;
  for (int base = 0; base < nlist; base += TOP_THREADS) {
    const int list = base + (int)threadIdx.x;
    const int count = list < nlist ? counts[list] : 0;
    const int pages = count > 0 ? ceil_div(lengths[list], PAGE_ROWS) : 0;
    int all_pairs, all_items;
    const int pair = pairs + block_prefix(count, warp_sums, all_pairs);
    const int item =
        items + block_prefix(pages * ceil_div(count, TILE_QUERIES), warp_sums, all_items);
    if (list < nlist) {
      counts[list] = 0;
      first_pairs[list] = cursors[list] = pair;
      first_items[list] = item;
    }
    pairs += all_pairs;
    items += all_items;
  }
  if (threadIdx.x == 0) {
    first_pairs[nlist] = pairs;
    first_items[nlist] = items;
  }
}

// pairs i32[q * nprobe]: numbers query * nprobe + probe, those of a list side by side. Grid-stride.
KERNEL __launch_bounds__(256)
group_pairs(const int* __restrict__ probes, const int* __restrict__ near, int queries, int nprobe,
            int* cursors, int* __restrict__ pairs) {
  const int step = (int)(gridDim.x * blockDim.x);
  for (int i = (int)(blockIdx.x * blockDim.x + threadIdx.x); i < queries * nprobe; i += step)
    if (near[i / nprobe]) pairs[atomicAdd(&cursors[probes[i]], 1)] = i;
}

// Queries as halves f16[q, half_stride] over a power of two, zero behind placed_dim; halved
// float2[q]: that power, and the norm of the query. counts i32[q] of survivors = 0. Grid: queries.
KERNEL __launch_bounds__(TOP_THREADS)
halve_queries(const float* __restrict__ placed, int placed_dim, int stride, int half_stride,
              f16* __restrict__ halves, float2* __restrict__ halved, int* __restrict__ counts) {
  __shared__ u32 most;
  __shared__ float sums[TOP_WARPS];
  const i64 number = blockIdx.x;
  const float* query = placed + number * stride;
  if (threadIdx.x == 0) most = 0;
  __syncthreads();
  float largest = 0, square = 0;
  for (int i = (int)threadIdx.x; i < placed_dim; i += TOP_THREADS) {
    largest = fmaxf(largest, fabsf(query[i]));
    square = fmaf(query[i], query[i], square);
  }
  largest = warp_max(largest);
  square = warp_sum(square);
  if (lane_id() == 0) {
    atomicMax(&most, __float_as_uint(largest));
    sums[warp_id()] = square;
  }
  __syncthreads();
  const float unit = table_unit(most, true) * 4.0f;
  for (int i = (int)threadIdx.x; i < half_stride; i += TOP_THREADS)
    halves[number * half_stride + i] =
        __float2half_rn(i < placed_dim ? query[i] * (1.0f / unit) : 0.0f);
  if (threadIdx.x == 0) {
    float sum = 0;
    for (int w = 0; w < TOP_WARPS; w++) sum += sums[w];
    halved[number] = make_float2(unit, sqrtf(sum));
    counts[number] = 0;
  }
}

// ---------------------------------------------------------------- tiles

// Reads the codes of one row of a group one after another.
template <int BITS>
struct CodeReader {
  const uint4* row;  // chunks lie GROUP_ROWS apart
  uint4 codes;
  int chunk;

  DEVICE explicit CodeReader(const u8* group, int lane)
      : row((const uint4*)group + lane), codes(make_uint4(0, 0, 0, 0)), chunk(-1) {}
  DEVICE int at(int j) {
    const int byte = BITS == 4 ? j >> 1 : j;
    if (byte >> 4 != chunk) {
      chunk = byte >> 4;
      codes = row[(i64)GROUP_ROWS * chunk];
    }
    const u32 low = byte & 4 ? codes.y : codes.x, high = byte & 4 ? codes.w : codes.z;
    const u32 value = (byte & 8 ? high : low) >> 8 * (byte & 3) & 255u;
    return BITS == 8 ? (int)value : (int)(j & 1 ? value >> 4 : value & 15u);
  }
};

// Decodes components [first, first + TILE_DEPTH) of the page's rows, half of them by each half of
// the block; neighbouring lanes decode neighbouring rows of the same codebook.
template <int BITS>
DEVICE void decode_rows(const u8* page, int chunks, const float* __restrict__ books, int m,
                        int width, int first, f16 (*tile)[TILE_PITCH]) {
  const int row = (int)threadIdx.x % PAGE_ROWS, half = (int)threadIdx.x / PAGE_ROWS;
  CodeReader<BITS> reader(page + row / GROUP_ROWS * group_bytes(chunks), row % GROUP_ROWS);
  int component = first + half * (TILE_DEPTH / 2);
  int j = component / width, t = component - j * width, code = -1;
  for (int eight = 0; eight < TILE_DEPTH / 16; eight++) {
    u32 words[4];
#pragma unroll
    for (int pair = 0; pair < 4; pair++) {
      float values[2];
#pragma unroll
      for (int i = 0; i < 2; i++) {
        values[i] = 0;
        if (j < m) {
          if (code < 0) code = reader.at(j);
          values[i] = books[(((i64)j * width + t) << BITS) + code];
          if (++t == width) t = 0, code = -1, j++;
        }
      }
      words[pair] = as_u32(__floats2half2_rn(values[0], values[1]));
    }
    *(uint4*)&tile[row][half * (TILE_DEPTH / 2) + 8 * eight] =
        make_uint4(words[0], words[1], words[2], words[3]);
  }
}

// The largest list whose first item is not beyond `item`: 32 candidates at a time. A whole warp.
DEVICE int list_of(const int* first_items, int nlist, int item) {
  int low = 0, size = nlist;
  while (size > 1) {
    const int step = ceil_div(size, WARP), at = low + lane_id() * step;
    const bool passed = lane_id() * step < size && first_items[at] <= item;
    const int last = __popc(__ballot_sync(FULL_WARP, passed)) - 1;
    low += last * step;
    size = min(step, size - last * step);
  }
  return low;
}

// What the epilogue knows about a query of the tile.
struct __align__(16) Asked {
  float base;   // of its scores in this list
  float unit;   // times sigma: what a product of halves is worth
  float limit;  // scores above are not among the r best
  float slack;  // how far a score from halves may be off, for gain 1
};

// limits f32[q, r]: scores of the best rows of some lists; the r-th is the limit. survivors
// u64[q, room]: (probe, slot) of rows to score anew, counts i32[q] how many there would be.
// Grid: as many blocks as run at once; TOP_THREADS threads.
template <int BITS>
TEMPLATE_KERNEL __launch_bounds__(TOP_THREADS, 2)
scan_tiles(const int* __restrict__ first_items, const int* __restrict__ first_pairs,
           const int* __restrict__ pairs, int nlist, int nprobe, const int* __restrict__ starts,
           const int* __restrict__ lengths, const u64* __restrict__ pages, int chunks,
           const float* __restrict__ books, int m, int width, float largest_decoded,
           const f16* __restrict__ halves, int half_stride, const float2* __restrict__ halved,
           const float4* __restrict__ factors, const float* __restrict__ limits, int r,
           const u32* __restrict__ allowed, u64* __restrict__ survivors, int room, int* counts) {
  __shared__ __align__(16) f16 row_tile[PAGE_ROWS][TILE_PITCH];
  __shared__ __align__(16) f16 query_tile[TILE_QUERIES][TILE_PITCH];
  __shared__ Asked asked[TILE_QUERIES];
  __shared__ float2 row_factors[PAGE_ROWS];  // unit * bias, gain
  __shared__ int pair_of[TILE_QUERIES];
  const int items = first_items[nlist];
  for (int item = (int)blockIdx.x; item < items; item += (int)gridDim.x) {
    const int list = list_of(first_items, nlist, item);
    const int count = first_pairs[list + 1] - first_pairs[list];
    const int within = item - first_items[list], tiles = ceil_div(count, TILE_QUERIES);
    const int number = within / tiles, tile = within % tiles;
    const int together = min(TILE_QUERIES, count - tile * TILE_QUERIES);
    const u8* page = (const u8*)pages[(i64)starts[list] + number];
    const int rows = min(PAGE_ROWS, lengths[list] - number * PAGE_ROWS);
    __syncthreads();
    if (threadIdx.x < TILE_QUERIES) {
      const int i = (int)threadIdx.x;
      const int pair = i < together ? pairs[first_pairs[list] + tile * TILE_QUERIES + i] : -1;
      pair_of[i] = pair;
      Asked mine = {0, 0, -positive_infinity(), 0};
      if (pair >= 0) {
        const int query = pair / nprobe;
        const float4 f = factors[pair];
        const float2 h = halved[query];
        mine.base = f.x;
        mine.unit = f.z * h.x;
        mine.limit = limits[(i64)query * r + r - 1];
        mine.slack = ROUNDING * f.z * h.y * largest_decoded;
      }
      asked[i] = mine;
    } else if (threadIdx.x >= TOP_THREADS - PAGE_ROWS) {
      const int row = (int)threadIdx.x - (TOP_THREADS - PAGE_ROWS);
      const u8* own = page + row / GROUP_ROWS * group_bytes(chunks) +
                      (i64)CHUNK_ROW_BYTES * chunks + 2 * (row % GROUP_ROWS);
      const float bias = __half2float(*(const f16*)(own + BIAS_AT));
      const float gain = __half2float(*(const f16*)(own + GAIN_AT));
      const float unit = factors[pairs[first_pairs[list]]].y;
      row_factors[row] = make_float2(unit * bias, gain);
    }
    __syncthreads();
    float sums[QUERY_TILES][4] = {};
    for (int first = 0; first < half_stride; first += TILE_DEPTH) {
      for (int i = (int)threadIdx.x; i < TILE_QUERIES * TILE_DEPTH / 8; i += TOP_THREADS) {
        const int row = i / (TILE_DEPTH / 8), column = i % (TILE_DEPTH / 8) * 8;
        const int pair = pair_of[row] >= 0 ? pair_of[row] : pair_of[0];
        cp_async_16(&query_tile[row][column],
                    halves + (i64)(pair / nprobe) * half_stride + first + column);
      }
      cp_async_commit();
      decode_rows<BITS>(page, chunks, books, m, width, first, row_tile);
      cp_async_wait<0>();
      __syncthreads();
#pragma unroll
      for (int k = 0; k < TILE_DEPTH; k += 16) {
        u32 a[4];
        ldmatrix_x4(a, &row_tile[16 * warp_id() + lane_id() % 16][k + lane_id() / 16 * 8]);
#pragma unroll
        for (int n = 0; n < QUERY_TILES; n++) {
          u32 b[2];
          ldmatrix_x2(b, &query_tile[8 * n + lane_id() % 8][k + lane_id() / 8 % 2 * 8]);
          mma_m16n8k16(sums[n], a, b);
        }
      }
      __syncthreads();
    }
#pragma unroll
    for (int n = 0; n < QUERY_TILES; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const int row = 16 * warp_id() + lane_id() / 4 + (e >> 1) * 8;
        const int column = 8 * n + lane_id() % 4 * 2 + (e & 1);
        const Asked one = asked[column];
        const float2 f = row_factors[row];
        const float score = one.base + f.x - f.y * one.unit * sums[n][e];
        bool wanted = row < rows && !(score - f.y * one.slack > one.limit);
        const u32 some = __ballot_sync(FULL_WARP, wanted);
        if (some == 0) continue;
        if (wanted) {
          const u8* own = page + row / GROUP_ROWS * group_bytes(chunks) +
                          (i64)CHUNK_ROW_BYTES * chunks + IDS_AT + 4 * (row % GROUP_ROWS);
          wanted = pair_of[column] >= 0 && bit_at(allowed, *(const int*)own);
        }
        // Lanes of one query are four apart; one of them counts for all.
        const u32 peers = __ballot_sync(FULL_WARP, wanted) & 0x11111111u << lane_id() % 4;
        const int leader = peers ? __ffs((int)peers) - 1 : lane_id();
        const int query = pair_of[column] / nprobe;
        int at = 0;
        if (wanted && lane_id() == leader) at = atomicAdd(&counts[query], __popc(peers));
        at = __shfl_sync(FULL_WARP, at, leader);
        if (wanted) {
          at += __popc(peers & ((1u << lane_id()) - 1u));
          const u64 slot = (u64)(u32)(number * PAGE_ROWS + row);
          if (at < room)
            survivors[(i64)query * room + at] = (u64)(pair_of[column] % nprobe) << 32 | slot;
        }
      }
  }
}

// ---------------------------------------------------------------- the r best survivors

// Scores survivors from the query's table, as scan_slices does. overflowed i32[q]: whether there
// were more than `room`; such queries get nothing here. Grid: queries. Dynamic shared memory as
// scan_slices.
template <int BITS, class Entry, bool SHARED>
TEMPLATE_KERNEL __launch_bounds__(TOP_THREADS, 4)
select_survivors(const float* __restrict__ tables, const u32* __restrict__ largest, int rounds,
                 const int4* __restrict__ spans, const float4* __restrict__ factors, int nprobe,
                 const u64* __restrict__ pages, int chunks, const u64* __restrict__ survivors,
                 int room, const int* __restrict__ counts, int r, int capacity,
                 int* __restrict__ overflowed, i64* __restrict__ out_ids,
                 float* __restrict__ out_scores) {
  __shared__ Top top;
  DYNAMIC_SHARED(unsigned char, dynamic);
  Entry* staged = table_room<BITS, Entry, SHARED>(dynamic);
  u64* keys = (u64*)behind_table<BITS, Entry, SHARED>(staged, chunks);
  const int query = (int)blockIdx.x, count = counts[query];
  if (threadIdx.x == 0) overflowed[query] = count > room;
  if (count > room) return;
  const float* raw = tables + (i64)query * (BITS == 4 ? 512 : 4096) * chunks;
  const float unit = table_unit(largest[query], rounds != 0);
  stage_table<BITS, Entry, SHARED>(raw, unit, rounds, chunks, staged);
  top_begin(top);
  const Table<BITS, Entry, SHARED> table(raw, staged, unit, rounds != 0);
  const int4* mine = spans + (i64)query * (nprobe + 1);
  for (int base = 0; base < count; base += TOP_THREADS) {
    const int i = base + (int)threadIdx.x;
    u64 key = NO_KEY;
    if (i < count) {
      const u64 survivor = survivors[(i64)query * room + i];
      const int probe = (int)(survivor >> 32), slot = (int)(u32)survivor;
      const float4 f = factors[(i64)query * nprobe + probe];
      const u8* group = group_of(pages, mine[probe].y, slot, chunks);
      const Row row = row_at(group, slot % GROUP_ROWS, f, chunks, unit);
      float sum = 0;
      for (int c = 0; c < chunks; c++)
        sum = table.add_chunk(c, codes_of(row, c, slot % GROUP_ROWS), sum);
      key = key_of(row.score(sum), row_id_of(row, chunks, slot % GROUP_ROWS));
    }
    if (__syncthreads_or(top_push(top, keys, capacity, key != NO_KEY && key <= top.limit, key)))
      top_shrink(top, keys, r);
  }
  __syncthreads();
  top_shrink(top, keys, r);
  for (int i = (int)threadIdx.x; i < r; i += TOP_THREADS) {
    const u64 key = i < top.count ? keys[i] : NO_KEY;
    out_ids[(i64)query * r + i] = id_of(key);
    out_scores[(i64)query * r + i] = value_of(key);
  }
}
