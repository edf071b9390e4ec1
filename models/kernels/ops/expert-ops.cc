#include "../kernels.h"
#include "operator.h"

namespace rally {

namespace {

cudaError_t routeTopKOp(const Call& call) {
  return routeTopK(call.input<Bf16>(0), call.input<float>(1), call.output<int32_t>(0), call.output<float>(1), call.size("T"),
                   call.size("W"), call.size("E"), call.size("top_k"), call.stream);
}

std::string prepareExpertFfn(Call& call) {
  const int shared = call.size("shared_local"), numLocal = call.size("L");
  if (shared < -1 || shared >= numLocal) {
    return "attribute shared_local is " + std::to_string(shared) + ", expected -1 to " + std::to_string(numLocal - 1);
  }
  return needBytes(call, "workspace", "bytes",
                   expertWorkspaceBytes(call.size("T"), call.size("k"), numLocal, call.size("W"), call.size("I")));
}

cudaError_t expertFfnOp(const Call& call) {
  const ExpertWeights weights = {{call.input<E4m3>(5), call.input<float>(6)}, {call.input<E4m3>(7), call.input<float>(8)}};
  return expertFfn({call.input<E4m3>(0), call.input<float>(1)}, call.input<int32_t>(2), call.input<float>(3),
                   call.input<int32_t>(4), weights, call.size("L"), call.size("shared_local"), call.output<Bf16>(0),
                   call.size("T"), call.size("k"), call.size("W"), call.size("I"), call.input<void>(9), call.stream);
}

}  // namespace

const std::vector<Signature>& expertOperators() {
  static const std::vector<Signature> all = {
      {
          "RouteTopK",
          {{"x", kBf16, "T W"}, {"router", kF32, "E W"}},
          {{"expert_ids", kI32, "T top_k"}, {"expert_weights", kF32, "T top_k"}},
          {{"top_k", Attribute::kInteger}},
          -1,
          routeTopKOp,
      },
      {
          "ExpertFfn",
          {{"data", kFp8, "T W"},
           {"scales", kF32, "W/128 T"},
           {"expert_ids", kI32, "T k"},
           {"expert_weights", kF32, "T k"},
           {"local_of", kI32, "E"},
           {"gate_up", kFp8, "L 2*I/128 W/128 128 128"},
           {"gate_up_scales", kF32, "L 2*I/128 W/128"},
           {"down", kFp8, "L W/128 I/128 128 128"},
           {"down_scales", kF32, "L W/128 I/128"},
           {"workspace", kBytes, "bytes"}},
          {{"y", kBf16, "T W"}},
          {{"shared_local", Attribute::kInteger, "-1"}},
          -1,
          expertFfnOp,
          prepareExpertFfn,
      },
  };
  return all;
}

}  // namespace rally
