// hiprtc is g++ with the emulator's headers; a module is a shared library; a launch is the emulator's.
#include <dlfcn.h>
#include <unistd.h>

#include <fstream>
#include <memory>
#include <sstream>

#include "launch.h"
#include "runtime.h"

namespace hip {
constexpr int kMostParameters = 64, kErrorBytes = 2000;
struct Function {
  int (*run)(const emu::Launch*, char*, int);
  std::string name;
  std::vector<int> sizes;
};
struct Program {
  std::string source, log, library;
  std::vector<std::string> names;
};

static std::string variable(const char* name) {
  const char* text = getenv(name);
  return text ? text : "";
}
static std::string contents(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}
// FNV-1a, twice: 128 bits name what was compiled.
static std::string fingerprint(const std::string& text) {
  unsigned long long a = 0xcbf29ce484222325ull, b = 0x84222325cbf29ce4ull;
  for (unsigned char c : text) {
    a = (a ^ c) * 0x100000001b3ull;
    b = (b ^ c ^ 0x55) * 0x100000001b3ull + 1;
  }
  char name[40];
  snprintf(name, sizeof name, "%016llx%016llx", a, b);
  return name;
}

static int compile(Program* p) {
  std::string text = "#include \"emulator.h\"\n" + p->source + "\n#line 1 \"exports\"\n";
  for (size_t i = 0; i < p->names.size(); i++) text += "EMU_KERNEL(n" + std::to_string(i) + ", " + p->names[i] + ")\n";
  std::string compiler = variable("FAKE_HIP_COMPILER"), linker = variable("FAKE_HIP_LINKER");  // with their flags
  std::string base = variable("FAKE_HIP_CACHE") + "/" + fingerprint(compiler + text);
  std::string object = base + ".o";  // is kept when only the emulator's runtime has changed
  p->library = base + "-" + fingerprint(linker) + ".so";
  if (access(p->library.c_str(), R_OK) == 0) return 0;
  std::string own = base + "." + std::to_string(getpid()), to_log = " > " + own + ".log 2>&1";
  int status = 0;
  if (access(object.c_str(), R_OK)) {
    std::ofstream(own + ".cpp") << text;
    status = system((compiler + " -c " + own + ".cpp -o " + own + ".o" + to_log + " && mv " + own + ".o " + object).c_str());
  }
  if (!status) status = system((linker + " " + object + " -o " + own + ".so" + to_log + " && mv " + own + ".so " + p->library).c_str());
  p->log = contents(own + ".log");
  unlink((own + ".cpp").c_str());
  unlink((own + ".log").c_str());
  return status ? 6 : 0;
}

static void launch(const Function& f, emu::Launch l, std::vector<std::vector<char>>& values) {
  std::vector<void*> pointers;
  for (auto& v : values) pointers.push_back(v.data());
  l.arguments = pointers.data();
  char error[kErrorBytes];
  runtime().lock.unlock();
  int failed = f.run(&l, error, kErrorBytes);
  runtime().lock.lock();
  if (failed) fault(f.name + ": " + error);
}
}  // namespace hip

HIP_CALL(hipModuleLoadData, void** module, const void* image) {
  HIP_ENTER("hipModuleLoadData");
  *module = dlopen((const char*)image, RTLD_NOW | RTLD_LOCAL);
  if (!*module) fprintf(stderr, "fake HIP: %s\n", dlerror());
  return hip::failed(*module ? hip::kOk : hip::kInvalidImage);
}
HIP_CALL(hipModuleUnload, void*) { return hip::kOk; }
HIP_CALL(hipModuleGetFunction, void** function, void* module, const char* name) {
  HIP_ENTER("hipModuleGetFunction");
  auto run = (int (*)(const emu::Launch*, char*, int))dlsym(module, (std::string("emu_run_") + name).c_str());
  auto parameters = (int (*)(int*, int*))dlsym(module, (std::string("emu_parameters_") + name).c_str());
  if (!run || !parameters) return hip::failed(hip::kNotFound);
  int codes[hip::kMostParameters], sizes[hip::kMostParameters], n = parameters(codes, sizes);
  *function = new hip::Function{run, name, std::vector<int>(sizes, sizes + n)};
  return hip::kOk;
}
HIP_CALL(hipFuncGetAttribute, int* value, int, void*) { return *value = 1024, hip::kOk; }
HIP_CALL(hipFuncSetAttribute, void*, int, int) { return hip::kOk; }
HIP_CALL(hipModuleLaunchKernel, void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, void* stream,
         void** parameters, void**) {
  HIP_ENTER("hipModuleLaunchKernel");
  hip::Function f = *(hip::Function*)function;
  auto values = std::make_shared<std::vector<std::vector<char>>>();  // arguments are read when the launch is queued
  for (size_t i = 0; i < f.sizes.size(); i++) values->emplace_back((char*)parameters[i], (char*)parameters[i] + f.sizes[i]);
  std::string schedule = hip::variable("FAKE_HIP_SCHEDULE");
  emu::Launch l{{(int)gx, (int)gy, (int)gz}, {(int)bx, (int)by, (int)bz}, (long)shared, nullptr, schedule.empty() ? 2 : atoi(schedule.c_str()), 1};
  hip::queue(hip::stream_of(stream), [=] { hip::launch(f, l, *values); });
  return hip::kOk;
}

HIP_CALL(hiprtcVersion, int* major, int* minor) { return *major = 7, *minor = 0, 0; }
extern "C" const char* hiprtcGetErrorString(int) { return "compilation failed"; }
HIP_CALL(hiprtcCreateProgram, void** p, const char* source, const char*, int, const char**, const char**) {
  return *p = new hip::Program{source, "", "", {}}, 0;
}
HIP_CALL(hiprtcDestroyProgram, void** p) { return delete (hip::Program*)*p, 0; }
HIP_CALL(hiprtcAddNameExpression, void* p, const char* name) { return ((hip::Program*)p)->names.push_back(name), 0; }
HIP_CALL(hiprtcGetLoweredName, void* p, const char* name, const char** lowered) {
  auto& names = ((hip::Program*)p)->names;
  for (size_t i = 0; i < names.size(); i++)
    if (names[i] == name) return *lowered = strdup(("n" + std::to_string(i)).c_str()), 0;
  return 10;
}
HIP_CALL(hiprtcCompileProgram, void* p, int, const char**) { return hip::compile((hip::Program*)p); }
HIP_CALL(hiprtcGetCodeSize, void* p, size_t* n) { return *n = ((hip::Program*)p)->library.size() + 2, 0; }
HIP_CALL(hiprtcGetCode, void* p, char* code) {  // the library's path; CuPy cuts the last byte off
  auto& path = ((hip::Program*)p)->library;
  memcpy(code, path.c_str(), path.size() + 1);
  return code[path.size() + 1] = 0, 0;
}
HIP_CALL(hiprtcGetProgramLogSize, void* p, size_t* n) { return *n = ((hip::Program*)p)->log.size() + 1, 0; }
HIP_CALL(hiprtcGetProgramLog, void* p, char* log) { return strcpy(log, ((hip::Program*)p)->log.c_str()), 0; }
