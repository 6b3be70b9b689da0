// Rows into pages: new ones scattered to their slots, surviving ones gathered into fresh pages.
#include "lists.cuh"

// A lane's row of a group, and its factors.
DEVICE uint4* chunk_at(const u8* group, int chunk, int lane) {
  return (uint4*)(group + (i64)CHUNK_ROW_BYTES * chunk) + lane;
}
DEVICE f16* bias_at(const u8* group, int chunks, int lane) {
  return (f16*)(group + (i64)CHUNK_ROW_BYTES * chunks + BIAS_AT) + lane;
}
DEVICE f16* gain_at(const u8* group, int chunks, int lane) {
  return (f16*)(group + (i64)CHUNK_ROW_BYTES * chunks + GAIN_AT) + lane;
}
DEVICE int* id_at(const u8* group, int chunks, int lane) {
  return (int*)(group + (i64)CHUNK_ROW_BYTES * chunks + IDS_AT) + lane;
}

// Row i goes to slot slots[i] of list lists[i]. codes u8[n, code_bytes]. A thread for each 16 bytes
// of a code and one for the factors. Grid: n * (chunks + 1) threads, grid-stride.
KERNEL __launch_bounds__(256)
append_rows(int n, const int* __restrict__ lists, const int* __restrict__ slots,
            const int* __restrict__ row_ids, const u8* __restrict__ codes, int code_bytes,
            const f16* __restrict__ bias, const f16* __restrict__ gain,
            const int* __restrict__ starts, const u64* __restrict__ pages, int chunks) {
  const i64 items = (i64)n * (chunks + 1), step = (i64)gridDim.x * blockDim.x;
  for (i64 item = (i64)blockIdx.x * blockDim.x + threadIdx.x; item < items; item += step) {
    const int row = (int)(item / (chunks + 1)), chunk = (int)(item % (chunks + 1));
    const int slot = slots[row], lane = slot % GROUP_ROWS;
    const u8* group = group_of(pages, starts[lists[row]], slot, chunks);
    if (chunk == chunks) {
      *bias_at(group, chunks, lane) = bias[row];
      *gain_at(group, chunks, lane) = gain[row];
      *id_at(group, chunks, lane) = row_ids[row];
      continue;
    }
    const u8* code = codes + (i64)row * code_bytes + 16 * chunk;
    const int there = min(16, code_bytes - 16 * chunk);
    u32 words[4] = {};
#pragma unroll
    for (int b = 0; b < 16; b++)
      if (b < there) words[b >> 2] |= (u32)code[b] << 8 * (b & 3);
    *chunk_at(group, chunk, lane) = make_uint4(words[0], words[1], words[2], words[3]);
  }
}

// counts i32[nlist]: rows of each list that `kept` (a bitmap over row ids) has set. A warp a list.
KERNEL __launch_bounds__(256)
survivors(int nlist, const int* __restrict__ starts, const int* __restrict__ lengths,
          const u64* __restrict__ pages, int chunks, const u32* __restrict__ kept,
          int* __restrict__ counts) {
  const int list = (int)(blockIdx.x * blockDim.x + threadIdx.x) / WARP;
  if (list >= nlist) return;
  const int rows = lengths[list];
  int count = 0;
  for (int slot = 0; slot < rows; slot += GROUP_ROWS) {
    const u8* group = group_of(pages, starts[list], slot, chunks);
    const bool keep =
        slot + lane_id() < rows && bit_at(kept, *id_at(group, chunks, lane_id()));
    count += __popc(__ballot_sync(FULL_WARP, keep));
  }
  if (lane_id() == 0) counts[list] = count;
}

// Copies the rows that `kept` has set, in their order, to the slots from 0 on of the same list of
// other lists, whose pages have room for them. ranks i32[words of kept]: set bits before each word,
// and rows are numbered by the set bits before them; null: they keep their ids. A warp a list.
KERNEL __launch_bounds__(256, 4)
rewrite(int nlist, const int* __restrict__ starts, const int* __restrict__ lengths,
        const u64* __restrict__ pages, int chunks, const u32* __restrict__ kept,
        const int* __restrict__ ranks, const int* __restrict__ to_starts, const u64* __restrict__ to_pages) {
  const int list = (int)(blockIdx.x * blockDim.x + threadIdx.x) / WARP;
  if (list >= nlist) return;
  const int rows = lengths[list], lane = lane_id();
  int written = 0;
  for (int slot = 0; slot < rows; slot += GROUP_ROWS) {
    const u8* group = group_of(pages, starts[list], slot, chunks);
    const int id = slot + lane < rows ? *id_at(group, chunks, lane) : 0;
    const bool keep = slot + lane < rows && bit_at(kept, id);
    const u32 who = __ballot_sync(FULL_WARP, keep);
    if (keep) {
      const int at = written + __popc(who & ((1u << lane) - 1u)), there = at % GROUP_ROWS;
      const u8* target = group_of(to_pages, to_starts[list], at, chunks);
      for (int c = 0; c < chunks; c++) *chunk_at(target, c, there) = *chunk_at(group, c, lane);
      *bias_at(target, chunks, there) = *bias_at(group, chunks, lane);
      *gain_at(target, chunks, there) = *gain_at(group, chunks, lane);
      const u32 before = kept[(u32)id >> 5] & ((1u << (id & 31)) - 1u);
      *id_at(target, chunks, there) = ranks ? ranks[(u32)id >> 5] + __popc(before) : id;
    }
    written += __popc(who);
  }
}
