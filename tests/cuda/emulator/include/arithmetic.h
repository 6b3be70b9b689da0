// Bit, integer and float intrinsics. Single operations round as the GPU's do; expf, logf and their
// like are the host's and may differ in the last bit.
#pragma once
#include "vectors.h"

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
inline unsigned __brev(unsigned x) {
  unsigned r = 0;
  for (int i = 0; i < 32; i++) r |= (x >> i & 1) << (31 - i);
  return r;
}
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  uint64_t both = (uint64_t)b << 32 | a;
  unsigned r = 0;
  for (int i = 0; i < 4; i++) {
    unsigned pick = selector >> (4 * i);
    unsigned byte = both >> (8 * (pick & 7)) & 255;
    if (pick & 8) byte = byte & 128 ? 255 : 0;
    r |= byte << (8 * i);
  }
  return r;
}
inline unsigned __funnelshift_r(unsigned lo, unsigned hi, unsigned shift) { return ((uint64_t)hi << 32 | lo) >> (shift & 31); }
inline unsigned __funnelshift_l(unsigned lo, unsigned hi, unsigned shift) { return ((uint64_t)hi << 32 | lo) << (shift & 31) >> 32; }
inline int __dp4a(int a, int b, int c) {
  for (int i = 0; i < 4; i++) c += (int8_t)(a >> 8 * i) * (int8_t)(b >> 8 * i);
  return c;
}
inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
  for (int i = 0; i < 4; i++) c += (a >> 8 * i & 255) * (b >> 8 * i & 255);
  return c;
}
inline unsigned __umulhi(unsigned a, unsigned b) { return (uint64_t)a * b >> 32; }
inline int __float_as_int(float f) { int r; memcpy(&r, &f, 4); return r; }
inline unsigned __float_as_uint(float f) { unsigned r; memcpy(&r, &f, 4); return r; }
inline float __int_as_float(int i) { float r; memcpy(&r, &i, 4); return r; }
inline float __uint_as_float(unsigned u) { float r; memcpy(&r, &u, 4); return r; }
inline long long __double_as_longlong(double d) { long long r; memcpy(&r, &d, 8); return r; }
inline double __longlong_as_double(long long i) { double r; memcpy(&r, &i, 8); return r; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fmul_rn(float a, float b) { return a * b; }  // -ffp-contract=off keeps these as written
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline int __float2int_rn(float x) { return (int)nearbyintf(x); }
inline int __float2int_rd(float x) { return (int)floorf(x); }
inline float __int2float_rn(int x) { return (float)x; }
// Float64 is never flushed on a GPU, but the host's mode that flushes float32 flushes both.
#define EMU_DOUBLE(name, instruction)                                           \
  inline double name(double a, double b) {                                      \
    unsigned flushing, keeping;                                                 \
    asm volatile("stmxcsr %0" : "=m"(flushing));                                \
    keeping = flushing & ~0x8040u;                                              \
    asm volatile("ldmxcsr %2\n\t" instruction " %1, %0\n\tldmxcsr %3"           \
                 : "+x"(a) : "x"(b), "m"(keeping), "m"(flushing));              \
    return a;                                                                   \
  }
EMU_DOUBLE(__dadd_rn, "addsd")
EMU_DOUBLE(__dsub_rn, "subsd")
EMU_DOUBLE(__dmul_rn, "mulsd")
EMU_DOUBLE(__ddiv_rn, "divsd")
inline float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1.0f) : 0.0f; }
template <class T> __forceinline__ T __ldg(const T* p) { return *p; }
template <class T> __forceinline__ T __ldcs(const T* p) { return *p; }
template <class T> __forceinline__ T __ldcg(const T* p) { return *p; }
template <class T> __forceinline__ void __stcs(T* p, T v) { *p = v; }
template <class T> __forceinline__ void __stcg(T* p, T v) { *p = v; }
inline void __nanosleep(unsigned) {}
template <class T> inline T min(T a, T b) { return b < a ? b : a; }
template <class T> inline T max(T a, T b) { return a < b ? b : a; }
// CUDA's overloads for floats return the other operand where one is NaN.
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
using std::isfinite;
using std::isinf;
using std::isnan;
