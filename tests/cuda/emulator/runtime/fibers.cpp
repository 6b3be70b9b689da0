// Fibers and their scheduler: runs one block, a thread at a time, until all have ended.
#include <sys/mman.h>

#include <cstdlib>
#include <utility>

#include "block.h"

#if !defined(__x86_64__)
#error "the emulator's context switch is written for x86-64 only"
#endif

// System V ABI: rbx, rbp, r12..r15 and rsp are the callee's to keep.
extern "C" void emu_switch(void** save, void* to) __attribute__((visibility("hidden")));
asm(R"(
.text
.hidden emu_switch
.globl emu_switch
.type emu_switch,@function
emu_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");

namespace emu {
State state;

Block* const the_block = new Block;

unsigned long long next_random(Block& b) {  // xorshift64
  b.random_state ^= b.random_state << 13;
  b.random_state ^= b.random_state >> 7;
  b.random_state ^= b.random_state << 17;
  return b.random_state;
}

static unsigned long long& canary_of(Block& b, int thread) { return *(unsigned long long*)(b.stacks + kStackStride * thread); }

// Takes the next thread that can run; -1 when nobody can.
static int next_ready(Block& b) {
  if (b.next == b.ready.size()) return -1;
  if (b.order == 2) {  // the high half of a product instead of a slow remainder
    size_t other = b.next + (size_t)((next_random(b) >> 32) * (b.ready.size() - b.next) >> 32);
    std::swap(b.ready[b.next], b.ready[other]);
  }
  int i = b.ready[b.next++];
  if (b.next > 4 * kMaxThreads) {
    b.ready.erase(b.ready.begin(), b.ready.begin() + (long)b.next);
    b.next = 0;
  }
  return i;
}

void leave() {
  Block& b = block();
  Thread& t = running();
  if (canary_of(b, t.linear) != kCanary && !b.failed) {
    b.failed = true;
    b.error = "a thread used more than 64 KiB of stack";
  }
  b.switches++;
  int i = b.failed ? -1 : next_ready(b);
  void* to = b.scheduler_sp;
  if (i >= 0) {
    state.fiber = &b.threads[i];
    to = b.threads[i].stack_pointer;
  }
  emu_switch(&t.stack_pointer, to);
}

static void end_thread() {
  Block& b = block();
  Thread& t = running();
  t.quiet++;
  if (!t.open.empty() || !t.groups.empty()) fail_at("a thread ends with cp.async copies that were never waited for", t.place);
  t.condition = DONE;
  b.alive--;
  b.warps[t.linear / kWarp].exited |= 1u << (t.linear % kWarp);
}

static void first_function() {
  block().entry(block().arguments);
  end_thread();
  leave();
  abort();
}

static void make_threads(Block& b) {
  if (!b.stacks)
    b.stacks = (char*)mmap(nullptr, kStackStride * kMaxThreads, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  for (int i = 0; i < b.n; i++) {
    Thread& t = b.threads[i];
    unsigned u = (unsigned)i, x = state.block.x, y = state.block.y;
    t.tid = {u % x, u / x % y, u / (x * y)};
    t.linear = i;
    t.quiet = 1;
    t.place = {"", 0};
    t.open.clear();
    t.groups.clear();
    canary_of(b, i) = kCanary;
    // `ret` of the switch enters first_function with rsp = 8 mod 16, as after a call.
    void** sp = (void**)(b.stacks + kStackStride * i + kStackBytes - 64);
    *--sp = nullptr;
    *--sp = (void*)first_function;
    for (int saved = 0; saved < 6; saved++) *--sp = nullptr;
    t.stack_pointer = sp;
  }
}

static void first_order(Block& b) {
  b.ready.clear();
  b.next = 0;
  for (int i = 0; i < b.n; i++) make_ready(b, b.order == 1 ? b.n - 1 - i : i);
}

static const char* const kOpNames[] = {"-", "__shfl_*_sync", "a vote", "__syncwarp", "__match_any_sync", "__reduce_*_sync", "mma", "ldmatrix"};

static void fail_deadlock(Block& b) {
  std::string message = "deadlock:";
  int shown = 0;
  for (int i = 0; i < b.n && shown < 4; i++) {
    Thread& t = b.threads[i];
    if (t.condition == DONE) continue;
    if (i % kWarp && b.threads[i - 1].condition == t.condition && b.threads[i - 1].place.line == t.place.line) continue;
    message += std::string(shown++ ? ";" : "") + " thread " + std::to_string(i) + " waits at " +
               (t.condition == AT_BARRIER ? "__syncthreads" : kOpNames[t.op]) + " " + t.place.file + ":" + std::to_string(t.place.line);
  }
  b.failed = true;
  b.error = message;
}

static void nobody_is_ready(Block& b) {
  b.ready.clear();
  b.next = 0;
  if (b.waiting && b.waiting == b.alive) open_barrier(b);
  else fail_deadlock(b);
  if (b.order == 1)
    for (size_t i = 0, j = b.ready.size(); i + 1 < j; i++) std::swap(b.ready[i], b.ready[--j]);
}

void run_block(Block& b) {
  b.n = b.alive = (int)(state.block.x * state.block.y * state.block.z);
  b.waiting = 0;
  b.barrier_open = false;
  b.epoch++;
  for (int w = 0; w * kWarp < b.n; w++) {
    b.warps[w].meetings.clear();
    b.warps[w].exited = 0;
    b.warps[w].epoch++;
  }
  make_threads(b);
  first_order(b);
  on_block_begin(b);
  while (b.alive && !b.failed) {  // after a failure the fibers are left where they stand
    int i = next_ready(b);
    if (i < 0) {
      nobody_is_ready(b);
      continue;
    }
    state.fiber = &b.threads[i];
    b.switches++;
    emu_switch(&b.scheduler_sp, b.threads[i].stack_pointer);
    state.fiber = nullptr;
  }
  on_block_end(b);
}
}  // namespace emu
