#include "operator.h"

#include <climits>

#include "custom-op.h"

namespace rally {

namespace {

template <typename F>
OrtStatus* guarded(const Operator& op, F&& run) {
  try {
    run();
    return nullptr;
  } catch (const std::exception& failure) {
    const std::string text = std::string("rally.") + op.signature.name + ": " + failure.what();
    return op.api->CreateStatus(ORT_INVALID_ARGUMENT, text.c_str());
  }
}

const Operator& self(const OrtCustomOp* op) {
  return *static_cast<const Operator*>(op);
}

/// ONNX Runtime asks without saying which operator it means.
template <int kInput>
void setInPlace(OrtCustomOp& op) {
  op.GetMayInplace = [](int** inputs, int** outputs) -> size_t {
    *inputs = new int[1]{kInput};
    *outputs = new int[1]{0};
    return 1;
  };
  op.ReleaseMayInplace = [](int* inputs, int* outputs) {
    delete[] inputs;
    delete[] outputs;
  };
}

OrtCustomOpInputOutputCharacteristic characteristic(const Port& port) {
  return port.isOptional ? INPUT_OUTPUT_OPTIONAL : INPUT_OUTPUT_REQUIRED;
}

}  // namespace

OrtCustomOp* customOperator(const Signature& signature, const OrtApi* api) {
  auto* op = new Operator{};
  op->signature = signature;
  op->api = api;
  for (const auto& port : signature.inputs) op->inputShapes.push_back(parseShape(port.shape));
  for (const auto& port : signature.outputs) op->outputShapes.push_back(parseShape(port.shape));
  op->version = ORT_API_VERSION;
  op->GetName = [](const OrtCustomOp* op) { return self(op).signature.name; };
  op->GetExecutionProviderType = [](const OrtCustomOp*) { return kExecutionProvider; };
  op->GetInputTypeCount = [](const OrtCustomOp* op) { return self(op).signature.inputs.size(); };
  op->GetInputType = [](const OrtCustomOp* op, size_t i) { return self(op).signature.inputs[i].type; };
  op->GetInputCharacteristic = [](const OrtCustomOp* op, size_t i) { return characteristic(self(op).signature.inputs[i]); };
  op->GetInputMemoryType = [](const OrtCustomOp*, size_t) { return OrtMemTypeDefault; };
  op->GetOutputTypeCount = [](const OrtCustomOp* op) { return self(op).signature.outputs.size(); };
  op->GetOutputType = [](const OrtCustomOp* op, size_t i) { return self(op).signature.outputs[i].type; };
  op->GetOutputCharacteristic = [](const OrtCustomOp* op, size_t i) { return characteristic(self(op).signature.outputs[i]); };
  op->GetStartVersion = [](const OrtCustomOp*) { return 1; };
  op->GetEndVersion = [](const OrtCustomOp*) { return INT_MAX; };
  op->CreateKernelV2 = [](const OrtCustomOp* op, const OrtApi*, const OrtKernelInfo* info, void** kernel) {
    return guarded(self(op), [&] {
      *kernel = new Node(self(op), info);
    });
  };
  op->KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
    const auto& node = *static_cast<const Node*>(kernel);
    return guarded(node.op, [&] { compute(node, context); });
  };
  op->KernelDestroy = [](void* kernel) { delete static_cast<Node*>(kernel); };
  op->InferOutputShapeFn = [](const OrtCustomOp* op, OrtShapeInferContext* context) -> OrtStatusPtr {
    return guarded(self(op), [&] { inferShapes(self(op), context); });
  };
  if (signature.inPlace == 0) setInPlace<0>(*op);
  if (signature.inPlace == 5) setInPlace<5>(*op);
  return op;
}

}  // namespace rally
