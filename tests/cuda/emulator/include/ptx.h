// Bodies of compat.cuh's wrappers for what only PTX can say. Fragment layouts are those of the
// PTX ISA, "Matrix Fragments for mma.m16n8k16" and "ldmatrix".
#pragma once
#include "cuda_fp16.h"
#include "state.h"

__forceinline__ uint4 load_streaming(const uint4* p) { return *p; }
__forceinline__ unsigned load_relaxed(const unsigned* p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }

// Before sm_80 as in compat.cuh: copies are done at once, and there is no mma to run.
#if __CUDA_ARCH__ >= 800
__forceinline__ void cp_async_16(void* shared, const void* global) {
  uint4 v = *(const uint4*)global;
  emu::cp_async(shared, &v);
}
inline void cp_async_commit() { emu::cp_async_commit(); }
template <int N> __forceinline__ void cp_async_wait() {  // the data lands only here: a missing wait shows
  uint4 v;
  void* shared;
  while (emu::cp_async_next(N, &shared, &v)) *(uint4*)shared = v;
}
#else
__forceinline__ void cp_async_16(void* shared, const void* global) { *(uint4*)shared = *(const uint4*)global; }
inline void cp_async_commit() {}
template <int N> __forceinline__ void cp_async_wait() {}
#endif

inline void mma_m16n8k16(float (&acc)[4], const unsigned (&a)[4], const unsigned (&b)[2], EMU_HERE) {
  if (__CUDA_ARCH__ < 800) emu::fail("mma.m16n8k16 is of sm_80", EMU_PLACE);
  emu::Quiet quiet;
  unsigned in[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  auto* given = emu::collective(~0u, emu::OP_MMA, in, sizeof in, EMU_PLACE);
  auto half_of = [&](int lane, int reg, int which) {
    _Float16 h;
    memcpy(&h, given[lane] + reg * 4 + which * 2, 2);
    return (float)h;
  };
  auto a_at = [&](int row, int k) { return half_of((row & 7) * 4 + (k & 7) / 2, (row >> 3) + 2 * (k >> 3), k & 1); };
  auto b_at = [&](int k, int col) { return half_of(col * 4 + (k & 7) / 2, 4 + (k >> 3), k & 1); };
  int lane = emu::lane();
  for (int i = 0; i < 4; i++) {
    int row = (lane >> 2) + 8 * (i >> 1), col = (lane & 3) * 2 + (i & 1);
    float sum = 0;
    for (int k = 0; k < 16; k++) sum += a_at(row, k) * b_at(k, col);
    acc[i] += sum;
  }
}

namespace emu {
template <int N> __forceinline__ void ldmatrix(unsigned (&r)[N], const void* row, Place at) {
  if (__CUDA_ARCH__ < 750) fail("ldmatrix is of sm_75", at);
  uint4 mine = uint4(0, 0, 0, 0);
  if (lane() < 8 * N) mine = *(const uint4*)row;  // the checker sees the row's read by the lane that names it
  Quiet quiet;
  auto* rows = collective(~0u, OP_LDMATRIX, &mine, 16, at);
  for (int i = 0; i < N; i++) memcpy(&r[i], rows[8 * i + lane() / 4] + 4 * (lane() & 3), 4);
}
}  // namespace emu
__forceinline__ void ldmatrix_x4(unsigned (&r)[4], const void* row, EMU_HERE) { emu::ldmatrix(r, row, EMU_PLACE); }
__forceinline__ void ldmatrix_x2(unsigned (&r)[2], const void* row, EMU_HERE) { emu::ldmatrix(r, row, EMU_PLACE); }
