// The entry point of the shared library.

#include "operator.h"

namespace rally {

namespace {

OrtStatus* makeDomain(const OrtApi* api, OrtCustomOpDomain** domain) {
  if (OrtStatus* status = api->CreateCustomOpDomain("rally", domain)) return status;
  for (const auto* some : operators()) {
    for (const auto& signature : *some) {
      if (OrtStatus* status = api->CustomOpDomain_Add(*domain, customOperator(signature, api))) return status;
    }
  }
  return nullptr;
}

}  // namespace

}  // namespace rally

/// Sessions share one domain, which stays until the process ends.
extern "C" __attribute__((visibility("default"))) OrtStatus* RegisterCustomOps(OrtSessionOptions* options,
                                                                               const OrtApiBase* base) {
  const OrtApi* api = base->GetApi(ORT_API_VERSION);
  if (api == nullptr) {
    const std::string text = "the rally operators were built for a newer ONNX Runtime than " + std::string(base->GetVersionString());
    return base->GetApi(1)->CreateStatus(ORT_INVALID_ARGUMENT, text.c_str());
  }
  static OrtCustomOpDomain* domain = nullptr;
  static OrtStatus* const failed = rally::makeDomain(api, &domain);
  if (failed != nullptr) return api->CreateStatus(api->GetErrorCode(failed), api->GetErrorMessage(failed));
  return api->AddCustomOpDomain(options, domain);
}
