#pragma once

#include <onnxruntime_c_api.h>

#include <memory>
#include <stdexcept>
#include <string>

namespace rally {

/** What a failure was about, for those who tell a missing provider from a bad graph: "library", "provider", "graph", "run". */
struct Failure : std::runtime_error {
  Failure(const char* about, const std::string& text) : std::runtime_error(text), about(about) {}
  const char* about;
};

/** Loads the ONNX Runtime that all of this process uses. Only the first path counts. */
void load_ort(const std::string& path);
const OrtApi& ort();
/** Lives as long as the process: sessions of any thread may still be there when a thread's environment goes. */
OrtEnv* ort_env();

void check(OrtStatus* status, const char* about);

struct Release {
  void operator()(OrtSession* p) const { ort().ReleaseSession(p); }
  void operator()(OrtSessionOptions* p) const { ort().ReleaseSessionOptions(p); }
  void operator()(OrtRunOptions* p) const { ort().ReleaseRunOptions(p); }
  void operator()(OrtValue* p) const { ort().ReleaseValue(p); }
  void operator()(OrtMemoryInfo* p) const { ort().ReleaseMemoryInfo(p); }
  void operator()(OrtAllocator* p) const { ort().ReleaseAllocator(p); }
  void operator()(OrtIoBinding* p) const { ort().ReleaseIoBinding(p); }
  void operator()(OrtCUDAProviderOptionsV2* p) const { ort().ReleaseCUDAProviderOptions(p); }
};

template <typename T>
using Owned = std::unique_ptr<T, Release>;

}  // namespace rally
