// Shared memory by 32-bit addresses, for loops whose address arithmetic must be as short as written.
// The emulator counts from the start of dynamic shared memory.
//
// Loads by such addresses say nothing of memory to the compiler, so that it may order them freely;
// what keeps them behind the stores that they read is the address itself: take it after the barrier
// (it is volatile), and write no more there.
#pragma once
#include "compat.cuh"

#ifdef EMULATED
DEVICE u32 shared_address(const void* p) {
  return (u32)((const char*)p - (const char*)emu::dynamic_shared());
}
DEVICE float shared_float(u32 address) {
  return *(const float*)((const char*)emu::dynamic_shared() + address);  // @table-entry
}
DEVICE f16 shared_half(u32 address) {
  return *(const f16*)((const char*)emu::dynamic_shared() + address);  // @half-table-entry
}
#else
DEVICE u32 shared_address(const void* p) {
  u32 address = (u32)__cvta_generic_to_shared(p);
  asm volatile("" : "+r"(address) : : "memory");
  return address;
}
DEVICE float shared_float(u32 address) {
  float x;
  asm("ld.shared.f32 %0, [%1];" : "=f"(x) : "r"(address));
  return x;
}
DEVICE f16 shared_half(u32 address) {
  __half_raw x;
  asm("ld.shared.u16 %0, [%1];" : "=h"(x.x) : "r"(address));
  return f16(x);
}
#endif
