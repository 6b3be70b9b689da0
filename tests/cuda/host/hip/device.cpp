// The card itself: what it is, errors, and failures on order.
#include "runtime.h"

#include <unistd.h>

namespace hip {
static size_t number(const char* variable, size_t otherwise) {
  const char* text = getenv(variable);
  return text && *text ? (size_t)atoll(text) : otherwise;
}

Runtime& runtime() {
  static Runtime* only = [] {
    Runtime* r = new Runtime;
    r->total = number("FAKE_HIP_BYTES", (size_t)8 << 30);
    r->lazy = number("FAKE_HIP_LAZY", 0) != 0;
    return r;
  }();
  return *only;
}

int failed(int status) {
  if (status) runtime().last_error = status;
  return status;
}

int status_of(const char* call) {
  Runtime& rt = runtime();
  if (!rt.fault.empty()) return kLaunchFailure;
  auto it = rt.planned.find(call);
  if (it == rt.planned.end() || it->second.after-- > 0) return kOk;
  int status = it->second.status;
  if (--it->second.times <= 0) rt.planned.erase(it);
  return status;
}

void fault(const std::string& what) {
  Runtime& rt = runtime();
  if (rt.fault.empty()) rt.fault = what;
  fprintf(stderr, "fake HIP: %s\n", what.c_str());
}

void fault_if_ordered() {
  static const char* const file = getenv("FAKE_HIP_FAULT");
  Runtime& rt = runtime();
  if (!file || !rt.fault.empty() || access(file, F_OK)) return;
  for (auto& [start, n] : rt.device_memory) memset(start, 0x3c, n);  // finite numbers, all of them wrong
  fault("an illegal memory access, as ordered");
}
}  // namespace hip

// The tests' own way in: let `call` return `status`, `times` times, after that many calls that work.
extern "C" void fake_hip_fail(const char* call, int after, int times, int status) {
  hip::Locked locked(hip::runtime().lock);
  hip::runtime().planned[call] = {after, times, status};
}
extern "C" void fake_hip_set_lazy(int lazy) {
  hip::Locked locked(hip::runtime().lock);
  hip::drain_all();
  hip::runtime().lazy = lazy != 0;
}

HIP_CALL(hipGetDeviceCount, int* n) { return *n = 1, hip::kOk; }
HIP_CALL(hipGetDevice, int* device) { return *device = 0, hip::kOk; }
HIP_CALL(hipSetDevice, int device) { return hip::failed(device ? 101 : hip::kOk); }
HIP_CALL(hipDriverGetVersion, int* version) { return *version = 70000000, hip::kOk; }
HIP_CALL(hipRuntimeGetVersion, int* version) { return *version = 70000000, hip::kOk; }
HIP_CALL(hipDeviceGetPCIBusId, char* id, int size, int) { return snprintf(id, (size_t)size, "0000:00:00.0"), hip::kOk; }
HIP_CALL(hipDeviceGetAttribute, int* value, int attribute, int) {
  *value = attribute == 23 ? 8 : attribute == 61 ? 0 : 1024;  // computeCapabilityMajor and Minor
  return hip::kOk;
}
// Places of hipDeviceProp_tR0600's members (hip_runtime_api.h of ROCm 6 and 7).
HIP_CALL(hipGetDevicePropertiesR0600, void* properties, int) {
  char* p = (char*)properties;
  memset(p, 0, 1024);
  strcpy(p, "emulated");
  *(size_t*)(p + 288) = hip::runtime().total;
  *(size_t*)(p + 296) = 163 << 10;  // sharedMemPerBlock
  *(int*)(p + 304) = 65536;         // regsPerBlock
  *(int*)(p + 308) = 32;            // warpSize
  *(int*)(p + 320) = 1024;          // maxThreadsPerBlock
  const int limits[] = {1024, 1024, 64, 2147483647, 65535, 65535};
  memcpy(p + 324, limits, sizeof limits);
  *(int*)(p + 360) = 8;  // major
  *(int*)(p + 364) = 0;  // minor
  *(int*)(p + 388) = 4;  // multiProcessorCount
  return hip::kOk;
}
HIP_CALL(hipGetLastError) {
  hip::Locked locked(hip::runtime().lock);
  int status = hip::runtime().last_error;
  hip::runtime().last_error = hip::kOk;
  return status;
}
extern "C" const char* hipGetErrorName(int status) {
  return status == hip::kOutOfMemory ? "hipErrorOutOfMemory" : status == hip::kLaunchFailure ? "hipErrorLaunchFailure" : "hipErrorNotSupported";
}
extern "C" const char* hipGetErrorString(int status) {
  return status == hip::kLaunchFailure ? hip::runtime().fault.c_str() : hipGetErrorName(status);
}
// ROCm's compiler leaves these behind in every library with kernels of its own.
HIP_CALL(__hipRegisterFunction) { return 0; }
HIP_CALL(__hipRegisterVar) { return 0; }
HIP_CALL(__hipUnregisterFatBinary, void*) { return 0; }
extern "C" void** __hipRegisterFatBinary(const void*) {
  static void* module;
  return &module;
}
