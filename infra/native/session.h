#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "cuda.h"
#include "ort.h"

namespace rally {

struct SessionSettings {
  std::string graph_file;
  int num_threads;
  /** "cpu" or "cuda". */
  std::string provider;
  /** Key, value, key, value, … */
  std::vector<std::string> provider_options;
  std::vector<std::string> configs;
  std::vector<std::string> custom_op_libraries;
};

class Session {
 public:
  explicit Session(const SessionSettings& settings);
  ~Session();

  OrtSession* get() const { return session.get(); }
  const std::vector<std::string>& inputs() const { return input_names; }
  const std::vector<std::string>& outputs() const { return output_names; }
  /** Whether tensors in host memory are copied for each run. */
  bool is_on_device() const { return own_stream.is_on_device(); }
  /** Whether its runs capture CUDA graphs and replay them. */
  bool captures() const { return has_cuda_graphs; }
  /** What its runs, and copies between its tensors, are enqueued on. */
  const Stream& stream() const { return own_stream; }

 private:
  // In this order: the stream goes after the session that works on it.
  Stream own_stream;
  Owned<OrtSession> session;
  std::vector<std::string> input_names, output_names;
  bool has_cuda_graphs;
};

size_t element_bytes(ONNXTensorElementDataType type);
/** The bytes that a tensor takes; throws for a type that we do not know and for dimensions that make no size. */
size_t tensor_bytes(ONNXTensorElementDataType type, const int64_t* dims, size_t rank);
/** A tensor over memory that somebody else keeps. */
Owned<OrtValue> tensor_over(void* data, size_t bytes, ONNXTensorElementDataType type, const int64_t* dims, size_t rank);

}  // namespace rally
