// float4, uint4 and their like. They copy themselves with ONE access of their full size, as the GPU
// does: a misaligned vector access faults, and the checker sees one 16-byte request, not four of 4.
#pragma once
#include "keywords.h"

namespace emu {
typedef int Bytes16 __attribute__((vector_size(16), may_alias));
typedef long long Bytes8 __attribute__((may_alias));
typedef int Bytes4 __attribute__((may_alias));
typedef short Bytes2 __attribute__((may_alias));
template <int N> struct Whole;
template <> struct Whole<16> { typedef Bytes16 type; };
template <> struct Whole<8> { typedef Bytes8 type; };
template <> struct Whole<4> { typedef Bytes4 type; };
template <> struct Whole<2> { typedef Bytes2 type; };
template <int N> inline __attribute__((always_inline)) void copy_whole(void* to, const void* from) {
  *(typename Whole<N>::type*)to = *(const typename Whole<N>::type*)from;
}
}  // namespace emu

#define EMU_COPIES_WHOLE(name, size)                                                  \
  __forceinline__ name(const name& o) { emu::copy_whole<size>(this, &o); }            \
  __forceinline__ name& operator=(const name& o) {                                    \
    emu::copy_whole<size>(this, &o);                                                  \
    return *this;                                                                     \
  }
#define EMU_VECTOR2(T, name)                                       \
  struct alignas(2 * sizeof(T)) name {                             \
    T x, y;                                                        \
    name() = default;                                              \
    __forceinline__ constexpr name(T a, T b) : x(a), y(b) {}       \
    EMU_COPIES_WHOLE(name, 2 * sizeof(T))                          \
  };                                                               \
  __forceinline__ name make_##name(T x, T y) { return name(x, y); }
#define EMU_VECTOR4(T, name)                                                              \
  struct alignas(4 * sizeof(T)) name {                                                    \
    T x, y, z, w;                                                                         \
    name() = default;                                                                     \
    __forceinline__ constexpr name(T a, T b, T c, T d) : x(a), y(b), z(c), w(d) {}        \
    EMU_COPIES_WHOLE(name, 4 * sizeof(T))                                                 \
  };                                                                                      \
  __forceinline__ name make_##name(T x, T y, T z, T w) { return name(x, y, z, w); }

EMU_VECTOR2(float, float2)
EMU_VECTOR4(float, float4)
EMU_VECTOR2(double, double2)
EMU_VECTOR2(int, int2)
EMU_VECTOR4(int, int4)
EMU_VECTOR2(unsigned, uint2)
EMU_VECTOR4(unsigned, uint4)
EMU_VECTOR2(unsigned char, uchar2)
EMU_VECTOR4(unsigned char, uchar4)
EMU_VECTOR2(unsigned short, ushort2)
EMU_VECTOR4(unsigned short, ushort4)
EMU_VECTOR2(long long, longlong2)
EMU_VECTOR2(unsigned long long, ulonglong2)
