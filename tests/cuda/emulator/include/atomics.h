// Atomic functions and fences. Each is one atomic of the host, so the checker sees it as such.
#pragma once
#include "state.h"

inline void __threadfence() { emu::fence(); }
inline void __threadfence_system() { emu::fence(); }
inline void __threadfence_block() {}
[[noreturn]] inline void __trap(EMU_HERE) { emu::fail("__trap()", EMU_PLACE); }

namespace emu {
template <class T> struct Bits { typedef typename std::conditional<sizeof(T) == 8, uint64_t, uint32_t>::type type; };
// *p = combined(*p) as one step; returns what was there.
template <class T, class F> __forceinline__ T update(T* p, F combined) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "atomics take 4 or 8 bytes");
  typedef typename Bits<T>::type U;
  atomic_at(p);
  U* q = (U*)p;
  U old = __atomic_load_n(q, __ATOMIC_RELAXED), now;
  T before;
  do {
    memcpy((void*)&before, &old, sizeof before);
    T after = combined(before);
    memcpy(&now, (const void*)&after, sizeof now);
  } while (!__atomic_compare_exchange_n(q, &old, now, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return before;
}
}  // namespace emu
#define EMU_ATOMIC(name, after)                             \
  template <class T, class U> __forceinline__ T name(T* p, U given) { \
    T v = (T)given;                                         \
    return emu::update(p, [v](T o) -> T { return after; }); \
  }
EMU_ATOMIC(atomicAdd, o + v)
EMU_ATOMIC(atomicSub, o - v)
EMU_ATOMIC(atomicMin, v < o ? v : o)
EMU_ATOMIC(atomicMax, v > o ? v : o)
EMU_ATOMIC(atomicOr, o | v)
EMU_ATOMIC(atomicAnd, o& v)
EMU_ATOMIC(atomicXor, o ^ v)
EMU_ATOMIC(atomicExch, v)
inline unsigned atomicInc(unsigned* p, unsigned limit) {
  return emu::update(p, [limit](unsigned o) { return o >= limit ? 0u : o + 1; });
}
template <class T> __forceinline__ T atomicCAS(T* p, T expected, T v) {
  return emu::update(p, [expected, v](T o) -> T { return o == expected ? v : o; });
}
