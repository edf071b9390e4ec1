#include "../kernels.h"
#include "operator.h"

namespace rally {

namespace {

cudaError_t addRmsNormQuantiseOp(const Call& call) {
  const Bf16* partials = call.input<Bf16>(2);
  return addRmsNormQuantise(call.input<Bf16>(0), partials, partials == nullptr ? 0 : call.size("P"), call.output<Bf16>(0),
                            call.input<Bf16>(1), call.number("epsilon"), {call.output<E4m3>(1), call.output<float>(2)}, call.output<Bf16>(3),
                            call.size("T"), call.size("W"), call.stream);
}

/// Kernels read 16 bytes, which are 8 values, at a time.
std::string refuseColumns(const Call& call, const char* offset, int width) {
  const int from = call.size(offset), stride = call.size("S");
  if (from >= 0 && from + width <= stride && from % 8 == 0 && stride % 8 == 0) return "";
  return std::string(offset) + " = " + std::to_string(from) + ": " + std::to_string(width) + " columns from there, in rows of " +
         std::to_string(stride) + ", do not lie within a row or not at a multiple of 8";
}

std::string prepareRmsNorm(Call& call) {
  return refuseColumns(call, "offset", call.size("W"));
}

cudaError_t rmsNormQuantiseOp(const Call& call) {
  return rmsNormQuantise(call.input<Bf16>(0) + call.size("offset"), call.size("S"), call.input<Bf16>(1),
                         call.number("epsilon"), {call.output<E4m3>(0), call.output<float>(1)}, call.size("T"),
                         call.size("W"), call.stream);
}

std::string prepareGemm(Call& call) {
  return needBytes(call, "workspace", "bytes", gemmWorkspaceBytes(call.size("T"), call.size("N"), call.size("K")));
}

cudaError_t fp8GemmOp(const Call& call) {
  return fp8Gemm({call.input<E4m3>(0), call.input<float>(1)}, {call.input<E4m3>(2), call.input<float>(3)},
                 call.input<Bf16>(5), call.output<Bf16>(0), call.size("T"), call.size("N"), call.size("K"),
                 call.input<void>(4), call.stream);
}

std::optional<KvType> kvTypeOf(const Call& call) {
  const std::string& text = call.text("kv_type");
  if (text == "e4m3") return KvType::kE4m3;
  if (text == "bf16") return KvType::kBf16;
  return std::nullopt;
}

KvPool poolOf(const Call& call, size_t input) {
  return {call.input<void>(input), *kvTypeOf(call), call.size("head_dim")};
}

Sequences sequencesOf(const Call& call, size_t pageTable) {
  return {call.input<int32_t>(pageTable), call.input<int32_t>(pageTable + 1), call.size("T"), call.size("max_pages")};
}

std::string refusePool(const Call& call) {
  const auto type = kvTypeOf(call);
  if (!type) return "attribute kv_type is \"" + call.text("kv_type") + "\", expected \"e4m3\" or \"bf16\"";
  const size_t expected = kvPageBytes(*type, call.size("head_dim"));
  if (static_cast<size_t>(call.size("page_bytes")) == expected) return "";
  return "a page of pool has " + std::to_string(call.size("page_bytes")) + " bytes, expected " + std::to_string(expected);
}

int rotatedBytesOf(const Call& call) {
  return static_cast<int>(rotatedBytes(*kvTypeOf(call), 1, call.size("num_heads"), call.size("head_dim")));
}

std::string prepareRopeAppend(Call& call) {
  for (const char* name : {"key_offset", "value_offset"}) {
    const std::string reason = refuseColumns(call, name, call.size("head_dim"));
    if (!reason.empty()) return reason;
  }
  const std::string reason = refusePool(call);
  if (reason.empty()) call.sizes.set("rotated_bytes", rotatedBytesOf(call));
  return reason;
}

cudaError_t ropeAppendOp(const Call& call) {
  const Bf16* keyValue = call.input<Bf16>(1);
  return ropeAppend(call.input<Bf16>(0), keyValue + call.size("key_offset"), keyValue + call.size("value_offset"),
                    call.size("S"), call.input<float2>(2), poolOf(call, 3), sequencesOf(call, 4), call.output<void>(0),
                    call.size("num_heads"), call.stream);
}

std::string prepareMfaDecode(Call& call) {
  const std::string reason = refusePool(call);
  if (!reason.empty()) return reason;
  if (call.size("rotated_bytes") != rotatedBytesOf(call)) return "rotated is not what RopeAppend made: " + call.sizes.text();
  return needBytes(call, "workspace", "bytes",
                   mfaWorkspaceBytes(call.size("T"), call.size("max_pages"), call.size("num_heads"), call.size("head_dim")));
}

cudaError_t mfaDecodeOp(const Call& call) {
  return mfaDecode(call.input<void>(0), poolOf(call, 1), sequencesOf(call, 2), {call.output<E4m3>(0), call.output<float>(1)},
                   call.size("num_heads"), call.input<void>(4), call.stream);
}

}  // namespace

const std::vector<Signature>& attentionOperators() {
  static const std::vector<Signature> all = {
      {
          "AddRmsNormQuantise",
          {{"residual", kBf16, "T W"}, {"weight", kBf16, "W"}, {"partials", kBf16, "P T W", true}},
          {{"sum", kBf16, "T W"},
           {"data", kFp8, "T W", true},
           {"scales", kF32, "W/128 T", true},
           {"normed", kBf16, "T W", true}},
          {{"epsilon", Attribute::kFloat}},
          0,
          addRmsNormQuantiseOp,
      },
      {
          "RmsNormQuantise",
          {{"x", kBf16, "T S"}, {"weight", kBf16, "W"}},
          {{"data", kFp8, "T W"}, {"scales", kF32, "W/128 T"}},
          {{"epsilon", Attribute::kFloat}, {"offset", Attribute::kInteger, "0"}},
          -1,
          rmsNormQuantiseOp,
          prepareRmsNorm,
      },
      {
          "Fp8Gemm",
          {{"data", kFp8, "T K"},
           {"scales", kF32, "K/128 T"},
           {"tiles", kFp8, "N/128 K/128 128 128"},
           {"tile_scales", kF32, "N/128 K/128"},
           {"workspace", kBytes, "bytes"},
           {"addend", kBf16, "T N", true}},
          {{"y", kBf16, "T N"}},
          {},
          5,
          fp8GemmOp,
          prepareGemm,
      },
      {
          "RopeAppend",
          {{"query", kBf16, "T num_heads*head_dim"},
           {"key_value", kBf16, "T S"},
           {"cos_sin", kF32, "positions head_dim/2 2"},
           {"pool", kBytes, "pages page_bytes"},
           {"page_table", kI32, "T max_pages"},
           {"lengths", kI32, "T"}},
          {{"rotated", kBytes, "T rotated_bytes"}},
          {{"num_heads", Attribute::kInteger},
           {"head_dim", Attribute::kInteger},
           {"key_offset", Attribute::kInteger, "0"},
           {"value_offset", Attribute::kInteger, "head_dim"},
           {"kv_type", Attribute::kText}},
          -1,
          ropeAppendOp,
          prepareRopeAppend,
      },
      {
          "MfaDecode",
          {{"rotated", kBytes, "T rotated_bytes"},
           {"pool", kBytes, "pages page_bytes"},
           {"page_table", kI32, "T max_pages"},
           {"lengths", kI32, "T"},
           {"workspace", kBytes, "bytes"}},
          {{"data", kFp8, "T num_heads*head_dim"}, {"scales", kF32, "num_heads*head_dim/128 T"}},
          {{"num_heads", Attribute::kInteger}, {"head_dim", Attribute::kInteger}, {"kv_type", Attribute::kText}},
          -1,
          mfaDecodeOp,
          prepareMfaDecode,
      },
  };
  return all;
}

}  // namespace rally
