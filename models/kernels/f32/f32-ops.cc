// Operators of f32-attention.cu, a library of their own: they run on any GPU, and the others on Hopper alone.

#include "f32-attention.h"
#include "ops/operator.h"

namespace rally {

namespace {

F32Pool poolOf(const Call& call, size_t input) {
  return {call.input<float>(input), call.size("head_dim")};
}

Sequences sequencesOf(const Call& call, size_t pageTable) {
  return {call.input<int32_t>(pageTable), call.input<int32_t>(pageTable + 1), call.size("T"), call.size("max_pages")};
}

cudaError_t ropeAppendOp(const Call& call) {
  return ropeAppendF32(call.input<float>(0), call.input<float>(1), call.size("S"), call.input<float2>(2), poolOf(call, 3),
                       sequencesOf(call, 4), call.output<float>(0), call.size("num_heads"), call.stream);
}

cudaError_t mfaDecodeOp(const Call& call) {
  return mfaDecodeF32(call.input<float>(0), poolOf(call, 1), sequencesOf(call, 2), call.output<float>(0), call.size("num_heads"),
                      call.stream);
}

const std::vector<Signature>& f32Operators() {
  static const std::vector<Attribute> attributes = {{"num_heads", Attribute::kInteger}, {"head_dim", Attribute::kInteger}};
  static const std::vector<Signature> all = {
      {
          "RopeAppendF32",
          {{"query", kF32, "T num_heads*head_dim"},
           {"key_value", kF32, "T S"},
           {"cos_sin", kF32, "positions head_dim/2 2"},
           {"pool", kF32, "pages 2 64 head_dim"},
           {"page_table", kI32, "T max_pages"},
           {"lengths", kI32, "T"}},
          {{"rotated", kF32, "T num_heads*head_dim"}},
          attributes,
          -1,
          ropeAppendOp,
      },
      {
          "MfaDecodeF32",
          {{"rotated", kF32, "T num_heads*head_dim"},
           {"pool", kF32, "pages 2 64 head_dim"},
           {"page_table", kI32, "T max_pages"},
           {"lengths", kI32, "T"}},
          {{"heads", kF32, "T num_heads*head_dim"}},
          attributes,
          -1,
          mfaDecodeOp,
      },
  };
  return all;
}

}  // namespace

std::vector<const std::vector<Signature>*> operators() {
  return {&f32Operators()};
}

}  // namespace rally
