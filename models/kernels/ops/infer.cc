#include "custom-op.h"

namespace rally {

void inferShapes(const Operator& op, OrtShapeInferContext* context) {
  const OrtApi& api = *op.api;
  size_t count = 0;
  check(api, api.ShapeInferContext_GetInputCount(context, &count));
  Sizes sizes;
  // Attributes are not read here; the shapes that name them stay unknown until a run.
  std::vector<std::pair<std::string, std::string>> symbols;
  for (size_t i = 0; i < count && i < op.signature.inputs.size(); i++) {
    OrtTensorTypeAndShapeInfo* info = nullptr;
    check(api, api.ShapeInferContext_GetInputTypeShape(context, i, &info));
    const auto found = dimensions(api, info);
    // Rank 0: nothing is known.
    if (found.empty()) continue;
    // A run will say what does not fit; ONNX Runtime drops what is said here.
    if (!matchShape(op.inputShapes[i], found, sizes)) return;
    std::vector<const char*> names(found.size());
    check(api, api.GetSymbolicDimensions(info, names.data(), names.size()));
    for (size_t d = 0; d < found.size(); d++) {
      if (found[d] < 0 && names[d] != nullptr && *names[d] != '\0') symbols.emplace_back(op.inputShapes[i][d].text, names[d]);
    }
  }
  for (size_t i = 0; i < op.outputShapes.size(); i++) {
    std::vector<int64_t> dims;
    std::vector<std::string> names;
    for (const auto& dimension : op.outputShapes[i]) {
      const auto value = dimension.evaluate(sizes);
      std::string name;
      for (const auto& [text, symbol] : symbols) {
        if (text == dimension.text) name = symbol;
      }
      if ((!value || *value < 0) && name.empty()) break;
      dims.push_back(value.value_or(-1));
      names.push_back(value ? "" : name);
    }
    if (dims.size() != op.outputShapes[i].size()) continue;
    OrtTensorTypeAndShapeInfo* info = nullptr;
    check(api, api.CreateTensorTypeAndShapeInfo(&info));
    const OwnedInfo owned(info, api.ReleaseTensorTypeAndShapeInfo);
    std::vector<const char*> pointers;
    for (const auto& name : names) pointers.push_back(name.c_str());
    check(api, api.SetTensorElementType(info, op.signature.outputs[i].type));
    check(api, api.SetDimensions(info, dims.data(), dims.size()));
    check(api, api.SetSymbolicDimensions(info, pointers.data(), pointers.size()));
    OrtStatus* status = api.ShapeInferContext_SetOutputTypeShape(context, i, info);
    // It does not tell otherwise that a node lacks an output.
    if (status != nullptr && op.signature.outputs[i].isOptional) api.ReleaseStatus(status);
    else check(api, status);
  }
}

}  // namespace rally
