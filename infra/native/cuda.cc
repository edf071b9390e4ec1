#include "cuda.h"

#include <dlfcn.h>

#include <cstring>

#include "ort.h"

namespace rally {

namespace {

constexpr const char* kLibrary = "libcudart.so.13";
/** Work on it does not wait for work on the default stream. */
constexpr unsigned kNonBlocking = 1;
/** The runtime sees by the addresses what is where. */
constexpr int kAnyDirection = 4;

template <typename F>
void find(void* library, const char* name, F& function) {
  function = reinterpret_cast<F>(dlsym(library, name));
  if (function == nullptr) throw Failure("provider", std::string(kLibrary) + " has no " + name);
}

Cuda load() {
  void* library = dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) throw Failure("provider", dlerror());
  Cuda found;
  find(library, "cudaSetDevice", found.cudaSetDevice);
  find(library, "cudaStreamCreateWithFlags", found.cudaStreamCreateWithFlags);
  find(library, "cudaStreamDestroy", found.cudaStreamDestroy);
  find(library, "cudaStreamSynchronize", found.cudaStreamSynchronize);
  find(library, "cudaMemcpyAsync", found.cudaMemcpyAsync);
  find(library, "cudaMalloc", found.cudaMalloc);
  find(library, "cudaFree", found.cudaFree);
  find(library, "cudaHostAlloc", found.cudaHostAlloc);
  find(library, "cudaFreeHost", found.cudaFreeHost);
  find(library, "cudaMemGetInfo", found.cudaMemGetInfo);
  find(library, "cudaEventCreate", found.cudaEventCreate);
  find(library, "cudaEventRecord", found.cudaEventRecord);
  find(library, "cudaEventElapsedTime", found.cudaEventElapsedTime);
  find(library, "cudaEventDestroy", found.cudaEventDestroy);
  find(library, "cudaGetErrorString", found.cudaGetErrorString);
  find(library, "cudaGetLastError", found.cudaGetLastError);
  return found;
}

}  // namespace

const Cuda& cuda() {
  static const Cuda loaded = load();
  return loaded;
}

void check_cuda(int status, const char* about) {
  if (status == 0) return;
  // CUDA keeps it, and ONNX Runtime would take it for the failure of the next kernel that it starts.
  cuda().cudaGetLastError();
  throw Failure(about, "CUDA failure " + std::to_string(status) + ": " + cuda().cudaGetErrorString(status));
}

DeviceCalls& device_calls() {
  static DeviceCalls calls;
  return calls;
}

Stream::Stream(int device) : device(device) {
  if (device < 0) return;
  check_cuda(cuda().cudaSetDevice(device), "provider");
  check_cuda(cuda().cudaStreamCreateWithFlags(&stream, kNonBlocking), "provider");
}

Stream::~Stream() {
  if (stream != nullptr) cuda().cudaStreamDestroy(stream);
}

void Stream::copy(void* to, const void* from, size_t bytes) const {
  if (bytes == 0) return;
  if (!is_on_device()) {
    std::memcpy(to, from, bytes);
    return;
  }
  check_cuda(cuda().cudaSetDevice(device), "run");
  check_cuda(cuda().cudaMemcpyAsync(to, from, bytes, kAnyDirection, stream), "run");
}

void Stream::synchronize() const {
  if (is_on_device()) check_cuda(cuda().cudaStreamSynchronize(stream), "run");
}

CudaMemory::CudaMemory(int device, size_t bytes, bool is_pinned) : device(device), is_pinned(is_pinned) {
  const auto lock = device_calls().beside_others();
  check_cuda(cuda().cudaSetDevice(device), "run");
  // An empty tensor has an address, too.
  const size_t some = bytes == 0 ? 1 : bytes;
  check_cuda(is_pinned ? cuda().cudaHostAlloc(&memory, some, 0) : cuda().cudaMalloc(&memory, some), "run");
}

CudaMemory::~CudaMemory() {
  const auto lock = device_calls().beside_others();
  cuda().cudaSetDevice(device);
  if (is_pinned) {
    cuda().cudaFreeHost(memory);
  } else {
    cuda().cudaFree(memory);
  }
}

double Event::nanoseconds_since(const Event& earlier) const {
  float milliseconds = 0;
  check_cuda(cuda().cudaEventElapsedTime(&milliseconds, earlier.event, event), "run");
  return milliseconds * 1e6;
}

}  // namespace rally
