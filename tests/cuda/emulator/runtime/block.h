// The runtime's own view of a block and its threads.
#pragma once
#include <cstddef>
#include <string>
#include <vector>

#include "state.h"

namespace emu {
constexpr size_t kStackBytes = 64 * 1024;
// From one stack to the next: an odd number of cache lines more, or the tops of all of them would
// share a few sets of the cache.
constexpr size_t kStackStride = kStackBytes + 9 * 64;
constexpr unsigned long long kCanary = 0x5afe57ac5afe57acull;

enum Condition : unsigned char { READY, AT_BARRIER, AT_COLLECTIVE, DONE };

struct AsyncCopy {
  void* shared;
  unsigned char data[16];
};
struct Thread : Fiber {
  void* stack_pointer;
  Condition condition;
  Place place;
  unsigned mask;
  Op op;
  std::vector<AsyncCopy> open;                 // cp.async since the last commit
  std::vector<std::vector<AsyncCopy>> groups;  // committed, not yet landed
};
struct Meeting {  // lanes of one mask on their way to the same collective
  unsigned mask = 0, arrived = 0, generation = 0;
  Op op = OP_NONE;
  Place place{};
  alignas(16) unsigned char values[2][kWarp][64];  // two generations: fast lanes may be at the next one
};
struct Warp {
  std::vector<Meeting> meetings;
  unsigned exited = 0;
  unsigned epoch = 0;  // __syncwarp passed
};
struct Block {
  int n = 0, alive = 0, waiting = 0;
  unsigned epoch = 0;  // barriers passed, over all blocks: two blocks never share one
  Thread threads[kMaxThreads];
  Warp warps[kMaxThreads / kWarp];
  std::vector<int> ready;
  size_t next = 0;  // of `ready`
  bool barrier_open = false;
  Place barrier_place{};
  int barrier_sum = 0, barrier_result = 0;
  int order = 0;
  unsigned long long random_state = 1;
  bool failed = false;
  std::string error;
  char* stacks = nullptr;
  void* scheduler_sp = nullptr;
  void (*entry)(void**) = nullptr;
  void** arguments = nullptr;
  unsigned long long switches = 0, collectives = 0, barriers = 0;
};
extern Block* const the_block;
inline Block& block() { return *the_block; }
inline Thread& running() { return *static_cast<Thread*>(state.fiber); }
unsigned long long next_random(Block& b);
void run_block(Block& b);
void leave();                 // from a fiber to the next that is ready, or to the scheduler
inline void make_ready(Block& b, int thread) {
  b.threads[thread].condition = READY;
  b.ready.push_back(thread);
}
void open_barrier(Block& b);  // everybody is there
[[noreturn]] void fail_at(const std::string& message, Place at);

// What the checker wants to know; empty functions in the fast runtime.
void on_launch_begin(const void* entry);
void on_block_begin(Block& b);
void on_barrier(Block& b);
void on_collective(Block& b, int warp);
void on_block_end(Block& b);
}  // namespace emu
