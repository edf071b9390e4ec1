// Rows of the embedding table for a batch of tokens.
#include "launch.h"
#include "vectors.h"

namespace rally {
namespace {

constexpr int kRun = 8;

__global__ void embedKernel(const int32_t* ids, const Bf16x8* table, Bf16x8* out, int vocab, int numRuns) {
  letNextStart();
  waitForPrevious();
  const int32_t id = ids[blockIdx.x];
  const bool known = id >= 0 && id < vocab;
  for (int run = threadIdx.x; run < numRuns; run += blockDim.x) {
    out[static_cast<int64_t>(blockIdx.x) * numRuns + run] =
        known ? table[static_cast<int64_t>(id) * numRuns + run] : Bf16x8{};
  }
}

}  // namespace

cudaError_t embed(const int32_t* ids, const Bf16* table, Bf16* out, int numTokens, int vocab, int hidden, cudaStream_t stream) {
  if (numTokens < 1 || vocab < 1 || hidden < kRun || hidden % kRun != 0) return cudaErrorInvalidValue;
  const int numRuns = hidden / kRun;
  const unsigned threads = numRuns < 1024 ? (numRuns + 31) / 32 * 32 : 1024;
  return launch(embedKernel, {static_cast<unsigned>(numTokens), threads}, stream, ids, reinterpret_cast<const Bf16x8*>(table),
                reinterpret_cast<Bf16x8*>(out), vocab, numRuns);
}

}  // namespace rally
