#pragma once

#include <cstddef>
#include <mutex>
#include <shared_mutex>
#include <string>

namespace rally {

/**
 * CUDA's runtime as far as the addon calls it by itself: the library that ONNX Runtime's provider has loaded. Declared here, so that
 * the addon builds without CUDA's headers; streams and events are opaque.
 */
struct Cuda {
  int (*cudaSetDevice)(int device);
  int (*cudaStreamCreateWithFlags)(void** stream, unsigned flags);
  int (*cudaStreamDestroy)(void* stream);
  int (*cudaStreamSynchronize)(void* stream);
  int (*cudaMemcpyAsync)(void* to, const void* from, size_t bytes, int kind, void* stream);
  int (*cudaMalloc)(void** memory, size_t bytes);
  int (*cudaFree)(void* memory);
  int (*cudaHostAlloc)(void** memory, size_t bytes, unsigned flags);
  int (*cudaFreeHost)(void* memory);
  int (*cudaMemGetInfo)(size_t* free, size_t* total);
  int (*cudaEventCreate)(void** event);
  int (*cudaEventRecord)(void* event, void* stream);
  int (*cudaEventElapsedTime)(float* milliseconds, void* from, void* to);
  int (*cudaEventDestroy)(void* event);
  const char* (*cudaGetErrorString)(int status);
  int (*cudaGetLastError)();
};

/** Throws a Failure "provider" where there is none. */
const Cuda& cuda();
/** Throws a Failure with the status in ONNX Runtime's words for it: "CUDA failure 2: out of memory". */
void check_cuda(int status, const char* about);

/**
 * ONNX Runtime captures CUDA graphs in CUDA's global mode: while a thread captures, calls of others that allocate, free or copy make
 * the capture fail. So a run that may capture is alone, and all else that calls CUDA goes beside each other.
 */
class DeviceCalls {
 public:
  std::shared_lock<std::shared_mutex> beside_others() {
    const std::lock_guard<std::mutex> turn(door);
    return std::shared_lock<std::shared_mutex>(calls);
  }
  /** Whoever comes while it waits, waits behind it: runs that follow each other closely would never let it in. */
  std::unique_lock<std::shared_mutex> alone() {
    const std::lock_guard<std::mutex> turn(door);
    return std::unique_lock<std::shared_mutex>(calls);
  }

 private:
  std::mutex door;
  std::shared_mutex calls;
};

/** Of this process. Not to be entered twice by one thread. */
DeviceCalls& device_calls();

/** A stream of one device, or nothing at all for a session on the CPU. */
class Stream {
 public:
  /** A negative device is none. */
  explicit Stream(int device);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  bool is_on_device() const { return stream != nullptr; }
  int device_id() const { return device; }
  void* get() const { return stream; }
  /** Enqueued; from and to anywhere. */
  void copy(void* to, const void* from, size_t bytes) const;
  /** Waits for what has been enqueued, and throws what has failed of it. */
  void synchronize() const;

 private:
  int device = 0;
  void* stream = nullptr;
};

/** Memory of a device, or of the host and pinned, so that copies from and to there are fastest. Given back at once when it goes. */
class CudaMemory {
 public:
  CudaMemory(int device, size_t bytes, bool is_pinned);
  ~CudaMemory();
  CudaMemory(const CudaMemory&) = delete;
  CudaMemory& operator=(const CudaMemory&) = delete;

  void* get() const { return memory; }

 private:
  int device;
  bool is_pinned;
  void* memory = nullptr;
};

/** When a stream has come to where it was recorded. */
class Event {
 public:
  Event() { check_cuda(cuda().cudaEventCreate(&event), "run"); }
  ~Event() { cuda().cudaEventDestroy(event); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  void record(const Stream& stream) const { check_cuda(cuda().cudaEventRecord(event, stream.get()), "run"); }
  double nanoseconds_since(const Event& earlier) const;

 private:
  void* event = nullptr;
};

}  // namespace rally
