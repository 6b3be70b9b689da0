// What a warp's loads and stores cost: 32-byte sectors of each global request, wavefronts of each
// shared one (CUDA C++ Best Practices Guide, "Coalesced Access", "Shared Memory and Memory Banks").
// Threads run one after another, so each lane's accesses are kept until the warp meets, and then
// put side by side: lanes at the lowest program counter go first, which is where structured code
// comes together again.
#include <algorithm>
#include <unordered_map>

#include "check.h"

namespace emu {
namespace {
constexpr size_t kMostTraced = 16384;  // of one lane between two meetings; more is not counted
struct Traced {
  void* pc;
  uintptr_t address;
  int size;
  bool shared;
};
struct Cost {
  unsigned long long requests = 0, cost = 0, ideal = 0, bytes = 0;
};
std::vector<Traced> traces[kMaxThreads];
std::unordered_map<void*, Cost> costs[2];  // global, shared

struct Request {
  int lanes = 0;
  uintptr_t address[kWarp];
  int lane[kWarp];
  int size = 0;
  bool shared = false;
};

int distinct(std::vector<uintptr_t>& v) {
  std::sort(v.begin(), v.end());
  return (int)(std::unique(v.begin(), v.end()) - v.begin());
}

void count_global(const Request& r, Cost& c) {
  std::vector<uintptr_t> sectors, granules;
  uintptr_t granule = (uintptr_t)r.size;  // accesses are aligned to their size
  for (int i = 0; i < r.lanes; i++) {
    sectors.push_back(r.address[i] / 32);
    granules.push_back(r.address[i] / granule);
  }
  c.cost += (unsigned)distinct(sectors);
  c.ideal += ((unsigned)distinct(granules) * (unsigned)r.size + 31) / 32;
}

// 8-byte accesses go in two halves of the warp, 16-byte ones in four quarters.
void count_shared(const Request& r, Cost& c) {
  int lanes_at_once = r.size == 16 ? 8 : r.size == 8 ? 16 : 32;
  for (int phase = 0; phase < kWarp / lanes_at_once; phase++) {
    std::vector<uintptr_t> words;
    for (int i = 0; i < r.lanes; i++)
      if (r.lane[i] / lanes_at_once == phase)
        for (uintptr_t w = r.address[i] / 4; w <= (r.address[i] + (uintptr_t)r.size - 1) / 4; w++) words.push_back(w);
    if (words.empty()) continue;
    int n = distinct(words), in_bank[32] = {}, most = 0;
    for (int i = 0; i < n; i++) most = std::max(most, ++in_bank[words[(size_t)i] % 32]);
    c.cost += (unsigned)most;
    c.ideal += (unsigned)(n + 31) / 32;
  }
}
}  // namespace

void trace(const Thread& t, const Access& a, bool shared) {
  std::vector<Traced>& mine = traces[t.linear];
  if (mine.size() < kMostTraced) mine.push_back({a.pc, a.address, a.size, shared});
}

void flush_warp(Block& b, int warp) {
  if (!(check_options & CHECK_TRAFFIC)) return;
  int n = std::min(kWarp, b.n - warp * kWarp);
  size_t next[kWarp] = {};
  std::vector<Traced>* lanes = traces + warp * kWarp;
  for (;;) {
    void* pc = nullptr;
    for (int l = 0; l < n; l++)
      if (next[l] < lanes[l].size() && (!pc || lanes[l][next[l]].pc < pc)) pc = lanes[l][next[l]].pc;
    if (!pc) break;
    Request r;
    for (int l = 0; l < n; l++)
      if (next[l] < lanes[l].size() && lanes[l][next[l]].pc == pc) {
        const Traced& t = lanes[l][next[l]++];
        r.address[r.lanes] = t.address;
        r.lane[r.lanes++] = l;
        r.size = t.size;
        r.shared = t.shared;
      }
    Cost& c = costs[r.shared][pc];
    c.requests++;
    c.bytes += (unsigned)(r.lanes * r.size);
    if (r.shared) count_shared(r, c);
    else count_global(r, c);
  }
  for (int l = 0; l < n; l++) lanes[l].clear();
}

static void flush_block(Block& b) {
  for (int w = 0; w * kWarp < b.n; w++) flush_warp(b, w);
}
void on_barrier(Block& b) { flush_block(b); }
void on_collective(Block& b, int warp) { flush_warp(b, warp); }
void on_block_end(Block& b) { flush_block(b); }
}  // namespace emu

// Rows of six: shared?, program counter, requests, sectors or wavefronts, the ideal, bytes.
extern "C" int emu_traffic(unsigned long long* rows, int most) {
  int n = 0;
  for (int shared = 0; shared < 2; shared++)
    for (auto& e : emu::costs[shared]) {
      if (n == most) return n;
      unsigned long long* row = rows + 6 * n++;
      row[0] = (unsigned)shared;
      row[1] = (uintptr_t)e.first;
      row[2] = e.second.requests;
      row[3] = e.second.cost;
      row[4] = e.second.ideal;
      row[5] = e.second.bytes;
    }
  return n;
}
extern "C" void emu_traffic_clear() {
  emu::costs[0].clear();
  emu::costs[1].clear();
}
