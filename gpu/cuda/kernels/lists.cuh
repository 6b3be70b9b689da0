// Where rows of lists lie, and what a search knows about the lists it probes. See layout.py.
#pragma once
#include "topk.cuh"

constexpr int GROUP_ROWS = 32;
constexpr int PAGE_GROUPS = 4;
constexpr int PAGE_ROWS = PAGE_GROUPS * GROUP_ROWS;
constexpr int CHUNK_ROW_BYTES = 16 * GROUP_ROWS;
constexpr int BIAS_AT = 0, GAIN_AT = 64, IDS_AT = 128, FACTOR_BYTES = 256;

DEVICE i64 group_bytes(int chunks) { return (i64)CHUNK_ROW_BYTES * chunks + FACTOR_BYTES; }

// The group that holds `slot` of the list whose first page is pages[start].
DEVICE const u8* group_of(const u64* pages, int start, int slot, int chunks) {
  const u64 page = pages[(i64)start + slot / PAGE_ROWS];
  return (const u8*)page + (slot % PAGE_ROWS) / GROUP_ROWS * group_bytes(chunks);
}

DEVICE bool bit_at(const u32* bitmap, int row) { return bitmap[(u32)row >> 5] >> (row & 31) & 1u; }

// What a search knows about a probed list: a span (int4) and its factors (float4).
//   span.x   first of its groups among all groups that the query scans; the end is the next x
//   span.y   place of its first page in `pages`       span.z  rows       span.w  list
//   score = factors.x + factors.y * bias + gain * factors.z * (sum of table entries)
// A query has a span more than probes: the last one is only an end.

// Writes the spans of one query and clears what its search counts with. The whole block calls it.
// probes and constants are written by this block or by earlier launches.
DEVICE void begin_query(const int* probes, const float* constants, int nprobe, bool near,
                        const int* starts, const int* lengths, const float* bias_mean,
                        const float* bias_unit, const float* sigma, int4* spans, float4* factors,
                        u32* largest, u32* reach, u32* arrived, int* warp_sums) {
  int before = 0;
  for (int base = 0; base < nprobe; base += TOP_THREADS) {
    const int i = base + (int)threadIdx.x;
    const int list = i < nprobe ? probes[i] : 0;
    const int rows = i < nprobe && near ? lengths[list] : 0;
    int total;
    const int first = before + block_prefix(ceil_div(rows, GROUP_ROWS), warp_sums, total);
    if (i < nprobe) {
      spans[i] = make_int4(first, starts[list], rows, list);
      factors[i] = make_float4(constants[i] + bias_mean[list], bias_unit[list], sigma[list], 0.f);
    }
    before += total;
  }
  if (threadIdx.x == 0) {
    spans[nprobe] = make_int4(before, 0, 0, -1);
    *largest = 0;
    *reach = 0;
    *arrived = 0;
  }
}
