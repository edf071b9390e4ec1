#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "session.h"

namespace rally {

/** A tensor that lives across runs, in memory that ONNX Runtime allocated or over memory that JavaScript keeps. */
class Tensor {
 public:
  /** In the session's memory of that name: Cpu, Cuda, CudaPinned. Holds anything at first. */
  Tensor(std::shared_ptr<Session> session, const std::string& memory_name, ONNXTensorElementDataType type,
         const std::vector<int64_t>& dims);
  Tensor(void* data, size_t bytes, ONNXTensorElementDataType type, const std::vector<int64_t>& dims)
      : value(tensor_over(data, bytes, type, dims.data(), dims.size())), num_bytes(bytes), on_host(true) {}

  OrtValue* get() const { return value.get(); }
  bool is_on_host() const { return on_host; }
  size_t bytes() const { return num_bytes; }
  void* data() const;

 private:
  // In this order: the value goes before the allocator that made it, and that before its session.
  std::shared_ptr<Session> session;
  Owned<OrtAllocator> allocator;
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
  /** On whichever thread; only one at a time. */
  void run();

 private:
  std::shared_ptr<Session> session;
  std::vector<std::shared_ptr<Tensor>> tensors;
  /** ONNX Runtime copies a host tensor to the device when it is bound, so each run binds these anew. */
  std::vector<std::pair<std::string, std::shared_ptr<Tensor>>> host_inputs;
  Owned<OrtIoBinding> binding;
  Owned<OrtRunOptions> options;
  std::atomic<bool> running{false};
};

}  // namespace rally
