// The one header of the kernels: names that NVRTC lacks, and wrappers for what only PTX can say.
// Three compilers read it: NVRTC (users), hiprtc's stand-in and g++ (tests; EMULATED is defined,
// and the emulator's ptx.h has C++ bodies for the wrappers). Rules for kernel files:
//   - include "compat.cuh" and <cuda_fp16.h>, nothing else; no <<<>>>; no spin-waits between threads;
//   - dynamic shared memory through DYNAMIC_SHARED only; masks are explicit, never __activemask();
//   - offsets are i64; a*b+c that must round as NumPy's does is written fmaf or __fmul_rn/__fadd_rn;
//   - data that another block of the same launch writes is read by load_relaxed or after
//     __threadfence + atomic, never by load_streaming.
#pragma once
#include <cuda_fp16.h>

typedef signed char i8;
typedef unsigned char u8;
typedef short i16;
typedef unsigned short u16;
typedef int i32;
typedef unsigned int u32;
typedef long long i64;  // long long everywhere: int64_t is `long` for g++ and would mangle differently
typedef unsigned long long u64;
typedef __half f16;

#define DEVICE __device__ __forceinline__
#define KERNEL extern "C" __global__ void       // kernels without template arguments
#define TEMPLATE_KERNEL __global__ void         // behind `template <...>`
// `DYNAMIC_SHARED(float, table)`: a float* to the shared memory that the launch asked for, aligned to 16.
#ifdef EMULATED
#define DYNAMIC_SHARED(T, name) T* name = reinterpret_cast<T*>(emu::dynamic_shared())
#else
#define DYNAMIC_SHARED(T, name)                                     \
  extern __shared__ __align__(16) unsigned char dynamic_shared_[];  \
  T* name = reinterpret_cast<T*>(dynamic_shared_)
#endif

constexpr int WARP = 32;
constexpr u32 FULL_WARP = 0xffffffffu;
constexpr int I32_MAX = 0x7fffffff;
constexpr i64 I64_MAX = 0x7fffffffffffffffLL;

DEVICE float positive_infinity() { return __int_as_float(0x7f800000); }
DEVICE int lane_id() { return (int)(threadIdx.x & 31u); }
DEVICE int warp_id() { return (int)(threadIdx.x >> 5); }

template <class T>
DEVICE T ceil_div(T a, T b) { return (a + b - 1) / b; }

// Bits of a float as an unsigned number of the same order (IEEE 754 total order; -0 < +0), so that
// atomicMin works on distances; and back.
DEVICE u32 ordered_bits(float x) {
  u32 b = __float_as_uint(x);
  return b & 0x80000000u ? ~b : b | 0x80000000u;
}
DEVICE float from_ordered_bits(u32 b) { return __uint_as_float(b & 0x80000000u ? b & 0x7fffffffu : ~b); }

// Two halves in one register.
DEVICE __half2 as_half2(u32 bits) {
  __half_raw lo, hi;
  lo.x = (u16)(bits & 0xffffu);
  hi.x = (u16)(bits >> 16);
  return __halves2half2(__half(lo), __half(hi));
}
DEVICE u32 as_u32(__half2 h) {
  return (u32)__half_as_ushort(__low2half(h)) | (u32)__half_as_ushort(__high2half(h)) << 16;
}

// ---------------------------------------------------------------- whole warps; every lane calls
template <class T>
DEVICE T warp_broadcast(T x, int lane) { return __shfl_sync(FULL_WARP, x, lane); }

DEVICE float warp_sum(float x) {
#pragma unroll
  for (int step = 16; step > 0; step >>= 1) x += __shfl_xor_sync(FULL_WARP, x, step);
  return x;
}
template <class T>
DEVICE T warp_min(T x) {
#pragma unroll
  for (int step = 16; step > 0; step >>= 1) {
    T y = __shfl_xor_sync(FULL_WARP, x, step);
    x = y < x ? y : x;
  }
  return x;
}
template <class T>
DEVICE T warp_max(T x) {
#pragma unroll
  for (int step = 16; step > 0; step >>= 1) {
    T y = __shfl_xor_sync(FULL_WARP, x, step);
    x = x < y ? y : x;
  }
  return x;
}

// ---------------------------------------------------------------- what only PTX can say
// cp_async_16(shared, global)   16 bytes, both aligned to 16; lands at cp_async_wait (PTX ISA, cp.async; sm_80)
// cp_async_commit()             closes a group; cp_async_wait<N>() waits until at most N groups are open
// load_streaming(p)             a read-only 16-byte load that leaves L1 alone (ld.global.nc.L1::no_allocate)
// load_relaxed(p)               a 4-byte load that sees other blocks' atomics (ld.relaxed.gpu)
// mma_m16n8k16(acc, a, b)       acc[16][8] += a[16][16] * b[16][8], halves, float sums (PTX ISA, mma.m16n8k16; sm_80)
// ldmatrix_x4(r, row)           four 8x8 tiles of halves; lane i gives the address of row i % 8 of tile i / 8 (sm_75)
// ldmatrix_x2(r, row)           two tiles; lanes 0..15 give the addresses
#ifndef EMULATED
DEVICE uint4 load_streaming(const uint4* p) {
  uint4 v;
  asm("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
  return v;
}
DEVICE u32 load_relaxed(const u32* p) {
  u32 v;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
  return v;
}
#if __CUDA_ARCH__ >= 800
DEVICE void cp_async_16(void* shared, const void* global) {
  u32 to = (u32)__cvta_generic_to_shared(shared);
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(global) : "memory");
}
DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N>
DEVICE void cp_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }
DEVICE void mma_m16n8k16(float (&acc)[4], const u32 (&a)[4], const u32 (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#else  // before sm_80: the copy is done at once; kernels with mma are not instantiated there
DEVICE void cp_async_16(void* shared, const void* global) { *(uint4*)shared = *(const uint4*)global; }
DEVICE void cp_async_commit() {}
template <int N>
DEVICE void cp_async_wait() {}
DEVICE void mma_m16n8k16(float (&)[4], const u32 (&)[4], const u32 (&)[2]) { __trap(); }
#endif
#if __CUDA_ARCH__ >= 750
DEVICE void ldmatrix_x4(u32 (&r)[4], const void* row) {
  u32 from = (u32)__cvta_generic_to_shared(row);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(from) : "memory");
}
DEVICE void ldmatrix_x2(u32 (&r)[2], const void* row) {
  u32 from = (u32)__cvta_generic_to_shared(row);
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
               : "=r"(r[0]), "=r"(r[1]) : "r"(from) : "memory");
}
#else
DEVICE void ldmatrix_x4(u32 (&)[4], const void*) { __trap(); }
DEVICE void ldmatrix_x2(u32 (&)[2], const void*) { __trap(); }
#endif
#endif  // EMULATED
