// A HIP runtime on the CPU, for tests: what CuPy's ROCm build calls, with the emulator as the card.
// One lock around everything but kernels: CuPy lets several Python threads in, and copies of one
// stream go on while another one's kernel runs.
//
// FAKE_HIP_LAZY=1      work of a stream runs only at a synchronisation, so host code that forgets to
//                      wait reads stale data every time
// FAKE_HIP_BYTES       the card's memory; FAKE_HIP_SCHEDULE  0 in order, 1 reverse, 2 random
// FAKE_HIP_FAULT=FILE  once FILE exists, the next work that runs spoils the card's memory, and the
//                      context is lost
#pragma once
#include <condition_variable>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

namespace hip {
constexpr int kOk = 0, kInvalid = 1, kOutOfMemory = 2, kInvalidImage = 200, kNotFound = 500, kNotReady = 600, kLaunchFailure = 719,
              kNotSupported = 801, kCaptureUnsupported = 900;
typedef std::function<void()> Work;

struct Stream {
  std::deque<Work> queue;
  unsigned long long queued = 0, done = 0;
  bool waits_for_null = true;      // not made with hipStreamNonBlocking
  bool busy = false;               // a thread is at its first work
  std::vector<Work>* recording = nullptr;  // while it is captured
};
struct Event {
  Stream* stream = nullptr;
  unsigned long long position = 0;
  double at_ms = 0;
};
struct Runtime {
  std::recursive_mutex lock;  // held once, not twice, by who runs the work of a stream
  std::condition_variable_any idle;  // a stream is no longer busy
  std::map<char*, size_t> device_memory, pinned_memory;
  size_t total = 0, used = 0;
  Stream null_stream;
  std::set<Stream*> streams;
  bool lazy = false;
  int last_error = kOk;
  std::string fault;  // of a kernel or copy; from then on every call fails, as on a card
  struct Planned {
    int after, times, status;  // calls that still work, then calls that fail
  };
  std::map<std::string, Planned> planned;
};
Runtime& runtime();
typedef std::lock_guard<std::recursive_mutex> Locked;

int failed(int status);               // remembers it for hipGetLastError
int status_of(const char* call);      // planned failure, or the fault, or kOk
void fault(const std::string& what);  // the context is lost
void fault_if_ordered();              // FAKE_HIP_FAULT
Stream* stream_of(void* handle);
void queue(Stream* stream, Work work);
void run_until(Stream* stream, unsigned long long position);
void drain(Stream* stream);
void drain_all();
bool inside(const std::map<char*, size_t>& memory, const void* p);
}  // namespace hip

#define HIP_CALL(name, ...) extern "C" int name(__VA_ARGS__)
// Takes the lock; returns from the call if it is planned to fail or the context is lost.
#define HIP_ENTER(name)                              \
  hip::Runtime& rt = hip::runtime();                 \
  hip::Locked locked(rt.lock);                       \
  if (int status = hip::status_of(name)) return hip::failed(status)
