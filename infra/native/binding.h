#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "session.h"

namespace rally {

/** A tensor that lives across runs, in memory of its own or over memory that JavaScript keeps. */
class Tensor {
 public:
  /** Where the session computes, or, for `on_host`, in host memory that is copied from and to there fastest. Holds anything at first. */
  Tensor(std::shared_ptr<Session> session, bool on_host, ONNXTensorElementDataType type, const std::vector<int64_t>& dims);
  Tensor(void* data, size_t bytes, ONNXTensorElementDataType type, const std::vector<int64_t>& dims)
      : value(tensor_over(data, bytes, type, dims.data(), dims.size())), num_bytes(bytes), on_host(true) {}

  OrtValue* get() const { return value.get(); }
  bool is_on_host() const { return on_host; }
  size_t bytes() const { return num_bytes; }
  void* data() const;

  /** Copies to or from the tensor's bytes from `offset` on, in its session's order; done when it returns. */
  void write(const void* from, size_t bytes, size_t offset);
  void read(void* to, size_t bytes, size_t offset) const;
  /** Repeats `pattern` through the tensor. */
  void fill(const void* pattern, size_t bytes);

 private:
  char* at(size_t offset, size_t bytes) const;

  // In this order: the value goes before the allocator or the memory that it lies in, and that before its session.
  std::shared_ptr<Session> session;
  Owned<OrtAllocator> allocator;
  std::unique_ptr<CudaMemory> memory;
  Owned<OrtValue> value;
  size_t num_bytes;
  bool on_host;
};

/** A session with all its inputs and outputs, to be run again and again. */
class Binding {
 public:
  /** `run_configs`: key, value, key, value, … */
  Binding(std::shared_ptr<Session> session, const std::vector<std::string>& run_configs);

  void bind_input(const std::string& name, std::shared_ptr<Tensor> tensor);
  void bind_output(const std::string& name, std::shared_ptr<Tensor> tensor);
  /** Each run copies `from` to `to`, of the same size, before it begins or after it ends. */
  void copy_before(std::shared_ptr<Tensor> from, std::shared_ptr<Tensor> to);
  void copy_after(std::shared_ptr<Tensor> from, std::shared_ptr<Tensor> to);
  /** On whichever thread; only one at a time. */
  void run();
  /** One run after the other; the nanoseconds that each took where it computes. */
  std::vector<double> time_runs(size_t count);

 private:
  struct Copy {
    std::shared_ptr<Tensor> from, to;
  };
  class Running;
  static Copy copy_between(std::shared_ptr<Tensor> from, std::shared_ptr<Tensor> to);

  /** On a device this returns before it is done. */
  void enqueue();
  /** All but what is copied afterwards. */
  void compute(const OrtRunOptions* run_options);
  /** Calls `work`, which enqueues and waits, beside others or alone if it may capture. */
  template <typename Work>
  void among_others(Work&& work);

  std::shared_ptr<Session> session;
  std::vector<std::shared_ptr<Tensor>> tensors;
  /** ONNX Runtime copies a host tensor to the device when it is bound, so each run binds these anew. */
  std::vector<std::pair<std::string, std::shared_ptr<Tensor>>> host_inputs;
  std::vector<Copy> before, after;
  /** Which have captured it: a CUDA graph belongs to its thread. */
  std::vector<std::thread::id> captured_by;
  Owned<OrtIoBinding> binding;
  Owned<OrtRunOptions> options;
  /** The same but for a CUDA graph that is neither captured nor replayed. */
  Owned<OrtRunOptions> plain_options;
  std::atomic<bool> running{false};
};

}  // namespace rally
