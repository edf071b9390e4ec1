#include "../kernels.h"
#include "operator.h"

namespace rally {

namespace {

cudaError_t embedOp(const Call& call) {
  return embed(call.input<int32_t>(0), call.input<Bf16>(1), call.output<Bf16>(0), call.size("T"), call.size("V"),
               call.size("W"), call.stream);
}

/// Columns beyond it fill up the matrix product that made the logits.
int vocabOf(const Call& call) {
  return call.size("vocab") == 0 ? call.size("S") : call.size("vocab");
}

std::string prepareTopCandidates(Call& call) {
  const int vocab = vocabOf(call), numCandidates = call.size("num_candidates");
  if (vocab < 0 || vocab > call.size("S")) {
    return "attribute vocab is " + std::to_string(vocab) + ", logits have " + std::to_string(call.size("S")) + " columns";
  }
  if (numCandidates < 1 || numCandidates > vocab) {
    return "attribute num_candidates is " + std::to_string(numCandidates) + ", expected 1 to " + std::to_string(vocab);
  }
  return needBytes(call, "workspace", "bytes", candidatesWorkspaceBytes(call.size("T"), vocab, numCandidates));
}

cudaError_t topCandidatesOp(const Call& call) {
  return topCandidates(call.input<Bf16>(0), call.size("S"), call.output<int32_t>(0), call.output<float>(1),
                       call.output<float>(2), call.size("T"), vocabOf(call), call.size("num_candidates"), call.input<void>(1), call.stream);
}

cudaError_t packWeightsOp(const Call& call) {
  return packWeights(call.input<E4m3>(0), call.output<E4m3>(0), call.size("N"), call.size("K"), call.stream);
}

}  // namespace

const std::vector<Signature>& headOperators() {
  static const std::vector<Signature> all = {
      {"Embed", {{"ids", kI32, "T"}, {"table", kBf16, "V W"}}, {{"out", kBf16, "T W"}}, {}, -1, embedOp},
      {
          "TopCandidates",
          {{"logits", kBf16, "T S"}, {"workspace", kBytes, "bytes"}},
          {{"ids", kI32, "T num_candidates"}, {"values", kF32, "T num_candidates"}, {"log_sum", kF32, "T"}},
          {{"num_candidates", Attribute::kInteger}, {"vocab", Attribute::kInteger, "0"}},
          -1,
          topCandidatesOp,
          prepareTopCandidates,
      },
      {
          "PackWeights",
          {{"weight", kFp8, "N K"}},
          {{"tiles", kFp8, "N/128 K/128 128 128"}},
          {},
          -1,
          packWeightsOp,
      },
  };
  return all;
}

}  // namespace rally
