// Streams, events and captured graphs.
#include <chrono>

#include "runtime.h"

namespace hip {
Stream* stream_of(void* handle) { return (size_t)handle <= 2 ? &runtime().null_stream : (Stream*)handle; }

void run_until(Stream* s, unsigned long long position) {
  Runtime& rt = runtime();
  for (;;) {
    rt.idle.wait(rt.lock, [s] { return !s->busy; });
    if (s->done >= position || s->queue.empty()) return;
    Work work = std::move(s->queue.front());
    s->queue.pop_front();
    s->busy = true;
    fault_if_ordered();
    if (rt.fault.empty()) work();
    s->busy = false;
    s->done++;
    rt.idle.notify_all();
  }
}
void drain(Stream* s) { run_until(s, s->queued); }
void drain_all() {
  drain(&runtime().null_stream);
  std::set<Stream*> there = runtime().streams;  // others may come and go while a kernel runs
  for (Stream* s : there)
    if (runtime().streams.count(s)) drain(s);
}
void queue(Stream* s, Work work) {
  Runtime& rt = runtime();
  if (s->recording) return s->recording->push_back(std::move(work));
  if (s == &rt.null_stream)
    for (Stream* other : rt.streams)
      if (other->waits_for_null) drain(other);
  s->queue.push_back(std::move(work));
  s->queued++;
  if (!rt.lazy) drain(s);
}
static double now_ms() { return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

static int make(void** out, unsigned flags) {
  HIP_ENTER("hipStreamCreate");
  Stream* s = new Stream;
  s->waits_for_null = !(flags & 1);
  rt.streams.insert(s);
  *out = s;
  return kOk;
}
static int wait(Stream* s, unsigned long long position) {
  run_until(s, position);
  return failed(runtime().fault.empty() ? kOk : kLaunchFailure);
}
}  // namespace hip

HIP_CALL(hipDeviceSynchronize) {
  HIP_ENTER("hipDeviceSynchronize");
  hip::drain_all();
  return hip::failed(hip::status_of(""));
}
HIP_CALL(hipStreamCreate, void** s) { return hip::make(s, 0); }
HIP_CALL(hipStreamCreateWithFlags, void** s, unsigned flags) { return hip::make(s, flags); }
HIP_CALL(hipStreamCreateWithPriority, void** s, unsigned flags, int) { return hip::make(s, flags); }
HIP_CALL(hipStreamDestroy, void* handle) {
  hip::Runtime& rt = hip::runtime();
  hip::Locked locked(rt.lock);
  hip::Stream* s = hip::stream_of(handle);
  hip::drain(s);
  if (rt.streams.erase(s)) delete s;
  return hip::kOk;
}
HIP_CALL(hipStreamSynchronize, void* s) {
  HIP_ENTER("hipStreamSynchronize");
  if (hip::stream_of(s)->recording) return hip::failed(hip::kCaptureUnsupported);
  return hip::wait(hip::stream_of(s), hip::stream_of(s)->queued);
}
HIP_CALL(hipStreamQuery, void* s) {
  HIP_ENTER("hipStreamQuery");
  return hip::stream_of(s)->queue.empty() && !hip::stream_of(s)->busy ? hip::kOk : hip::kNotReady;
}
HIP_CALL(hipStreamWaitEvent, void* s, void* event, unsigned) {
  HIP_ENTER("hipStreamWaitEvent");
  hip::Event e = *(hip::Event*)event;
  if (e.stream && e.stream != hip::stream_of(s)) hip::queue(hip::stream_of(s), [=] { hip::run_until(e.stream, e.position); });
  return hip::kOk;
}

HIP_CALL(hipEventCreate, void** e) { return *e = new hip::Event, hip::kOk; }
HIP_CALL(hipEventCreateWithFlags, void** e, unsigned) { return *e = new hip::Event, hip::kOk; }
HIP_CALL(hipEventDestroy, void*) { return hip::kOk; }  // queued work may still name it
HIP_CALL(hipEventRecord, void* event, void* stream) {
  HIP_ENTER("hipEventRecord");
  hip::Event* e = (hip::Event*)event;
  e->stream = hip::stream_of(stream);
  hip::queue(e->stream, [=] { e->at_ms = hip::now_ms(); });
  e->position = e->stream->queued;
  return hip::kOk;
}
HIP_CALL(hipEventSynchronize, void* event) {
  HIP_ENTER("hipEventSynchronize");
  hip::Event* e = (hip::Event*)event;
  return e->stream ? hip::wait(e->stream, e->position) : hip::kOk;
}
HIP_CALL(hipEventQuery, void* event) {
  HIP_ENTER("hipEventQuery");
  hip::Event* e = (hip::Event*)event;
  return e->stream && e->stream->done < e->position ? hip::kNotReady : hip::kOk;
}
HIP_CALL(hipEventElapsedTime, float* ms, void* from, void* to) {
  return *ms = (float)(((hip::Event*)to)->at_ms - ((hip::Event*)from)->at_ms), hip::kOk;
}

// A graph is the list of what was queued.
HIP_CALL(hipStreamIsCapturing, void* s, int* capturing) {
  hip::Locked locked(hip::runtime().lock);
  return *capturing = hip::stream_of(s)->recording != nullptr, hip::kOk;
}
HIP_CALL(hipStreamGetCaptureInfo, void* s, int* capturing, unsigned long long* id) {
  if (id) *id = 0;
  return hipStreamIsCapturing(s, capturing);
}
HIP_CALL(hipStreamBeginCapture, void* s, int) {
  HIP_ENTER("hipStreamBeginCapture");
  hip::stream_of(s)->recording = new std::vector<hip::Work>;
  return hip::kOk;
}
HIP_CALL(hipStreamEndCapture, void* s, void** graph) {
  HIP_ENTER("hipStreamEndCapture");
  *graph = hip::stream_of(s)->recording;
  hip::stream_of(s)->recording = nullptr;
  return hip::kOk;
}
HIP_CALL(hipGraphInstantiate, void** executable, void* graph, void*, char*, size_t) {
  return *executable = new std::vector<hip::Work>(*(std::vector<hip::Work>*)graph), hip::kOk;
}
HIP_CALL(hipGraphDestroy, void* graph) { return delete (std::vector<hip::Work>*)graph, hip::kOk; }
HIP_CALL(hipGraphExecDestroy, void* executable) {
  hip::Locked locked(hip::runtime().lock);
  hip::drain_all();
  return delete (std::vector<hip::Work>*)executable, hip::kOk;
}
HIP_CALL(hipGraphLaunch, void* executable, void* s) {
  HIP_ENTER("hipGraphLaunch");
  for (hip::Work& work : *(std::vector<hip::Work>*)executable) hip::queue(hip::stream_of(s), work);
  return hip::kOk;
}
