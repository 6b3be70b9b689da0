// One launch: limits, the order of the blocks, poisoned shared memory, and the error's text.
#include "launch.h"

#include <xmmintrin.h>

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

static void run_blocks(Block& b, const Launch& l) {
  size_t x = (size_t)l.grid[0], y = (size_t)l.grid[1], n = x * y * (size_t)l.grid[2];
  std::vector<unsigned> order = block_order(b, n);
  for (size_t i = 0; i < n && !b.failed; i++) {
    size_t j = order.empty() ? (b.order ? n - 1 - i : i) : order[i];
    state.block_index = {(unsigned)(j % x), (unsigned)(j / x % y), (unsigned)(j / (x * y))};
    memset(state.shared, 0xff, (size_t)l.dynamic_shared);  // NaN for float and half
    run_block(b);
  }
}

int run(const Launch& l, void (*entry)(void**), char* error, int error_size) {
  if (const char* broken = limits_broken(l)) return refuse(error, error_size, broken);
  Block& b = block();
  b.failed = false;
  b.error.clear();
  b.entry = entry;
  b.arguments = l.arguments;
  b.order = l.order;
  b.random_state = l.seed * 0x9E3779B97F4A7C15ull + 1;
  state.grid = {(unsigned)l.grid[0], (unsigned)l.grid[1], (unsigned)l.grid[2]};
  state.block = {(unsigned)l.block[0], (unsigned)l.block[1], (unsigned)l.block[2]};
  state.dynamic_bytes = l.dynamic_shared;
  on_launch_begin((const void*)entry);
  unsigned rounding = _mm_getcsr();
  _mm_setcsr(rounding | 0x8040);  // flush denormals, as CuPy's -ftz=true does
  run_blocks(b, l);
  _mm_setcsr(rounding);
  return b.failed ? refuse(error, error_size, b.error) : 0;
}
}  // namespace emu

extern "C" void emu_counts(unsigned long long* out) {  // fiber switches, collectives, barriers since the last call
  emu::Block& b = emu::block();
  out[0] = b.switches;
  out[1] = b.collectives;
  out[2] = b.barriers;
  b.switches = b.collectives = b.barriers = 0;
}
