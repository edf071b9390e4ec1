#include "session.h"

namespace rally {

namespace {

/** What a provider option is set to, the last time that it is. */
std::string option(const SessionSettings& settings, const char* name, const char* otherwise) {
  std::string value = otherwise;
  for (size_t i = 0; i + 1 < settings.provider_options.size(); i += 2) {
    if (settings.provider_options[i] == name) value = settings.provider_options[i + 1];
  }
  return value;
}

bool wants_cuda_graphs(const SessionSettings& settings) {
  return option(settings, "enable_cuda_graph", "0") == "1";
}

/** Negative: no device. */
int device_of(const SessionSettings& settings) {
  if (settings.provider == "cpu") return -1;
  if (settings.provider != "cuda") throw Failure("provider", "unknown provider " + settings.provider);
  const std::string text = option(settings, "device_id", "0");
  if (text.empty() || text.size() > 4 || text.find_first_not_of("0123456789") != std::string::npos) {
    throw Failure("provider", "device_id is \"" + text + "\"");
  }
  return std::stoi(text);
}

void add_cuda(OrtSessionOptions* options, const std::vector<std::string>& pairs, const Stream& stream) {
  OrtCUDAProviderOptionsV2* raw = nullptr;
  check(ort().CreateCUDAProviderOptions(&raw), "provider");
  Owned<OrtCUDAProviderOptionsV2> cuda(raw);
  std::vector<const char*> keys, values;
  for (size_t i = 0; i + 1 < pairs.size(); i += 2) {
    keys.push_back(pairs[i].c_str());
    values.push_back(pairs[i + 1].c_str());
  }
  check(ort().UpdateCUDAProviderOptions(cuda.get(), keys.data(), values.data(), keys.size()), "provider");
  check(ort().UpdateCUDAProviderOptionsWithValue(cuda.get(), "user_compute_stream", stream.get()), "provider");
  check(ort().SessionOptionsAppendExecutionProvider_CUDA_V2(options, cuda.get()), "provider");
}

Owned<OrtSessionOptions> options_of(const SessionSettings& settings, const Stream& stream) {
  OrtSessionOptions* raw = nullptr;
  check(ort().CreateSessionOptions(&raw), "graph");
  Owned<OrtSessionOptions> options(raw);
  check(ort().SetIntraOpNumThreads(raw, settings.num_threads), "graph");
  check(ort().SetInterOpNumThreads(raw, 1), "graph");
  check(ort().SetSessionExecutionMode(raw, ORT_SEQUENTIAL), "graph");
  check(ort().SetSessionGraphOptimizationLevel(raw, ORT_ENABLE_ALL), "graph");
  for (size_t i = 0; i + 1 < settings.configs.size(); i += 2) {
    check(ort().AddSessionConfigEntry(raw, settings.configs[i].c_str(), settings.configs[i + 1].c_str()), "graph");
  }
  for (const auto& library : settings.custom_op_libraries) {
    check(ort().RegisterCustomOpsLibrary_V2(raw, library.c_str()), "library");
  }
  // A run that follows the memory pattern of the one before allocates one large block, which no capture allows.
  if (wants_cuda_graphs(settings)) check(ort().DisableMemPattern(raw), "graph");
  if (stream.is_on_device()) {
    add_cuda(raw, settings.provider_options, stream);
  } else if (!settings.provider_options.empty()) {
    throw Failure("graph", "provider cpu has no options");
  }
  return options;
}

using GetName = OrtStatus*(ORT_API_CALL*)(const OrtSession*, size_t, OrtAllocator*, char**);

std::vector<std::string> names(const OrtSession* session, size_t count, GetName get_name) {
  OrtAllocator* allocator = nullptr;
  check(ort().GetAllocatorWithDefaultOptions(&allocator), "graph");
  std::vector<std::string> result;
  for (size_t i = 0; i < count; i++) {
    char* name = nullptr;
    check(get_name(session, i, allocator, &name), "graph");
    result.emplace_back(name);
    check(ort().AllocatorFree(allocator, name), "graph");
  }
  return result;
}

}  // namespace

Session::Session(const SessionSettings& settings)
    : own_stream(device_of(settings)), has_cuda_graphs(wants_cuda_graphs(settings)) {
  const auto lock = device_calls().beside_others();
  OrtSession* raw = nullptr;
  check(ort().CreateSession(ort_env(), settings.graph_file.c_str(), options_of(settings, own_stream).get(), &raw), "graph");
  session.reset(raw);
  size_t num_inputs = 0, num_outputs = 0;
  check(ort().SessionGetInputCount(raw, &num_inputs), "graph");
  check(ort().SessionGetOutputCount(raw, &num_outputs), "graph");
  input_names = names(raw, num_inputs, ort().SessionGetInputName);
  output_names = names(raw, num_outputs, ort().SessionGetOutputName);
}

Session::~Session() {
  const auto lock = device_calls().beside_others();
  session.reset();
}

size_t element_bytes(ONNXTensorElementDataType type) {
  switch (type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64:
      return 8;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32:
      return 4;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16:
      return 2;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E4M3FN:
      return 1;
    default:
      throw Failure("run", "tensors of element type " + std::to_string(type) + " are not supported");
  }
}

size_t tensor_bytes(ONNXTensorElementDataType type, const int64_t* dims, size_t rank) {
  constexpr int64_t most = int64_t{1} << 62;
  int64_t bytes = static_cast<int64_t>(element_bytes(type));
  for (size_t i = 0; i < rank; i++) {
    if (dims[i] < 0) throw Failure("run", "a dimension is " + std::to_string(dims[i]));
    if (dims[i] != 0 && bytes > most / dims[i]) throw Failure("run", "the dimensions are too large");
    bytes *= dims[i];
  }
  return static_cast<size_t>(bytes);
}

Owned<OrtValue> tensor_over(void* data, size_t bytes, ONNXTensorElementDataType type, const int64_t* dims, size_t rank) {
  static OrtMemoryInfo* host = [] {
    OrtMemoryInfo* info = nullptr;
    check(ort().CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &info), "run");
    return info;
  }();
  size_t needed = tensor_bytes(type, dims, rank);
  if (needed > bytes) {
    throw Failure("run", "the tensor takes " + std::to_string(needed) + " bytes, its memory has " + std::to_string(bytes));
  }
  OrtValue* value = nullptr;
  check(ort().CreateTensorWithDataAsOrtValue(host, data, needed, dims, rank, type, &value), "run");
  return Owned<OrtValue>(value);
}

}  // namespace rally
