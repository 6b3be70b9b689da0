// Where threads meet: barriers of the block, collectives of a warp, and the copies of cp.async.
#include <cstdio>
#include <cstdlib>

#include "block.h"

namespace emu {
static const char* const kOpNames[] = {"-", "__shfl_*_sync", "vote", "__syncwarp", "__match_any_sync", "__reduce_*_sync", "mma", "ldmatrix"};

static std::string text(Place at) { return std::string(at.file) + ":" + std::to_string(at.line); }

void fail_at(const std::string& message, Place at) {
  Block& b = block();
  if (!b.failed) {
    b.failed = true;
    Thread& t = running();
    char where[200];
    snprintf(where, sizeof where, " [block (%u,%u,%u) thread (%u,%u,%u) warp %d lane %d]", state.block_index.x, state.block_index.y,
             state.block_index.z, t.tid.x, t.tid.y, t.tid.z, t.linear / kWarp, t.linear % kWarp);
    b.error = message + (at.line ? " at " + text(at) : "") + where;
  }
  leave();
  abort();  // nobody comes back to a failed block
}
void fail(const char* message, Place at) { fail_at(message, at); }

static void wait_as(Condition condition, Place at) {
  Thread& t = running();
  t.condition = condition;
  t.place = at;
  leave();
}

void open_barrier(Block& b) {
  b.barrier_result = b.barrier_sum;
  b.waiting = 0;
  b.barrier_open = false;
  b.epoch++;
  b.barriers++;
  on_barrier(b);
  for (int i = 0; i < b.n; i++)
    if (b.threads[i].condition == AT_BARRIER) make_ready(b, i);
}

static void vote_at_barrier(Block& b, bool predicate, Vote vote) {
  if (vote == BARRIER_COUNT) b.barrier_sum += predicate;
  if (vote == BARRIER_OR) b.barrier_sum |= predicate;
  if (vote == BARRIER_AND) b.barrier_sum &= predicate;
}

int barrier(int predicate, Vote vote, Place at) {
  Quiet quiet;
  Block& b = block();
  if (b.barrier_open && b.barrier_place.line != at.line)
    fail_at("barrier divergence: other threads of the block wait at " + text(b.barrier_place) + ", this one", at);
  if (!b.barrier_open) b.barrier_sum = vote == BARRIER_AND;
  b.barrier_open = true;
  b.barrier_place = at;
  vote_at_barrier(b, predicate != 0, vote);
  b.waiting++;
  wait_as(AT_BARRIER, at);
  return b.barrier_result;
}

// Apart from what is always run: its strings would cost every call their room on the stack.
[[noreturn]] static __attribute__((noinline, cold)) void fail_meeting(const Meeting& m, Op op, Place at) {
  fail_at("lanes of one mask meet at different warp functions: " + std::string(kOpNames[m.op]) + " " + text(m.place) + " and " + kOpNames[op], at);
}
[[noreturn]] static __attribute__((noinline, cold)) void fail_mask(const char* wrong, Op op, Place at) { fail_at(std::string(kOpNames[op]) + wrong, at); }

static void check_mask(const Block& b, const Thread& t, unsigned mask, Op op, Place at) {
  int warp = t.linear / kWarp, lanes = b.n - warp * kWarp;
  unsigned exist = lanes >= kWarp ? ~0u : (1u << lanes) - 1;
  const char* wrong = nullptr;
  if (mask & b.warps[warp].exited) wrong = ": the mask names lanes that have ended";
  if (mask & ~exist) wrong = ": the mask names lanes that do not exist in this block";
  if (!(mask >> (t.linear % kWarp) & 1)) wrong = ": the calling lane is not in its own mask";
  if (wrong) fail_mask(wrong, op, at);
}

static __attribute__((noinline)) Meeting& new_meeting(Warp& w, unsigned mask) {
  w.meetings.reserve(64);  // lanes hold references while they wait
  if (w.meetings.size() == 64) fail_at("more than 64 different masks in one warp", running().place);
  w.meetings.emplace_back();
  w.meetings.back().mask = mask;
  return w.meetings.back();
}
static Meeting& meeting_of(Warp& w, unsigned mask) {
  for (Meeting& m : w.meetings)
    if (m.mask == mask) return m;
  return new_meeting(w, mask);
}

const unsigned char (*collective(unsigned mask, Op op, const void* in, int size, Place at))[64] {
  Quiet quiet;
  Block& b = block();
  Thread& t = running();
  t.place = at;
  t.mask = mask;
  t.op = op;
  check_mask(b, t, mask, op, at);
  int warp = t.linear / kWarp, lane = t.linear % kWarp;
  Meeting& m = meeting_of(b.warps[warp], mask);
  if (m.arrived && (m.op != op || m.place.line != at.line)) fail_meeting(m, op, at);
  m.op = op;
  m.place = at;
  unsigned generation = m.generation & 1;
  if (size == 4) memcpy(m.values[generation][lane], in, 4);  // most of them
  else memcpy(m.values[generation][lane], in, (size_t)size);
  m.arrived |= 1u << lane;
  if (m.arrived != mask) {
    wait_as(AT_COLLECTIVE, at);
    return m.values[generation];
  }
  m.arrived = 0;
  m.generation++;
  b.collectives++;
  if (op == OP_SYNCWARP) b.warps[warp].epoch++;  // the only one that orders memory
  on_collective(b, warp);
  for (int l = 0; l < kWarp; l++)
    if (l != lane && (mask >> l & 1)) make_ready(b, warp * kWarp + l);
  return m.values[generation];
}

void cp_async(void* shared, const void* value) {
  Quiet quiet;
  AsyncCopy copy;
  copy.shared = shared;
  memcpy(copy.data, value, 16);
  running().open.push_back(copy);
}
void cp_async_commit() {
  Quiet quiet;
  Thread& t = running();
  t.groups.push_back(std::move(t.open));
  t.open.clear();
}
bool cp_async_next(int open_groups, void** shared, void* value) {
  Quiet quiet;
  Thread& t = running();
  while ((int)t.groups.size() > open_groups) {
    std::vector<AsyncCopy>& oldest = t.groups.front();
    if (oldest.empty()) {
      t.groups.erase(t.groups.begin());
      continue;
    }
    *shared = oldest.front().shared;
    memcpy(value, oldest.front().data, 16);
    oldest.erase(oldest.begin());
    return true;
  }
  return false;
}
}  // namespace emu
