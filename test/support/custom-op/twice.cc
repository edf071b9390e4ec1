// A library of one operator, rally.Twice: y = 2x, for tests of how such libraries are registered.
#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>

struct TwiceKernel {
  void Compute(OrtKernelContext* raw) {
    Ort::KernelContext context(raw);
    auto x = context.GetInput(0);
    auto info = x.GetTensorTypeAndShapeInfo();
    auto y = context.GetOutput(0, info.GetShape());
    const float* from = x.GetTensorData<float>();
    float* to = y.GetTensorMutableData<float>();
    for (size_t i = 0; i < info.GetElementCount(); i++) to[i] = 2 * from[i];
  }
};

struct Twice : Ort::CustomOpBase<Twice, TwiceKernel> {
  void* CreateKernel(const OrtApi&, const OrtKernelInfo*) const { return new TwiceKernel(); }
  const char* GetName() const { return "Twice"; }
  size_t GetInputTypeCount() const { return 1; }
  ONNXTensorElementDataType GetInputType(size_t) const { return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT; }
  size_t GetOutputTypeCount() const { return 1; }
  ONNXTensorElementDataType GetOutputType(size_t) const { return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT; }
};

extern "C" __attribute__((visibility("default"))) OrtStatus* RegisterCustomOps(OrtSessionOptions* options,
                                                                             const OrtApiBase* base) {
  Ort::InitApi(base->GetApi(ORT_API_VERSION));
  static Twice twice;
  static Ort::CustomOpDomain domain("rally");
  static bool added = (domain.Add(&twice), true);
  (void)added;
  return Ort::GetApi().AddCustomOpDomain(options, domain);
}
