// Halves: computed in float (or double for fused ones) and rounded to nearest even at every
// operation, as the GPU does. A float product of halves is exact, and so is their double sum.
#pragma once
#include "arithmetic.h"

struct __half_raw {
  unsigned short x;
};
struct alignas(2) __half {
  _Float16 v;
  __half() = default;
  __half(float f) : v((_Float16)f) {}
  __half(const __half_raw& r) { memcpy(&v, &r, 2); }
  operator float() const { return (float)v; }
  operator __half_raw() const {
    __half_raw r;
    memcpy(&r, &v, 2);
    return r;
  }
};
struct alignas(4) __half2 {
  __half x, y;
  __half2() = default;
  __half2(__half a, __half b) : x(a), y(b) {}
  EMU_COPIES_WHOLE(__half2, 4)
};
typedef __half half;
typedef __half2 half2;

inline unsigned short __half_as_ushort(__half h) { unsigned short r; memcpy(&r, &h, 2); return r; }
inline __half __ushort_as_half(unsigned short u) { __half r; memcpy((void*)&r, &u, 2); return r; }
inline __half __float2half(float f) { return __half(f); }
inline __half __float2half_rn(float f) { return __half(f); }
inline float __half2float(__half h) { return (float)h.v; }
inline __half __hadd(__half a, __half b) { return __half((float)a.v + (float)b.v); }
inline __half __hsub(__half a, __half b) { return __half((float)a.v - (float)b.v); }
inline __half __hmul(__half a, __half b) { return __half((float)a.v * (float)b.v); }
inline __half __hfma(__half a, __half b, __half c) {
  __half r;
  r.v = (_Float16)((double)a.v * (double)b.v + (double)c.v);
  return r;
}
inline bool __hlt(__half a, __half b) { return a.v < b.v; }
inline bool __hle(__half a, __half b) { return a.v <= b.v; }
inline bool __hgt(__half a, __half b) { return a.v > b.v; }
inline __half __hmin(__half a, __half b) { return b.v < a.v ? b : a; }
inline __half __hmax(__half a, __half b) { return a.v < b.v ? b : a; }
inline __half2 __halves2half2(__half a, __half b) { return __half2(a, b); }
inline __half2 __half2half2(__half a) { return __half2(a, a); }
inline __half2 __float2half2_rn(float a) { return __half2(__half(a), __half(a)); }
inline __half2 __floats2half2_rn(float a, float b) { return __half2(__half(a), __half(b)); }
inline __half2 __float22half2_rn(float2 f) { return __half2(__half(f.x), __half(f.y)); }
inline float2 __half22float2(__half2 h) { return float2((float)h.x.v, (float)h.y.v); }
inline __half __low2half(__half2 h) { return h.x; }
inline __half __high2half(__half2 h) { return h.y; }
inline float __low2float(__half2 h) { return (float)h.x.v; }
inline float __high2float(__half2 h) { return (float)h.y.v; }
inline __half2 __hadd2(__half2 a, __half2 b) { return __half2(__hadd(a.x, b.x), __hadd(a.y, b.y)); }
inline __half2 __hsub2(__half2 a, __half2 b) { return __half2(__hsub(a.x, b.x), __hsub(a.y, b.y)); }
inline __half2 __hmul2(__half2 a, __half2 b) { return __half2(__hmul(a.x, b.x), __hmul(a.y, b.y)); }
inline __half2 __hfma2(__half2 a, __half2 b, __half2 c) { return __half2(__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)); }
