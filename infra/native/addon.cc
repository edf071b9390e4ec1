#include <dlfcn.h>

#include "js.h"
#include "lane.h"
#include "shared.h"

/** What JavaScript calls; native.ts gives each function its types. */

namespace rally {

namespace {

napi_value undefined(napi_env env) {
  napi_value value = nullptr;
  napi_get_undefined(env, &value);
  return value;
}

napi_value texts_value(napi_env env, const std::vector<std::string>& texts) {
  napi_value array = nullptr;
  napi_create_array_with_length(env, texts.size(), &array);
  for (uint32_t i = 0; i < texts.size(); i++) napi_set_element(env, array, i, text_value(env, texts[i]));
  return array;
}

napi_value numbers_value(napi_env env, const std::vector<double>& numbers) {
  napi_value array = nullptr;
  napi_create_array_with_length(env, numbers.size(), &array);
  for (uint32_t i = 0; i < numbers.size(); i++) {
    napi_value number = nullptr;
    napi_create_double(env, numbers[i], &number);
    napi_set_element(env, array, i, number);
  }
  return array;
}

ONNXTensorElementDataType element_type(const Arguments& arguments, size_t i) {
  return static_cast<ONNXTensorElementDataType>(arguments.integer(i));
}

/** load(library): void */
napi_value load(const Arguments& arguments) {
  load_ort(arguments.text(0));
  return undefined(arguments.env);
}

/** openSession(graphFile, numThreads, provider, providerOptions, configs, customOpLibraries): handle */
napi_value open_session(const Arguments& arguments) {
  SessionSettings settings{arguments.text(0),  arguments.integer(1), arguments.text(2),
                           arguments.texts(3), arguments.texts(4),   arguments.texts(5)};
  return handle(arguments.env, std::make_shared<Session>(settings));
}

/** names(session): [inputs, outputs] */
napi_value names(const Arguments& arguments) {
  const auto& session = arguments.object<Session>(0);
  napi_value both = nullptr;
  napi_create_array_with_length(arguments.env, 2, &both);
  napi_set_element(arguments.env, both, 0, texts_value(arguments.env, session->inputs()));
  napi_set_element(arguments.env, both, 1, texts_value(arguments.env, session->outputs()));
  return both;
}

/**
 * run(session, plan, ...data): void. The plan is an Int32Array: numbers of feeds and fetches, then of each tensor, in the order of the
 * data: its place in the session's inputs or outputs, element type, rank, dimensions. One array costs less to read than many objects.
 */
napi_value run(const Arguments& arguments) {
  // Held, should the session be released by whoever else has it.
  const std::shared_ptr<Session> session = arguments.object<Session>(0);
  Memory memory = memory_of(arguments.env, arguments[1]);
  const auto* plan = static_cast<const int32_t*>(memory.data);
  const size_t length = memory.bytes / sizeof(int32_t);
  size_t at = 0;
  const auto next = [&] {
    if (at >= length) throw Failure("run", "the plan ends too early");
    return plan[at++];
  };
  const size_t num_feeds = static_cast<size_t>(next());
  const size_t num_tensors = num_feeds + static_cast<size_t>(next());
  if (num_tensors + 2 != arguments.count) throw Failure("run", "plan and data do not fit each other");

  const char* tensor_names[kMostArguments];
  OrtValue* values[kMostArguments];
  Owned<OrtValue> owned[kMostArguments];
  for (size_t i = 0; i < num_tensors; i++) {
    const auto& known = i < num_feeds ? session->inputs() : session->outputs();
    tensor_names[i] = known.at(static_cast<size_t>(next())).c_str();
    const auto type = static_cast<ONNXTensorElementDataType>(next());
    int64_t dims[8];
    const size_t rank = static_cast<size_t>(next());
    if (rank > 8) throw Failure("run", "a tensor has more than 8 dimensions");
    for (size_t d = 0; d < rank; d++) dims[d] = next();
    const Memory data = memory_of(arguments.env, arguments[2 + i]);
    owned[i] = tensor_over(data.data, data.bytes, type, dims, rank);
    values[i] = owned[i].get();
  }
  const auto lock = device_calls().beside_others();
  check(ort().Run(session->get(), nullptr, tensor_names, values, num_feeds, tensor_names + num_feeds,
                  num_tensors - num_feeds, values + num_feeds),
        "run");
  return undefined(arguments.env);
}

/** allocate(session, onHost, type, dims): handle */
napi_value allocate(const Arguments& arguments) {
  return handle(arguments.env, std::make_shared<Tensor>(arguments.object<Session>(0), arguments.integer(1) != 0,
                                                        element_type(arguments, 2), arguments.integers(3)));
}

/** wrap(data, type, dims): handle. The caller keeps `data`. */
napi_value wrap(const Arguments& arguments) {
  const Memory memory = memory_of(arguments.env, arguments[0]);
  return handle(arguments.env, std::make_shared<Tensor>(memory.data, memory.bytes, element_type(arguments, 1),
                                                        arguments.integers(2)));
}

/** An ArrayBuffer over the memory of `owner`, which stays as long as the ArrayBuffer. Once per owner. */
template <typename T>
napi_value buffer_of(napi_env env, const std::shared_ptr<T>& owner) {
  napi_value result = nullptr;
  auto* kept = new std::shared_ptr<T>(owner);
  const auto finalize = [](napi_env, void*, void* hint) { delete static_cast<std::shared_ptr<T>*>(hint); };
  if (napi_create_external_arraybuffer(env, owner->data(), owner->bytes(), finalize, kept, &result) != napi_ok) {
    delete kept;
    throw Failure("run", "this JavaScript engine takes no memory of others");
  }
  return result;
}

/** buffer(tensor): ArrayBuffer, the memory of an allocated host tensor */
napi_value buffer(const Arguments& arguments) {
  const auto& tensor = arguments.object<Tensor>(0);
  if (!tensor->is_on_host()) throw Failure("run", "memory of a device cannot be looked at");
  return buffer_of(arguments.env, tensor);
}

/** write(tensor, data, offset): void */
napi_value write(const Arguments& arguments) {
  const Memory memory = memory_of(arguments.env, arguments[1]);
  arguments.object<Tensor>(0)->write(memory.data, memory.bytes, arguments.size(2));
  return undefined(arguments.env);
}

/** read(tensor, target, offset): void */
napi_value read(const Arguments& arguments) {
  const Memory memory = memory_of(arguments.env, arguments[1]);
  arguments.object<Tensor>(0)->read(memory.data, memory.bytes, arguments.size(2));
  return undefined(arguments.env);
}

/** fill(tensor, pattern): void */
napi_value fill(const Arguments& arguments) {
  const Memory memory = memory_of(arguments.env, arguments[1]);
  arguments.object<Tensor>(0)->fill(memory.data, memory.bytes);
  return undefined(arguments.env);
}

/** deviceMemory(session): [free, total] bytes of its device */
napi_value device_memory(const Arguments& arguments) {
  const Stream& stream = arguments.object<Session>(0)->stream();
  if (!stream.is_on_device()) throw Failure("run", "a session on the CPU has no device");
  size_t free = 0, total = 0;
  check_cuda(cuda().cudaSetDevice(stream.device_id()), "run");
  check_cuda(cuda().cudaMemGetInfo(&free, &total), "run");
  return numbers_value(arguments.env, {static_cast<double>(free), static_cast<double>(total)});
}

/** bind(session, inputNames, inputs, outputNames, outputs, runConfigs, before, after): handle. Copies: from, to, from, to, … */
napi_value bind(const Arguments& arguments) {
  auto binding = std::make_shared<Binding>(arguments.object<Session>(0), arguments.texts(5));
  const auto input_names = arguments.texts(1), output_names = arguments.texts(3);
  const auto inputs = arguments.objects<Tensor>(2), outputs = arguments.objects<Tensor>(4);
  for (size_t i = 0; i < inputs.size(); i++) binding->bind_input(input_names.at(i), inputs[i]);
  for (size_t i = 0; i < outputs.size(); i++) binding->bind_output(output_names.at(i), outputs[i]);
  const auto before = arguments.objects<Tensor>(6), after = arguments.objects<Tensor>(7);
  for (size_t i = 0; i + 1 < before.size(); i += 2) binding->copy_before(before[i], before[i + 1]);
  for (size_t i = 0; i + 1 < after.size(); i += 2) binding->copy_after(after[i], after[i + 1]);
  return handle(arguments.env, std::move(binding));
}

/** timeRuns(binding, count): number[], nanoseconds of each */
napi_value time_runs(const Arguments& arguments) {
  const std::shared_ptr<Binding> binding = arguments.object<Binding>(0);
  return numbers_value(arguments.env, binding->time_runs(static_cast<size_t>(arguments.integer(1))));
}

/** measure(library, function, arguments): number, what a function of a library of operators says that something takes */
napi_value measure(const Arguments& arguments) {
  void* library = dlopen(arguments.text(0).c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) throw Failure("library", dlerror());
  using Measure = int64_t (*)(const int64_t*, size_t);
  const auto function = reinterpret_cast<Measure>(dlsym(library, arguments.text(1).c_str()));
  if (function == nullptr) throw Failure("library", arguments.text(0) + " has no " + arguments.text(1));
  const auto sizes = arguments.integers(2);
  napi_value result = nullptr;
  napi_create_double(arguments.env, static_cast<double>(function(sizes.data(), sizes.size())), &result);
  return result;
}

/** runBound(binding): void */
napi_value run_bound(const Arguments& arguments) {
  const std::shared_ptr<Binding> binding = arguments.object<Binding>(0);
  binding->run();
  return undefined(arguments.env);
}

/** createShared(bytes): file descriptor */
napi_value create_shared_file(const Arguments& arguments) {
  napi_value result = nullptr;
  napi_create_int32(arguments.env, create_shared(arguments.size(0)), &result);
  return result;
}

/** allocateShared(file, offset, bytes): void */
napi_value allocate_shared_file(const Arguments& arguments) {
  allocate_shared(arguments.integer(0), arguments.size(1), arguments.size(2));
  return undefined(arguments.env);
}

/** mapShared(file, bytes): handle. The descriptor may be closed then. */
napi_value map_shared(const Arguments& arguments) {
  return handle(arguments.env, std::make_shared<SharedMap>(arguments.integer(0), arguments.size(1)));
}

/** sharedBuffer(map): ArrayBuffer */
napi_value shared_buffer(const Arguments& arguments) {
  return buffer_of(arguments.env, arguments.object<SharedMap>(0));
}

/** releaseShared(map, buffer): void. Nothing is left in the ArrayBuffer and in views of it, so that none reads what is not mapped. */
napi_value release_shared(const Arguments& arguments) {
  napi_detach_arraybuffer(arguments.env, arguments[1]);
  arguments.slot<SharedMap>(0)->reset();
  return undefined(arguments.env);
}

/** threadId(): number */
napi_value thread_id_value(const Arguments& arguments) {
  napi_value result = nullptr;
  napi_create_int32(arguments.env, thread_id(), &result);
  return result;
}

/** openLane(): handle */
napi_value open_lane(const Arguments& arguments) {
  return handle(arguments.env, std::make_shared<Lane>(arguments.env));
}

/** runOn(lane, binding, keep): Promise<void> */
napi_value run_on(const Arguments& arguments) {
  return arguments.object<Lane>(0)->run(arguments.object<Binding>(1), arguments[2]);
}

/** release(handle): void. Its object goes once nothing else uses it. Safe to call twice. */
template <typename T>
napi_value release(const Arguments& arguments) {
  arguments.slot<T>(0)->reset();
  return undefined(arguments.env);
}

template <napi_value (*F)(const Arguments&)>
void define(napi_env env, napi_value exports, const char* name) {
  napi_value function = nullptr;
  napi_create_function(env, name, NAPI_AUTO_LENGTH, guarded<F>, nullptr, &function);
  napi_set_named_property(env, exports, name, function);
}

}  // namespace

}  // namespace rally

NAPI_MODULE_INIT() {
  using namespace rally;
  define<load>(env, exports, "load");
  define<open_session>(env, exports, "openSession");
  define<names>(env, exports, "names");
  define<run>(env, exports, "run");
  define<allocate>(env, exports, "allocate");
  define<wrap>(env, exports, "wrap");
  define<buffer>(env, exports, "buffer");
  define<write>(env, exports, "write");
  define<read>(env, exports, "read");
  define<fill>(env, exports, "fill");
  define<device_memory>(env, exports, "deviceMemory");
  define<bind>(env, exports, "bind");
  define<run_bound>(env, exports, "runBound");
  define<time_runs>(env, exports, "timeRuns");
  define<measure>(env, exports, "measure");
  define<create_shared_file>(env, exports, "createShared");
  define<allocate_shared_file>(env, exports, "allocateShared");
  define<map_shared>(env, exports, "mapShared");
  define<shared_buffer>(env, exports, "sharedBuffer");
  define<release_shared>(env, exports, "releaseShared");
  define<thread_id_value>(env, exports, "threadId");
  define<open_lane>(env, exports, "openLane");
  define<run_on>(env, exports, "runOn");
  define<release<Session>>(env, exports, "releaseSession");
  define<release<Tensor>>(env, exports, "releaseTensor");
  define<release<Binding>>(env, exports, "releaseBinding");
  define<release<Lane>>(env, exports, "releaseLane");
  return exports;
}
