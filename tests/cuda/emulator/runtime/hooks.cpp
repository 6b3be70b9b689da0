// The functions that code compiled with -fsanitize=thread calls before each access. libtsan is not
// linked: these are all there are, so the checker works inside any Python, with nothing preloaded.
#include <algorithm>

#include "check.h"

#define CALLER __builtin_return_address(0)
static void plain(void* p, int size, bool write, void* pc) { emu::on_access({(uintptr_t)p, size, write, false, pc}); }

#define EMU_ACCESS(n)                                                                 \
  extern "C" void __tsan_read##n(void* p) { plain(p, n, false, CALLER); }             \
  extern "C" void __tsan_write##n(void* p) { plain(p, n, true, CALLER); }             \
  extern "C" void __tsan_unaligned_read##n(void* p) { plain(p, n, false, CALLER); }   \
  extern "C" void __tsan_unaligned_write##n(void* p) { plain(p, n, true, CALLER); }   \
  extern "C" void __tsan_volatile_read##n(void* p) { plain(p, n, false, CALLER); }    \
  extern "C" void __tsan_volatile_write##n(void* p) { plain(p, n, true, CALLER); }
EMU_ACCESS(1)
EMU_ACCESS(2)
EMU_ACCESS(4)
EMU_ACCESS(8)
EMU_ACCESS(16)

static void range(void* p, size_t n, bool write, void* pc) {  // memcpy and struct copies: a word at a time
  for (size_t i = 0; i < n;) {
    uintptr_t a = (uintptr_t)p + i;
    size_t size = a % 4 || n - i < 4 ? 1 : 4;
    emu::on_access({a, (int)size, write, false, pc});
    i += size;
  }
}
extern "C" void __tsan_read_range(void* p, size_t n) { range(p, n, false, CALLER); }
extern "C" void __tsan_write_range(void* p, size_t n) { range(p, n, true, CALLER); }
extern "C" void __tsan_func_entry(void*) {}
extern "C" void __tsan_func_exit() {}
extern "C" void __tsan_init() {}
extern "C" void __tsan_vptr_update(void**, void*) {}
extern "C" void __tsan_vptr_read(void**) {}

template <class T> static void atomic(const volatile T* p, bool write, void* pc) {
  emu::on_access({(uintptr_t)p, (int)sizeof(T), write, true, pc});
}
#define EMU_ATOMIC_HOOKS(bits, T)                                                                       \
  extern "C" T __tsan_atomic##bits##_load(const volatile T* p, int) {                                   \
    atomic(p, false, CALLER);                                                                           \
    return *p;                                                                                          \
  }                                                                                                     \
  extern "C" void __tsan_atomic##bits##_store(volatile T* p, T v, int) {                                \
    atomic(p, true, CALLER);                                                                            \
    *p = v;                                                                                             \
  }                                                                                                     \
  extern "C" int __tsan_atomic##bits##_compare_exchange_strong(volatile T* p, T* c, T v, int, int) {    \
    atomic(p, true, CALLER);                                                                            \
    if (*p != *c) return *c = *p, 0;                                                                    \
    return *p = v, 1;                                                                                   \
  }                                                                                                     \
  extern "C" T __tsan_atomic##bits##_compare_exchange_val(volatile T* p, T c, T v, int, int) {          \
    atomic(p, true, CALLER);                                                                            \
    T old = *p;                                                                                         \
    if (old == c) *p = v;                                                                               \
    return old;                                                                                         \
  }
EMU_ATOMIC_HOOKS(32, uint32_t)
EMU_ATOMIC_HOOKS(64, uint64_t)
// g++ guards block-scope arrays of classes; CUDA has no atomics of a byte.
extern "C" uint8_t __tsan_atomic8_load(const volatile uint8_t* p, int) { return *p; }
