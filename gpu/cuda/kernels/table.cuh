// Lookup tables as kernels read them, and rows that are scored with them.
#pragma once
#include "lists.cuh"
#include "shared.cuh"

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

// How a table is read: staged in shared memory as Entry, or (too large for that) as it lies. Staged
// 4-bit tables start at a multiple of TABLE_ALIGNMENT and codes are split into words of low and of
// high halves, each already times four: one byte permutation takes a code out of its word and puts
// the chunk's address above it, so a look-up is that, a load, an addition and half of the split.
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

// A look-up is one dot product of a word's four bytes with (0, 0, size, 0), which takes a byte out,
// multiplies it and adds the chunk's address; a load; an addition; and with halves a conversion: 3.9
// and 4.9 instructions on sm_90 with the loop's own. That is not what binds: random entries meet in
// 3.15 (floats) or 2.79 (halves) turns of the banks, during which an SM issues more than ten.
template <class Entry>
struct Table<8, Entry, true> {
  u32 address;
  DEVICE Table(const float*, const void* staged, float, bool) : address(shared_address(staged)) {}
  DEVICE static float load(u32 at) {
    return sizeof(Entry) == 2 ? __half2float(shared_half(at)) : shared_float(at);
  }
  DEVICE float at(int i) const { return load(address + (u32)sizeof(Entry) * i); }
  DEVICE float add_chunk(int chunk, uint4 codes, float sum) const {
    constexpr u32 size = sizeof(Entry);
    const u32 words[4] = {codes.x, codes.y, codes.z, codes.w};
    const u32 base = address + 4096 * size * chunk;
#pragma unroll
    for (int w = 0; w < 4; w++)
#pragma unroll
      for (int b = 0; b < 4; b++)
        sum += load(__dp4a(words[w], size << 8 * b, base) + 256 * size * (4 * w + b));
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

// Dynamic shared memory of kernels with tables: up to TABLE_ALIGNMENT bytes of nothing, the table if
// it is staged, then what else there is.
template <int BITS, class Entry, bool SHARED>
DEVICE Entry* table_room(unsigned char* dynamic) {
  return (Entry*)(dynamic + (0u - shared_address(dynamic)) % TABLE_ALIGNMENT);
}
template <int BITS, class Entry, bool SHARED>
DEVICE unsigned char* behind_table(Entry* staged, int chunks) {
  return (unsigned char*)(staged + (SHARED ? (BITS == 4 ? 512 : 4096) * chunks : 0));
}

// Stages a query's table where that is wanted. The block waits before it makes a Table to read it.
template <int BITS, class Entry, bool SHARED>
DEVICE void stage_table(const float* raw, float unit, int rounds, int chunks, Entry* staged) {
  if constexpr (SHARED)
    for (int i = (int)threadIdx.x; i < (BITS == 4 ? 512 : 4096) * chunks; i += TOP_THREADS)
      staged[i] = (Entry)(rounds ? rounded(raw[i], 1.0f / unit) : raw[i]);
}

// One row of a group: score = base + gain * (sum of entries), rounded as NumPy rounds.
struct Row {
  const u8* group;
  float base, gain;

  DEVICE float score(float sum) const { return __fadd_rn(base, __fmul_rn(gain, sum)); }
};

DEVICE Row row_at(const u8* group, int lane, float4 factors, int chunks, float unit) {
  const u8* own = group + (i64)CHUNK_ROW_BYTES * chunks + 2 * lane;
  const float bias = __half2float(*(const f16*)(own + BIAS_AT));  // @factors
  const float gain = __half2float(*(const f16*)(own + GAIN_AT));  // @factors
  return {group, __fadd_rn(factors.x, __fmul_rn(factors.y, bias)),
          __fmul_rn(gain, factors.z) * unit};
}
DEVICE uint4 codes_of(const Row& row, int chunk, int lane) {
  return load_streaming((const uint4*)(row.group + (i64)CHUNK_ROW_BYTES * chunk) + lane);  // @codes
}
DEVICE int row_id_of(const Row& row, int chunks, int lane) {
  return *(const int*)(row.group + (i64)CHUNK_ROW_BYTES * chunks + IDS_AT + 4 * lane);
}
