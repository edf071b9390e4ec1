#include "ort.h"

#include <dlfcn.h>

#include <mutex>

namespace rally {

namespace {
std::mutex loading;
const OrtApi* loaded = nullptr;
OrtEnv* env = nullptr;
}  // namespace

void load_ort(const std::string& path) {
  std::lock_guard<std::mutex> lock(loading);
  if (env != nullptr) return;
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) throw Failure("library", dlerror());
  auto base = reinterpret_cast<const OrtApiBase* (*)()>(dlsym(library, "OrtGetApiBase"));
  if (base == nullptr) throw Failure("library", path + " is no ONNX Runtime");
  const OrtApi* api = base()->GetApi(ORT_API_VERSION);
  if (api == nullptr) {
    throw Failure("library", path + " is ONNX Runtime " + base()->GetVersionString() + ", too old for this addon");
  }
  loaded = api;
  check(api->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "rally", &env), "library");
  check(api->DisableTelemetryEvents(env), "library");
}

const OrtApi& ort() {
  return *loaded;
}

OrtEnv* ort_env() {
  return env;
}

void check(OrtStatus* status, const char* about) {
  if (status == nullptr) return;
  std::string text = loaded->GetErrorMessage(status);
  loaded->ReleaseStatus(status);
  throw Failure(about, text);
}

}  // namespace rally
