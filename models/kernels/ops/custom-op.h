// What the parts of the operators' machinery share.
#pragma once

#include <memory>
#include <stdexcept>

#include "operator.h"

namespace rally {

/// Becomes a status before ONNX Runtime sees it.
struct Refusal : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Operator : OrtCustomOp {
  Signature signature;
  std::vector<Shape> inputShapes, outputShapes;
  const OrtApi* api;
};

/// A node of a session: its attributes.
struct Node {
  Node(const Operator& op, const OrtKernelInfo* info);

  const Operator& op;
  Sizes sizes;
  std::vector<std::pair<std::string, float>> numbers;
  std::vector<std::pair<std::string, std::string>> texts;
};

void check(const OrtApi& api, OrtStatus* status);

using OwnedInfo = std::unique_ptr<OrtTensorTypeAndShapeInfo, void (*)(OrtTensorTypeAndShapeInfo*)>;
std::vector<int64_t> dimensions(const OrtApi& api, const OrtTensorTypeAndShapeInfo* info);

void compute(const Node& node, OrtKernelContext* context);
/// From what is known of the inputs' shapes when a session opens, tells ONNX Runtime the outputs' shapes, so that it plans their memory.
void inferShapes(const Operator& op, OrtShapeInferContext* context);

}  // namespace rally
