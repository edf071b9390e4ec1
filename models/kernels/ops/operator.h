// An operator of domain `rally` is its signature and a function that enqueues kernels; `operator.cc` makes ONNX Runtime's custom
// operator of them.
#pragma once

#include <cuda_runtime.h>
#include <onnxruntime_c_api.h>

#include <string>
#include <utility>
#include <vector>

#include "shape.h"

namespace rally {

/// An input or output. Shapes are texts, see shape.h; a name stands for the same size in all of them.
struct Port {
  const char* name;
  ONNXTensorElementDataType type;
  const char* shape;
  /// Of inputs the last only.
  bool isOptional = false;
};

constexpr auto kF32 = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
constexpr auto kI32 = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
constexpr auto kBf16 = ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16;
constexpr auto kFp8 = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E4M3FN;
/// Memory whose layout is a kernel's own.
constexpr auto kBytes = ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;

struct Attribute {
  enum Kind { kInteger, kFloat, kText };
  const char* name;
  Kind kind;
  /// What an integer is if the node does not say: a number, or the name of another that has been read before it.
  const char* fallback = nullptr;
};

/// A run of one node, after its inputs have been checked.
class Call {
 public:
  /// Null for an optional input or output that a node does not have.
  template <typename T>
  T* input(size_t i) const {
    return static_cast<T*>(inputs[i]);
  }
  template <typename T>
  T* output(size_t i) const {
    return static_cast<T*>(outputs[i]);
  }
  /// Of an integer attribute or of a dimension.
  int size(const char* name) const;
  float number(const char* name) const;
  const std::string& text(const char* name) const;

  cudaStream_t stream = nullptr;
  std::vector<void*> inputs, outputs;
  Sizes sizes;
  const std::vector<std::pair<std::string, float>>* numbers = nullptr;
  const std::vector<std::pair<std::string, std::string>>* texts = nullptr;
};

struct Signature {
  const char* name;
  std::vector<Port> inputs, outputs;
  std::vector<Attribute> attributes;
  /// The first output may be the same memory as this input, or not. -1: none.
  int inPlace = -1;
  cudaError_t (*enqueue)(const Call& call);
  /// Before the outputs are made: sets sizes that outputs need and inputs do not tell. The result is why it cannot be done, or empty.
  std::string (*prepare)(Call& call) = nullptr;
};

/// "the workspace has 10 bytes, 2048 are needed", or nothing.
std::string needBytes(const Call& call, const char* name, const char* size, size_t needed);

const std::vector<Signature>& attentionOperators();
const std::vector<Signature>& expertOperators();
const std::vector<Signature>& headOperators();

/// All that the library has.
std::vector<const std::vector<Signature>*> operators();

/// What ONNX Runtime takes; lives as long as the process.
OrtCustomOp* customOperator(const Signature& signature, const OrtApi* api);

/// Whose memory and stream the kernels work with.
extern const char* const kExecutionProvider;

}  // namespace rally
