// Shadow memory: for each 4-byte word, which of its bytes were ever written, and who read and wrote
// it last: launch, block, thread, and how many barriers that thread had passed. Two accesses are a
// race if they touch the same bytes, one writes, not both are atomic, and nothing orders them:
//   same block: a barrier between, or a __syncwarp within one warp;
//   two blocks: a __threadfence after the first, an atomic after that, and an atomic of the second
//   block on the same address before its access (the "last block" pattern). This is judged for
//   whole blocks: which thread fenced is not looked at.
// Only the last reader and writer are remembered, so a race can be missed; none is invented.
#include <dlfcn.h>
#include <link.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <unordered_map>

#include "check.h"

namespace emu {
int check_options = CHECK_RACES | CHECK_INITIALISATION | CHECK_TRAFFIC;

namespace {
constexpr unsigned kNobody = ~0u;
constexpr uintptr_t kPageWords = 256, kPageBytes = 4 * kPageWords;

struct Party {  // the last reader or writer of a word
  unsigned launch = 0, block = kNobody, epoch = 0, warp_epoch = 0, fences = 0;
  unsigned short thread = 0;
  unsigned char bytes = 0;  // bit i: byte i of the word
  bool atomic = false;
};
struct Word {
  Party reader, writer;
  unsigned char written = 0;   // bytes that hold something
  unsigned block_sequence = 0;  // shared memory: the block whose words these are
};
struct Region {  // a living allocation
  uintptr_t begin, end;
  int id;
  std::vector<std::pair<uintptr_t, uintptr_t>> written;  // by the host
};
struct Range {
  uintptr_t begin = 0, end = 0;
  bool holds(uintptr_t a) const { return a >= begin && a < end; }
};
typedef std::unordered_map<unsigned, unsigned> Fences;  // block -> how many of its fences are known to be past

struct Shadow {
  std::map<uintptr_t, Region> regions;  // by end: upper_bound finds the one that may hold an address
  std::unordered_map<uintptr_t, std::vector<Word>> pages;
  std::vector<Word> static_words, dynamic_words = std::vector<Word>(kMaxDynamicShared / 4);
  Range stacks, block, state, image, statics;  // of the running module: its image, and its writable part
  unsigned launch = 0, sequence = 0, block_number = 0, fences = 0;
  Fences seen;                                   // what this block has acquired
  std::unordered_map<uintptr_t, Fences> released;  // by address of the atomic
  Region* last_region = nullptr;
  uintptr_t last_page = ~(uintptr_t)0;
  std::vector<Word>* last_words = nullptr;
};
Shadow& shadow() {
  static Shadow* only = new Shadow;
  return *only;
}

Region* region_of(Shadow& s, uintptr_t a) {
  if (s.last_region && a >= s.last_region->begin && a < s.last_region->end) return s.last_region;
  auto it = s.regions.upper_bound(a);
  if (it == s.regions.end() || a < it->second.begin) return nullptr;
  return s.last_region = &it->second;
}

void mark(Shadow& s, std::vector<Word>& words, uintptr_t page, uintptr_t begin, uintptr_t end) {
  uintptr_t from = std::max(begin, page * kPageBytes), to = std::min(end, (page + 1) * kPageBytes);
  for (uintptr_t a = from; a < to; a++) words[a % kPageBytes / 4].written |= (unsigned char)(1u << (a & 3));
}

std::vector<Word>& page_of(Shadow& s, const Region& r, uintptr_t a) {
  uintptr_t page = a / kPageBytes;
  if (page == s.last_page) return *s.last_words;
  auto made = s.pages.try_emplace(page);
  std::vector<Word>& words = made.first->second;
  if (made.second) {
    words.resize(kPageWords);
    for (auto& w : r.written) mark(s, words, page, w.first, w.second);
  }
  s.last_page = page;
  s.last_words = &words;
  return words;
}

void find_module(Shadow& s, const void* entry) {
  struct Search {
    Shadow* s;
    uintptr_t entry;
  } search{&s, (uintptr_t)entry};
  s.image = s.statics = Range();
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* p) {
        Search& search = *(Search*)p;
        Range image, writable;
        for (int h = 0; h < info->dlpi_phnum; h++) {
          const auto& header = info->dlpi_phdr[h];
          if (header.p_type != PT_LOAD) continue;
          uintptr_t begin = info->dlpi_addr + header.p_vaddr, end = begin + header.p_memsz;
          if (!image.end) image.begin = begin;
          image.end = end;
          if (header.p_flags & PF_W) writable = {begin, end};
        }
        if (!image.holds(search.entry)) return 0;
        search.s->image = image;
        search.s->statics = writable;
        return 1;
      },
      &search);
  size_t words = (s.statics.end - s.statics.begin) / 4 + 2;
  if (s.static_words.size() < words) s.static_words.resize(words);
  s.sequence++;  // another module's words mean nothing here
}

struct Where {  // what the present access falls into
  enum { DYNAMIC, STATIC, BUFFER, NOWHERE } kind;
  int id;
  uintptr_t offset;
};
std::string nearest(Shadow& s, uintptr_t a) {
  const Region* best = nullptr;
  uintptr_t distance = 0;
  for (auto& e : s.regions) {
    const Region& r = e.second;
    uintptr_t d = a < r.begin ? r.begin - a : a - r.end;
    if (!best || d < distance) best = &r, distance = d;
  }
  if (!best || distance > 1u << 20) return "global memory, far from every buffer";
  return "global memory, " + std::to_string(distance) + " bytes " + (a < best->begin ? "before" : "past") + " buffer #" + std::to_string(best->id);
}
std::string text(const Where& w, uintptr_t address) {
  std::string at = " at byte " + std::to_string(w.offset);
  if (w.kind == Where::DYNAMIC) return "dynamic shared memory" + at;
  if (w.kind == Where::STATIC) return "static shared memory" + at;
  if (w.kind == Where::BUFFER) return "buffer #" + std::to_string(w.id) + at;
  return nearest(shadow(), address);
}

[[noreturn]] void report(const char* what, const Access& a, const Where& where, const Party* other) {
  char message[900];
  Dl_info module{};
  dladdr(a.pc, &module);
  std::string by;
  if (other) {
    by = " (the other: ";
    if (other->block != shadow().block_number) by += "block " + std::to_string(other->block) + " ";
    by += "thread " + std::to_string(other->thread) + (other->atomic ? ", atomic)" : ")");
  }
  snprintf(message, sizeof message, "%s: %s of %d bytes in %s%s pc=%s+%lx", what, a.atomic ? "atomic" : a.write ? "write" : "read", a.size, text(where, a.address).c_str(),
           by.c_str(), module.dli_fname ? module.dli_fname : "?", (unsigned long)((uintptr_t)a.pc - (uintptr_t)module.dli_fbase));
  state.fiber->quiet++;
  fail_at(message, Place{"", 0});
}

bool ordered_blocks(Shadow& s, const Party& p) {
  auto it = s.seen.find(p.block);
  return it != s.seen.end() && it->second > p.fences;
}

// Does `p`, who came first, race with `me`?
bool races(Shadow& s, const Block& b, const Party& p, const Party& me) {
  if (p.block == kNobody || p.launch != me.launch || !(p.bytes & me.bytes) || (p.atomic && me.atomic)) return false;
  if (p.block != me.block) return !ordered_blocks(s, p);
  if (p.thread == me.thread || p.epoch != me.epoch) return false;
  return p.thread / kWarp != me.thread / kWarp || p.warp_epoch == me.warp_epoch;
}

void judge(Shadow& s, Block& b, Word& w, const Access& a, const Party& me, bool shared, const Where& where) {
  if (shared && w.block_sequence != s.sequence) {
    w = Word();
    w.block_sequence = s.sequence;
  }
  if ((check_options & CHECK_INITIALISATION) && (!a.write || a.atomic) && (me.bytes & ~w.written)) report("uninitialised", a, where, nullptr);
  if (check_options & CHECK_RACES) {
    if (races(s, b, w.writer, me)) report("race", a, where, &w.writer);
    if (a.write && races(s, b, w.reader, me)) report("race", a, where, &w.reader);
  }
  if (a.write) {
    w.writer = me;
    w.written |= me.bytes;
  } else {
    w.reader = me;
  }
}

void judge_words(Shadow& s, Block& b, const Access& a, Word* words, const Where& where) {
  Thread& t = running();
  Party me;
  me.launch = s.launch;
  me.block = s.block_number;
  me.epoch = b.epoch;
  me.warp_epoch = b.warps[t.linear / kWarp].epoch;
  me.fences = s.fences;
  me.thread = (unsigned short)t.linear;
  me.atomic = a.atomic;
  for (int done = 0; done < a.size;) {
    int first = (int)((a.address + (uintptr_t)done) & 3), n = std::min(4 - first, a.size - done);
    me.bytes = (unsigned char)(((1u << n) - 1) << first);
    judge(s, b, *words++, a, me, where.kind != Where::BUFFER, where);
    done += n;
  }
}

void shared_access(Shadow& s, Block& b, const Access& a) {
  uintptr_t dynamic = (uintptr_t)state.shared;
  bool is_dynamic = s.state.holds(a.address);
  uintptr_t offset = a.address - (is_dynamic ? dynamic : s.statics.begin);
  Where where{is_dynamic ? Where::DYNAMIC : Where::STATIC, 0, offset};
  if (a.address % (uintptr_t)a.size) report("misaligned", a, where, nullptr);
  if (is_dynamic && offset + (uintptr_t)a.size > (uintptr_t)state.dynamic_bytes) report("out of bounds", a, where, nullptr);
  std::vector<Word>& words = is_dynamic ? s.dynamic_words : s.static_words;
  uintptr_t base = is_dynamic ? dynamic : s.statics.begin & ~(uintptr_t)3;
  judge_words(s, b, a, &words[(a.address - base) / 4], where);
}

void global_access(Shadow& s, Block& b, const Access& a) {
  Region* r = region_of(s, a.address);
  if (!r) report("out of bounds", a, Where{Where::NOWHERE, 0, 0}, nullptr);
  Where where{Where::BUFFER, r->id, a.address - r->begin};
  if (a.address % (uintptr_t)a.size) report("misaligned", a, where, nullptr);
  if (a.address + (uintptr_t)a.size > r->end) report("out of bounds", a, where, nullptr);
  judge_words(s, b, a, &page_of(s, *r, a.address)[a.address % kPageBytes / 4], where);
}
}  // namespace

void on_access(const Access& a) {
  if (!state.fiber || state.fiber->quiet) return;
  Shadow& s = shadow();
  if (s.stacks.holds(a.address) || s.block.holds(a.address)) return;  // registers and local memory; the emulator's own
  bool in_state = s.state.holds(a.address);
  if (in_state && a.address < (uintptr_t)state.shared) return;
  Block& b = block();
  bool shared = in_state || s.statics.holds(a.address);
  if (!shared && s.image.holds(a.address)) return;  // tables of constants
  if (shared) shared_access(s, b, a);
  else global_access(s, b, a);
  if (check_options & CHECK_TRAFFIC) trace(running(), a, shared);
}

void on_launch_begin(const void* entry) {
  Shadow& s = shadow();
  s.launch++;
  s.released.clear();
  if (!s.image.holds((uintptr_t)entry)) find_module(s, entry);
  s.state = {(uintptr_t)&state, (uintptr_t)(&state + 1)};
  s.block = {(uintptr_t)&block(), (uintptr_t)(&block() + 1)};
}
void on_block_begin(Block& b) {
  Shadow& s = shadow();
  s.sequence++;
  s.fences = 0;
  s.seen.clear();
  s.block_number = state.block_index.x + state.grid.x * (state.block_index.y + state.grid.y * state.block_index.z);
  s.stacks = {(uintptr_t)b.stacks, (uintptr_t)b.stacks + kStackBytes * kMaxThreads};
}

void fence() { shadow().fences++; }

void atomic_at(const void* address) {
  Shadow& s = shadow();
  auto known = s.released.find((uintptr_t)address);
  if (known != s.released.end())
    for (auto& e : known->second) s.seen[e.first] = std::max(s.seen[e.first], e.second);
  if (!s.fences) return;
  Fences& out = s.released[(uintptr_t)address];
  for (auto& e : s.seen) out[e.first] = std::max(out[e.first], e.second);
  out[s.block_number] = s.fences;
}
}  // namespace emu

// The library that holds `pc`, and where in it.
extern "C" unsigned long emu_locate(void* pc, char* path, int size) {
  Dl_info module{};
  dladdr(pc, &module);
  snprintf(path, (size_t)size, "%s", module.dli_fname ? module.dli_fname : "");
  return (unsigned long)((uintptr_t)pc - (uintptr_t)module.dli_fbase);
}
extern "C" void emu_check_options(int options) { emu::check_options = options; }
extern "C" void emu_region_add(void* address, size_t nbytes, int id) {
  uintptr_t a = (uintptr_t)address;
  emu::Region r;
  r.begin = a;
  r.end = a + nbytes;
  r.id = id;
  emu::shadow().last_region = nullptr;
  emu::shadow().regions[r.end] = r;
}
extern "C" void emu_region_remove(void* address, size_t nbytes) {
  emu::Shadow& s = emu::shadow();
  uintptr_t begin = (uintptr_t)address, end = begin + nbytes;
  s.regions.erase(end);
  s.last_region = nullptr;
  s.last_page = ~(uintptr_t)0;
  if (nbytes / emu::kPageBytes < s.pages.size()) {
    for (uintptr_t p = begin / emu::kPageBytes; p * emu::kPageBytes < end; p++) s.pages.erase(p);
    return;
  }
  for (auto it = s.pages.begin(); it != s.pages.end();)
    it = it->first >= begin / emu::kPageBytes && it->first * emu::kPageBytes < end ? s.pages.erase(it) : std::next(it);
}
extern "C" void emu_mark_written(void* address, size_t nbytes) {
  emu::Shadow& s = emu::shadow();
  uintptr_t begin = (uintptr_t)address, end = begin + nbytes;
  emu::Region* r = nbytes ? emu::region_of(s, begin) : nullptr;
  if (!r) return;
  if (!r->written.empty() && r->written.back().second == begin) r->written.back().second = end;
  else r->written.push_back({begin, end});
  if (nbytes / emu::kPageBytes < s.pages.size()) {
    for (uintptr_t p = begin / emu::kPageBytes; p * emu::kPageBytes < end; p++) {
      auto it = s.pages.find(p);
      if (it != s.pages.end()) emu::mark(s, it->second, p, begin, end);
    }
  } else {
    for (auto& e : s.pages)
      if ((e.first + 1) * emu::kPageBytes > begin && e.first * emu::kPageBytes < end) emu::mark(s, e.second, e.first, begin, end);
  }
}
