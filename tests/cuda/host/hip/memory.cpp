// Memory and copies. Fresh memory holds 0xFF bytes and freed memory 0xDD; a copy whose kind
// contradicts where its pointers live is a fault.
#include "runtime.h"

namespace hip {
bool inside(const std::map<char*, size_t>& memory, const void* p) {
  auto it = memory.upper_bound((char*)p);
  return it != memory.begin() && (--it, (char*)p < it->first + it->second);
}

constexpr int kHostToHost = 0, kToDevice = 1, kToHost = 2, kWithin = 3;

static void copy(void* to, const void* from, size_t n, int kind) {
  Runtime& rt = runtime();
  bool to_device = inside(rt.device_memory, to), from_device = inside(rt.device_memory, from);
  bool wrong = (kind == kToDevice && (!to_device || from_device)) || (kind == kToHost && (to_device || !from_device)) ||
               (kind == kWithin && (!to_device || !from_device));
  if (n && wrong) return fault("a copy's kind does not say where its pointers live");
  memcpy(to, from, n);
}
}  // namespace hip

HIP_CALL(hipMalloc, void** p, size_t n) {
  HIP_ENTER("hipMalloc");
  if (rt.used + n > rt.total) return hip::failed(hip::kOutOfMemory);
  *p = aligned_alloc(256, (n + 511) / 256 * 256);
  memset(*p, 0xff, n);
  rt.device_memory[(char*)*p] = n;
  rt.used += n;
  return hip::kOk;
}
HIP_CALL(hipFree, void* p) {  // waits for the card, as cudaFree does
  hip::Runtime& rt = hip::runtime();
  hip::Locked locked(rt.lock);
  hip::drain_all();
  auto it = rt.device_memory.find((char*)p);
  if (it == rt.device_memory.end()) return hip::kOk;
  rt.used -= it->second;
  memset(p, 0xdd, it->second);
  rt.device_memory.erase(it);
  free(p);
  return hip::kOk;
}
HIP_CALL(hipHostMalloc, void** p, size_t n, unsigned) {
  HIP_ENTER("hipHostMalloc");
  *p = aligned_alloc(4096, (n + 4095) / 4096 * 4096);
  rt.pinned_memory[(char*)*p] = n;
  return hip::kOk;
}
HIP_CALL(hipHostFree, void* p) {
  hip::Runtime& rt = hip::runtime();
  hip::Locked locked(rt.lock);
  hip::drain_all();
  if (rt.pinned_memory.erase((char*)p)) free(p);
  return hip::kOk;
}
HIP_CALL(hipMemGetInfo, size_t* free_bytes, size_t* total) {
  HIP_ENTER("hipMemGetInfo");
  *total = rt.total;
  *free_bytes = rt.total - rt.used;
  return hip::kOk;
}
HIP_CALL(hipMemcpy, void* to, const void* from, size_t n, int kind) {
  HIP_ENTER("hipMemcpy");
  hip::drain_all();
  hip::copy(to, from, n, kind);
  return hip::failed(hip::status_of("hipMemcpy"));
}
HIP_CALL(hipMemcpyAsync, void* to, const void* from, size_t n, int kind, void* stream) {
  HIP_ENTER("hipMemcpyAsync");
  bool pageable = (kind == hip::kToDevice && !hip::inside(rt.pinned_memory, from)) || (kind == hip::kToHost && !hip::inside(rt.pinned_memory, to));
  hip::Stream* s = hip::stream_of(stream);
  if (pageable && s->recording) return hip::failed(hip::kCaptureUnsupported);
  hip::queue(s, [=] { hip::copy(to, from, n, kind); });
  if (pageable) hip::drain(s);  // as CUDA: such a copy has passed through the driver when the call returns
  return hip::kOk;
}
HIP_CALL(hipMemset, void* p, int value, size_t n) {
  HIP_ENTER("hipMemset");
  hip::queue(&rt.null_stream, [=] { memset(p, value, n); });
  return hip::kOk;
}
HIP_CALL(hipMemsetAsync, void* p, int value, size_t n, void* stream) {
  HIP_ENTER("hipMemsetAsync");
  hip::queue(hip::stream_of(stream), [=] { memset(p, value, n); });
  return hip::kOk;
}
struct PointerAttributes {
  int type, device;
  void *device_pointer, *host_pointer;
  int managed;
  unsigned flags;
};
HIP_CALL(hipPointerGetAttributes, PointerAttributes* a, const void* p) {
  HIP_ENTER("hipPointerGetAttributes");
  memset(a, 0, sizeof *a);
  a->type = hip::inside(rt.device_memory, p) ? 2 : 1;
  a->device_pointer = (void*)p;
  return hip::kOk;
}
