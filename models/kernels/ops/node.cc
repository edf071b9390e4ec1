#include <algorithm>
#include <climits>

#include "custom-op.h"

namespace rally {

namespace {

int64_t integerAttribute(const Node& node, const OrtKernelInfo* info, const Attribute& attribute) {
  const OrtApi& api = *node.op.api;
  int64_t value = 0;
  OrtStatus* status = api.KernelInfoGetAttribute_int64(info, attribute.name, &value);
  if (status == nullptr) return value;
  api.ReleaseStatus(status);
  if (attribute.fallback == nullptr) throw Refusal(std::string("attribute ") + attribute.name + " (an integer) is missing");
  const auto other = node.sizes.find(attribute.fallback);
  return other ? *other : std::stoll(attribute.fallback);
}

void readAttribute(Node& node, const OrtKernelInfo* info, const Attribute& attribute) {
  const OrtApi& api = *node.op.api;
  if (attribute.kind == Attribute::kInteger) {
    node.sizes.set(attribute.name, integerAttribute(node, info, attribute));
  } else if (attribute.kind == Attribute::kFloat) {
    float value = 0;
    check(api, api.KernelInfoGetAttribute_float(info, attribute.name, &value));
    node.numbers.emplace_back(attribute.name, value);
  } else {
    size_t length = 0;
    check(api, api.KernelInfoGetAttribute_string(info, attribute.name, nullptr, &length));
    std::string value(length, '\0');
    check(api, api.KernelInfoGetAttribute_string(info, attribute.name, value.data(), &length));
    // The length counts the final zero.
    value.resize(length - 1);
    node.texts.emplace_back(attribute.name, value);
  }
}

std::vector<int64_t> valueDimensions(const OrtApi& api, const OrtValue* value) {
  OrtTensorTypeAndShapeInfo* info = nullptr;
  check(api, api.GetTensorTypeAndShape(value, &info));
  const OwnedInfo owned(info, api.ReleaseTensorTypeAndShapeInfo);
  return dimensions(api, info);
}

/// Refuses a shape that input i does not have.
void checkShape(const Operator& op, size_t i, const std::vector<int64_t>& found, Sizes& sizes) {
  Sizes before = sizes;
  if (matchShape(op.inputShapes[i], found, sizes)) return;
  throw Refusal(std::string(op.signature.inputs[i].name) + " is " + shapeText(found) + ", expected " +
                shapeText(op.inputShapes[i], before));
}

void readInputs(const Operator& op, const OrtKernelContext* context, Call& call) {
  const OrtApi& api = *op.api;
  size_t count = 0;
  check(api, api.KernelContext_GetInputCount(context, &count));
  for (size_t i = 0; i < op.signature.inputs.size(); i++) {
    const OrtValue* value = nullptr;
    if (i < count) check(api, api.KernelContext_GetInput(context, i, &value));
    const void* data = nullptr;
    if (value != nullptr) {
      checkShape(op, i, valueDimensions(api, value), call.sizes);
      check(api, api.GetTensorMutableData(const_cast<OrtValue*>(value), const_cast<void**>(&data)));
    }
    call.inputs.push_back(const_cast<void*>(data));
  }
}

std::vector<int64_t> outputDimensions(const Shape& shape, const Sizes& sizes) {
  std::vector<int64_t> dims;
  for (const auto& dimension : shape) {
    const auto value = dimension.evaluate(sizes);
    if (!value || *value < 0) throw Refusal(dimension.text + " is no whole number with " + sizes.text());
    dims.push_back(*value);
  }
  return dims;
}

/// Whether there is anything to compute.
bool makeOutputs(const Operator& op, OrtKernelContext* context, Call& call) {
  const OrtApi& api = *op.api;
  // All first, so that it is we who refuse.
  std::vector<std::vector<int64_t>> shapes;
  for (const auto& shape : op.outputShapes) shapes.push_back(outputDimensions(shape, call.sizes));
  bool isEmpty = true;
  size_t count = 0;
  check(api, api.KernelContext_GetOutputCount(context, &count));
  for (size_t i = 0; i < shapes.size(); i++) {
    const auto& dims = shapes[i];
    isEmpty = isEmpty && std::find(dims.begin(), dims.end(), 0) != dims.end();
    OrtValue* value = nullptr;
    if (i < count) check(api, api.KernelContext_GetOutput(context, i, dims.data(), dims.size(), &value));
    void* data = nullptr;
    if (value != nullptr) check(api, api.GetTensorMutableData(value, &data));
    call.outputs.push_back(data);
  }
  return !isEmpty;
}

void checkCuda(cudaError_t error, const Call& call) {
  if (error == cudaSuccess) return;
  if (error == cudaErrorInvalidValue) throw Refusal("its kernel does not do these sizes: " + call.sizes.text());
  throw Refusal("CUDA failure " + std::to_string(error) + ": " + cudaGetErrorString(error));
}

template <typename T>
const T& named(const std::vector<std::pair<std::string, T>>& values, const char* name) {
  for (const auto& [known, value] : values) {
    if (known == name) return value;
  }
  throw Refusal(std::string("it has no ") + name);
}

}  // namespace

void check(const OrtApi& api, OrtStatus* status) {
  if (status == nullptr) return;
  const std::string text = api.GetErrorMessage(status);
  api.ReleaseStatus(status);
  throw Refusal(text);
}

std::vector<int64_t> dimensions(const OrtApi& api, const OrtTensorTypeAndShapeInfo* info) {
  size_t rank = 0;
  check(api, api.GetDimensionsCount(info, &rank));
  std::vector<int64_t> dims(rank);
  check(api, api.GetDimensions(info, dims.data(), rank));
  return dims;
}

Node::Node(const Operator& op, const OrtKernelInfo* info) : op(op) {
  for (const auto& attribute : op.signature.attributes) readAttribute(*this, info, attribute);
}

void compute(const Node& node, OrtKernelContext* context) {
  const Operator& op = node.op;
  const Signature& signature = op.signature;
  Call call;
  call.sizes = node.sizes;
  call.numbers = &node.numbers;
  call.texts = &node.texts;
  void* stream = nullptr;
  check(*op.api, op.api->KernelContext_GetGPUComputeStream(context, &stream));
  call.stream = static_cast<cudaStream_t>(stream);
  readInputs(op, context, call);
  if (signature.prepare != nullptr) {
    const std::string reason = signature.prepare(call);
    if (!reason.empty()) throw Refusal(reason);
  }
  if (!makeOutputs(op, context, call)) return;
  checkCuda(signature.enqueue(call), call);
}

int Call::size(const char* name) const {
  const auto value = sizes.find(name);
  if (!value || *value < INT_MIN || *value > INT_MAX) throw Refusal(std::string(name) + " is not known or too large");
  return static_cast<int>(*value);
}

float Call::number(const char* name) const {
  return named(*numbers, name);
}

const std::string& Call::text(const char* name) const {
  return named(*texts, name);
}

std::string needBytes(const Call& call, const char* name, const char* size, size_t needed) {
  const int64_t found = call.sizes.find(size).value_or(0);
  if (found >= 0 && static_cast<size_t>(found) >= needed) return "";
  return std::string(name) + " has " + std::to_string(found) + " bytes, " + std::to_string(needed) + " are needed";
}

}  // namespace rally
