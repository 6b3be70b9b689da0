// Barriers, votes, shuffles and reductions (CUDA C++ Programming Guide, "Warp ... Functions").
#pragma once
#include "state.h"

inline void __syncthreads(EMU_HERE) { emu::barrier(0, emu::BARRIER_PLAIN, EMU_PLACE); }
inline int __syncthreads_count(int p, EMU_HERE) { return emu::barrier(p, emu::BARRIER_COUNT, EMU_PLACE); }
inline int __syncthreads_or(int p, EMU_HERE) { return emu::barrier(p, emu::BARRIER_OR, EMU_PLACE); }
inline int __syncthreads_and(int p, EMU_HERE) { return emu::barrier(p, emu::BARRIER_AND, EMU_PLACE); }
inline void __syncwarp(unsigned mask = ~0u, EMU_HERE) { emu::collective(mask, emu::OP_SYNCWARP, nullptr, 0, EMU_PLACE); }

inline unsigned __ballot_sync(unsigned mask, int p, EMU_HERE) {
  emu::Quiet quiet;
  auto* votes = emu::collective(mask, emu::OP_VOTE, &p, 4, EMU_PLACE);
  unsigned r = 0;
  for (int l = 0; l < 32; l++)
    if (mask >> l & 1) {
      int vote;
      memcpy(&vote, votes[l], 4);
      r |= (unsigned)(vote != 0) << l;
    }
  return r;
}
inline int __any_sync(unsigned mask, int p, EMU_HERE) { return __ballot_sync(mask, p, file, line) != 0; }
inline int __all_sync(unsigned mask, int p, EMU_HERE) { return __ballot_sync(mask, p, file, line) == mask; }
inline unsigned __activemask(EMU_HERE) { emu::fail("__activemask() is not portable: pass an explicit mask", EMU_PLACE); }

namespace emu {
template <class T> inline T shuffle(unsigned mask, T v, int source, Place at) {
  static_assert(sizeof(T) <= 8, "shuffles move up to 8 bytes");
  Quiet quiet;
  auto* values = collective(mask, OP_SHUFFLE, &v, sizeof v, at);
  if (!(mask >> source & 1)) fail("shuffle reads a lane that is not in the mask", at);
  T r;
  memcpy((void*)&r, values[source], sizeof r);
  return r;
}
}  // namespace emu
template <class T> inline T __shfl_sync(unsigned mask, T v, int source, int width = 32, EMU_HERE) {
  int l = emu::lane();
  return emu::shuffle(mask, v, (l & ~(width - 1)) | (source & (width - 1)), EMU_PLACE);
}
template <class T> inline T __shfl_xor_sync(unsigned mask, T v, int x, int width = 32, EMU_HERE) {
  int l = emu::lane(), s = l ^ x;
  return emu::shuffle(mask, v, s >= (l & ~(width - 1)) + width ? l : s, EMU_PLACE);
}
template <class T> inline T __shfl_down_sync(unsigned mask, T v, unsigned delta, int width = 32, EMU_HERE) {
  int l = emu::lane(), s = l + (int)delta;
  return emu::shuffle(mask, v, s >= (l & ~(width - 1)) + width ? l : s, EMU_PLACE);
}
template <class T> inline T __shfl_up_sync(unsigned mask, T v, unsigned delta, int width = 32, EMU_HERE) {
  int l = emu::lane(), s = l - (int)delta;
  return emu::shuffle(mask, v, s < (l & ~(width - 1)) ? l : s, EMU_PLACE);
}
template <class T> inline unsigned __match_any_sync(unsigned mask, T v, EMU_HERE) {
  emu::Quiet quiet;
  auto* values = emu::collective(mask, emu::OP_MATCH, &v, sizeof v, EMU_PLACE);
  unsigned r = 0;
  for (int l = 0; l < 32; l++)
    if ((mask >> l & 1) && !memcmp(values[l], &v, sizeof v)) r |= 1u << l;
  return r;
}
#define EMU_REDUCE(name, combined)                                                                  \
  template <class T> inline T name(unsigned mask, T v, EMU_HERE) {                                  \
    static_assert(std::is_integral<T>::value && sizeof(T) == 4, #name " takes 32-bit integers");    \
    static_assert(__CUDA_ARCH__ >= 800 && sizeof(T), #name " is of sm_80"); /* where it is used */  \
    emu::Quiet quiet;                                                                               \
    auto* values = emu::collective(mask, emu::OP_REDUCE, &v, 4, EMU_PLACE);                         \
    T r{};                                                                                          \
    bool first = true;                                                                              \
    for (int l = 0; l < 32; l++)                                                                    \
      if (mask >> l & 1) {                                                                          \
        T x;                                                                                        \
        memcpy(&x, values[l], 4);                                                                   \
        r = first ? x : (T)(combined);                                                              \
        first = false;                                                                              \
      }                                                                                             \
    return r;                                                                                       \
  }
EMU_REDUCE(__reduce_add_sync, r + x)
EMU_REDUCE(__reduce_min_sync, r < x ? r : x)
EMU_REDUCE(__reduce_max_sync, r > x ? r : x)
EMU_REDUCE(__reduce_or_sync, r | x)
EMU_REDUCE(__reduce_and_sync, r& x)
EMU_REDUCE(__reduce_xor_sync, r ^ x)
