// One launch: limits, the order of the blocks, poisoned shared memory, and the error's text.
#include "launch.h"

#include <unistd.h>
#include <xmmintrin.h>

#include <atomic>
#include <cstdio>
#include <numeric>

#include "block.h"

namespace emu {
static int refuse(char* error, int size, const std::string& message) {
  snprintf(error, (size_t)size, "%s", message.c_str());
  return 1;
}

static const char* limits_broken(const Launch& l) {
  long threads = (long)l.block[0] * l.block[1] * l.block[2];
  if (threads < 1 || threads > kMaxThreads || l.block[2] > 64) return "a block has 1 to 1024 threads";
  if (l.grid[0] < 1 || l.grid[1] < 1 || l.grid[2] < 1) return "a grid has at least one block";
  if (l.grid[1] > 65535 || l.grid[2] > 65535) return "grid y and z are at most 65535";
  if (l.dynamic_shared < 0 || l.dynamic_shared > kMaxDynamicShared) return "dynamic shared memory is at most 227 KiB";
  return nullptr;
}

// Blocks in the order they run. Launches beyond 2^22 blocks run in order or in reverse.
static std::vector<unsigned> block_order(Block& b, size_t n) {
  std::vector<unsigned> order;
  if (b.order != 2 || n > (1u << 22)) return order;
  order.resize(n);
  std::iota(order.begin(), order.end(), 0u);
  for (size_t i = n; i > 1; i--) std::swap(order[i - 1], order[next_random(b) % i]);
  return order;
}

// One block at a time, whosever it is: launches of several threads take turns in the order they come.
class Turn {
  static std::atomic<unsigned> next_, serving_;

 public:
  Turn() {
    for (unsigned mine = next_++; serving_ != mine;) usleep(20);
  }
  ~Turn() { serving_++; }
};
std::atomic<unsigned> Turn::next_{0}, Turn::serving_{0};

struct Running {  // one launch between its turns
  const Launch& launch;
  void (*entry)(void**);
  unsigned long long random_state;
  std::string error;
};

static void take_over(Block& b, const Running& r) {
  const Launch& l = r.launch;
  b.failed = false;
  b.error.clear();
  b.entry = r.entry;
  b.arguments = l.arguments;
  b.order = l.order;
  b.random_state = r.random_state;
  state.grid = {(unsigned)l.grid[0], (unsigned)l.grid[1], (unsigned)l.grid[2]};
  state.block = {(unsigned)l.block[0], (unsigned)l.block[1], (unsigned)l.block[2]};
  state.dynamic_bytes = l.dynamic_shared;
}

static void run_blocks(Block& b, Running& r) {
  const Launch& l = r.launch;
  size_t x = (size_t)l.grid[0], y = (size_t)l.grid[1], n = x * y * (size_t)l.grid[2];
  std::vector<unsigned> order;
  for (size_t i = 0; i < n && r.error.empty(); i++) {
    Turn turn;
    take_over(b, r);
    if (i == 0) {
      on_launch_begin((const void*)r.entry);
      order = block_order(b, n);
    }
    size_t j = order.empty() ? (b.order ? n - 1 - i : i) : order[i];
    state.block_index = {(unsigned)(j % x), (unsigned)(j / x % y), (unsigned)(j / (x * y))};
    memset(state.shared, 0xff, (size_t)l.dynamic_shared);  // NaN for float and half
    run_block(b);
    r.random_state = b.random_state;
    if (b.failed) r.error = b.error;
  }
}

int run(const Launch& l, void (*entry)(void**), char* error, int error_size) {
  if (const char* broken = limits_broken(l)) return refuse(error, error_size, broken);
  Running r{l, entry, l.seed * 0x9E3779B97F4A7C15ull + 1, ""};
  unsigned rounding = _mm_getcsr();
  _mm_setcsr(rounding | 0x8040);  // flush denormals, as CuPy's -ftz=true does
  run_blocks(block(), r);
  _mm_setcsr(rounding);
  return r.error.empty() ? 0 : refuse(error, error_size, r.error);
}
}  // namespace emu

extern "C" void emu_counts(unsigned long long* out) {  // fiber switches, collectives, barriers since the last call
  emu::Block& b = emu::block();
  out[0] = b.switches;
  out[1] = b.collectives;
  out[2] = b.barriers;
  b.switches = b.collectives = b.barriers = 0;
}
