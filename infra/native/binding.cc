#include "binding.h"

#include <algorithm>
#include <chrono>

namespace rally {

namespace {

constexpr const char* kNoWaiting = "disable_synchronize_execution_providers";
constexpr const char* kGraphId = "gpu_graph_id";
constexpr const char* kNoGraph = "-1";

/** Of a key that stands twice the last counts. */
Owned<OrtRunOptions> run_options(const std::vector<std::string>& configs) {
  OrtRunOptions* raw = nullptr;
  check(ort().CreateRunOptions(&raw), "run");
  Owned<OrtRunOptions> options(raw);
  for (size_t i = 0; i + 1 < configs.size(); i += 2) {
    check(ort().AddRunConfigEntry(raw, configs[i].c_str(), configs[i + 1].c_str()), "run");
  }
  return options;
}

Owned<OrtMemoryInfo> memory_info(const char* name, int device) {
  OrtMemoryInfo* info = nullptr;
  check(ort().CreateMemoryInfo(name, OrtDeviceAllocator, device, OrtMemTypeDefault, &info), "run");
  return Owned<OrtMemoryInfo>(info);
}

}  // namespace

Tensor::Tensor(std::shared_ptr<Session> owner, bool host, ONNXTensorElementDataType type, const std::vector<int64_t>& dims)
    : session(std::move(owner)),
      num_bytes(tensor_bytes(type, dims.data(), dims.size())),
      on_host(host || !session->is_on_device()) {
  OrtValue* raw = nullptr;
  if (session->is_on_device()) {
    // Not from the session's arena, which never gives anything back.
    const int device = session->stream().device_id();
    memory = std::make_unique<CudaMemory>(device, num_bytes, on_host);
    const auto info = on_host ? memory_info("Cpu", 0) : memory_info("Cuda", device);
    check(ort().CreateTensorWithDataAsOrtValue(info.get(), memory->get(), num_bytes, dims.data(), dims.size(), type, &raw),
          "run");
  } else {
    OrtAllocator* raw_allocator = nullptr;
    check(ort().CreateAllocator(session->get(), memory_info("Cpu", 0).get(), &raw_allocator), "run");
    allocator.reset(raw_allocator);
    check(ort().CreateTensorAsOrtValue(raw_allocator, dims.data(), dims.size(), type, &raw), "run");
  }
  value.reset(raw);
}

void* Tensor::data() const {
  void* data = nullptr;
  check(ort().GetTensorMutableData(value.get(), &data), "run");
  return data;
}

char* Tensor::at(size_t offset, size_t bytes) const {
  if (offset > num_bytes || bytes > num_bytes - offset) {
    throw Failure("run", std::to_string(bytes) + " bytes from " + std::to_string(offset) + " on do not lie in a tensor of " +
                             std::to_string(num_bytes));
  }
  return static_cast<char*>(data()) + offset;
}

void Tensor::write(const void* from, size_t bytes, size_t offset) {
  const auto lock = device_calls().beside_others();
  session->stream().copy(at(offset, bytes), from, bytes);
  session->stream().synchronize();
}

void Tensor::read(void* to, size_t bytes, size_t offset) const {
  const auto lock = device_calls().beside_others();
  session->stream().copy(to, at(offset, bytes), bytes);
  session->stream().synchronize();
}

void Tensor::fill(const void* pattern, size_t bytes) {
  if (num_bytes == 0) return;
  if (bytes == 0) throw Failure("run", "there is nothing to fill a tensor with");
  const auto lock = device_calls().beside_others();
  // The whole of what is filled already is copied behind itself, so a device does nearly all of it.
  size_t filled = std::min(bytes, num_bytes);
  session->stream().copy(data(), pattern, filled);
  while (filled < num_bytes) {
    const size_t next = std::min(filled, num_bytes - filled);
    session->stream().copy(at(filled, next), data(), next);
    filled += next;
  }
  session->stream().synchronize();
}

Binding::Binding(std::shared_ptr<Session> owner, const std::vector<std::string>& run_configs)
    : session(std::move(owner)) {
  OrtIoBinding* raw_binding = nullptr;
  check(ort().CreateIoBinding(session->get(), &raw_binding), "run");
  binding.reset(raw_binding);
  std::vector<std::string> configs = run_configs;
  // Whoever runs it waits for the stream, after the copies that follow.
  if (session->is_on_device()) configs.insert(configs.end(), {kNoWaiting, "1"});
  options = run_options(configs);
  configs.insert(configs.end(), {kGraphId, kNoGraph});
  plain_options = run_options(configs);
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

void Binding::copy_before(std::shared_ptr<Tensor> from, std::shared_ptr<Tensor> to) {
  before.push_back(copy_between(std::move(from), std::move(to)));
}

void Binding::copy_after(std::shared_ptr<Tensor> from, std::shared_ptr<Tensor> to) {
  after.push_back(copy_between(std::move(from), std::move(to)));
}

Binding::Copy Binding::copy_between(std::shared_ptr<Tensor> from, std::shared_ptr<Tensor> to) {
  if (from->bytes() != to->bytes()) {
    throw Failure("run", "a tensor of " + std::to_string(from->bytes()) + " bytes is no copy for one of " +
                             std::to_string(to->bytes()));
  }
  return {std::move(from), std::move(to)};
}

/** While it lives, nobody else runs the binding. */
class Binding::Running {
 public:
  explicit Running(Binding& binding) : running(binding.running) {
    if (running.exchange(true)) throw Failure("run", "this binding is running already");
  }
  ~Running() { running = false; }

 private:
  std::atomic<bool>& running;
};

void Binding::enqueue() {
  compute(options.get());
  for (const auto& [from, to] : after) session->stream().copy(to->data(), from->data(), to->bytes());
}

void Binding::compute(const OrtRunOptions* run_options) {
  for (const auto& [from, to] : before) session->stream().copy(to->data(), from->data(), to->bytes());
  for (const auto& [name, tensor] : host_inputs) check(ort().BindInput(binding.get(), name.c_str(), tensor->get()), "run");
  check(ort().RunWithBinding(session->get(), run_options, binding.get()), "run");
}

template <typename Work>
void Binding::among_others(Work&& work) {
  const auto self = std::this_thread::get_id();
  const bool is_known = std::find(captured_by.begin(), captured_by.end(), self) != captured_by.end();
  if (!session->captures() || is_known) {
    const auto lock = device_calls().beside_others();
    work();
    return;
  }
  const auto lock = device_calls().alone();
  // Allocates what the runs that follow, and so the capture, allocate no more. Its results go nowhere: they might be copied to where
  // the next run's inputs come from.
  compute(plain_options.get());
  work();
  captured_by.push_back(self);
}

void Binding::run() {
  const Running now(*this);
  among_others([this] {
    enqueue();
    session->stream().synchronize();
  });
}

std::vector<double> Binding::time_runs(size_t count) {
  const Running now(*this);
  std::vector<double> nanoseconds(count);
  const Stream& stream = session->stream();
  if (!stream.is_on_device()) {
    for (double& each : nanoseconds) {
      const auto begin = std::chrono::steady_clock::now();
      enqueue();
      each = std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - begin).count();
    }
    return nanoseconds;
  }
  std::vector<Event> events(2 * count);
  among_others([&] {
    for (size_t i = 0; i < count; i++) {
      events[2 * i].record(stream);
      enqueue();
      events[2 * i + 1].record(stream);
    }
    stream.synchronize();
  });
  for (size_t i = 0; i < count; i++) nanoseconds[i] = events[2 * i + 1].nanoseconds_since(events[2 * i]);
  return nanoseconds;
}

}  // namespace rally
