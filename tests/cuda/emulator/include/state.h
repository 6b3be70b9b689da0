// What a kernel's code shares with the runtime: the running thread and block, and the calls that
// make threads meet. The runtime is a library of its own, compiled once (../runtime).
#pragma once
#include "keywords.h"

namespace emu {
constexpr int kWarp = 32, kMaxThreads = 1024;
constexpr long kMaxDynamicShared = 227 * 1024;  // sm_90 and sm_100; the device's own limit is checked in Python

struct Place {  // where in the source a call stands
  const char* file;
  int line;
};

struct Fiber {  // one CUDA thread; the head that kernels read, the rest is the runtime's
  uint3 tid;
  int linear;
  int quiet;  // > 0: accesses are the emulator's own, the checker looks away
};

enum Op : unsigned char { OP_NONE, OP_SHUFFLE, OP_VOTE, OP_SYNCWARP, OP_MATCH, OP_REDUCE, OP_MMA, OP_LDMATRIX };

struct State {
  Fiber* fiber = nullptr;  // the running thread
  dim3 grid, block;
  uint3 block_index;
  long dynamic_bytes = 0;
  alignas(1024) unsigned char shared[kMaxDynamicShared];  // the last member: the checker knows
};
extern State state;

struct Quiet {  // for as long as it lives, accesses are the emulator's own
  Fiber* f;
  __forceinline__ Quiet() : f(state.fiber) { f->quiet++; }
  __forceinline__ ~Quiet() { f->quiet--; }
};

enum Vote { BARRIER_PLAIN, BARRIER_COUNT, BARRIER_OR, BARRIER_AND };
int barrier(int predicate, Vote vote, Place at);
// All lanes of `mask` meet; returns what each gave (`size` bytes of `in`), by lane.
const unsigned char (*collective(unsigned mask, Op op, const void* in, int size, Place at))[64];
[[noreturn]] void fail(const char* message, Place at);
void cp_async(void* shared, const void* value);
void cp_async_commit();
bool cp_async_next(int open_groups, void** shared, void* value);  // one copy that must land now
void fence();   // __threadfence, for the checker's order between blocks
void atomic_at(const void* address);  // an atomic is about to happen there

__forceinline__ unsigned char* dynamic_shared() { return state.shared; }
__forceinline__ int lane() { return state.fiber->linear & 31; }
}  // namespace emu

#define threadIdx (emu::state.fiber->tid)
#define blockIdx (emu::state.block_index)
#define blockDim (emu::state.block)
#define gridDim (emu::state.grid)
#define EMU_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()
#define EMU_PLACE (emu::Place{file, line})
