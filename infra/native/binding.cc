#include "binding.h"

namespace rally {

namespace {

constexpr const char* kDeviceMemory = "Cuda";
constexpr const char* kPinnedMemory = "CudaPinned";

OrtAllocator* allocator_of(const Session& session, const std::string& memory_name) {
  OrtMemoryInfo* raw = nullptr;
  OrtMemType kind = memory_name == kPinnedMemory ? OrtMemTypeCPUOutput : OrtMemTypeDefault;
  check(ort().CreateMemoryInfo(memory_name.c_str(), OrtDeviceAllocator, 0, kind, &raw), "run");
  Owned<OrtMemoryInfo> info(raw);
  OrtAllocator* allocator = nullptr;
  check(ort().CreateAllocator(session.get(), info.get(), &allocator), "run");
  return allocator;
}

}  // namespace

Tensor::Tensor(std::shared_ptr<Session> owner, const std::string& memory_name, ONNXTensorElementDataType type,
               const std::vector<int64_t>& dims)
    : session(std::move(owner)),
      allocator(allocator_of(*session, memory_name)),
      num_bytes(tensor_bytes(type, dims.data(), dims.size())),
      on_host(memory_name != kDeviceMemory) {
  OrtValue* raw = nullptr;
  check(ort().CreateTensorAsOrtValue(allocator.get(), dims.data(), dims.size(), type, &raw), "run");
  value.reset(raw);
}

void* Tensor::data() const {
  void* data = nullptr;
  check(ort().GetTensorMutableData(value.get(), &data), "run");
  return data;
}

Binding::Binding(std::shared_ptr<Session> owner, const std::vector<std::string>& run_configs)
    : session(std::move(owner)) {
  OrtIoBinding* raw_binding = nullptr;
  check(ort().CreateIoBinding(session->get(), &raw_binding), "run");
  binding.reset(raw_binding);
  OrtRunOptions* raw_options = nullptr;
  check(ort().CreateRunOptions(&raw_options), "run");
  options.reset(raw_options);
  for (size_t i = 0; i + 1 < run_configs.size(); i += 2) {
    check(ort().AddRunConfigEntry(raw_options, run_configs[i].c_str(), run_configs[i + 1].c_str()), "run");
  }
}

void Binding::bind_input(const std::string& name, std::shared_ptr<Tensor> tensor) {
  check(ort().BindInput(binding.get(), name.c_str(), tensor->get()), "run");
  if (session->is_on_device() && tensor->is_on_host()) host_inputs.emplace_back(name, tensor);
  tensors.push_back(std::move(tensor));
}

void Binding::bind_output(const std::string& name, std::shared_ptr<Tensor> tensor) {
  check(ort().BindOutput(binding.get(), name.c_str(), tensor->get()), "run");
  tensors.push_back(std::move(tensor));
}

void Binding::run() {
  if (running.exchange(true)) throw Failure("run", "this binding is running already");
  struct Done {
    std::atomic<bool>& running;
    ~Done() { running = false; }
  } done{running};
  for (const auto& [name, tensor] : host_inputs) check(ort().BindInput(binding.get(), name.c_str(), tensor->get()), "run");
  check(ort().RunWithBinding(session->get(), options.get(), binding.get()), "run");
}

}  // namespace rally
