// The way in from Python: a C function for each kernel instance, with its parameter types.
#pragma once
#include <tuple>

#include "cuda_fp16.h"
#include "state.h"

namespace emu {
// 1000 for pointers; 2xx float, 3xx signed, 4xx unsigned, 500 anything else; xx = bytes.
template <class T> constexpr int type_code() {
  if (std::is_pointer<T>::value) return 1000;
  if (std::is_same<T, __half>::value) return 202;
  if (std::is_floating_point<T>::value) return 200 + (int)sizeof(T);
  if (std::is_integral<T>::value) return (std::is_signed<T>::value ? 300 : 400) + (int)sizeof(T);
  return 500;
}
struct Launch {
  int grid[3], block[3];
  long dynamic_shared;
  void** arguments;  // one pointer to each value, as cuLaunchKernel takes them
  int order;         // 0 in order, 1 reverse, 2 random
  unsigned long long seed;
};
// Runs every block; returns 0, or 1 with the reason in `error`.
int run(const Launch& launch, void (*entry)(void**), char* error, int error_size);

template <auto K> struct Kernel;
template <class... A, void (*K)(A...)> struct Kernel<K> {
  template <size_t... I> static __forceinline__ void call(void** a, std::index_sequence<I...>) {
    std::tuple<A...> given{*(typename std::remove_reference<A>::type*)a[I]...};  // read before the checker begins to look
    state.fiber->quiet = 0;
    K(std::get<I>(given)...);
  }
  static void entry(void** a) { call(a, std::index_sequence_for<A...>{}); }
  static int parameters(int* codes, int* sizes) {
    const int c[] = {type_code<A>()..., 0}, s[] = {(int)sizeof(A)..., 0};
    for (unsigned i = 0; i < sizeof...(A); i++) codes[i] = c[i], sizes[i] = s[i];
    return (int)sizeof...(A);
  }
};
}  // namespace emu

#define EMU_KERNEL(symbol, ...)                                                                            \
  extern "C" __attribute__((visibility("default"))) int emu_run_##symbol(const emu::Launch* l, char* e, int n) { \
    return emu::run(*l, emu::Kernel<__VA_ARGS__>::entry, e, n);                                            \
  }                                                                                                        \
  extern "C" __attribute__((visibility("default"))) int emu_parameters_##symbol(int* codes, int* sizes) {  \
    return emu::Kernel<__VA_ARGS__>::parameters(codes, sizes);                                             \
  }
