// y = x Wᵀ for few tokens, bound by reading W once. One thread of a block keeps a deep ring of stages full (a 16 KB tile of weights,
// the tokens' 128 values of the same step and their scales); warpgroups multiply, and add every step, scaled, to f32 registers.
// Parts of K are summed in order through the shared memory of their cluster, so that the same weights and token give the same bits
// whatever else is in the batch.
#include "fp8-gemm.h"

#include "fp8-gemm-tiling.h"
#include "launch.h"
#include "vectors.h"

namespace rally {
namespace gemm {
namespace {

template <int tokens>
__device__ void meetConsumers() {
  asm volatile("bar.sync 1, %0;" ::"n"(Tiling<tokens>::kConsumers) : "memory");
}

__device__ float4 operator+(float4 a, float4 b) { return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w}; }

/// Adds up the parts of K for every splits-th token of this block's row tile and writes y; a warp does a token, several at once to
/// hide what the neighbours' shared memory takes.
template <int rowTiles, int splits>
__device__ void finish(const float* shared, const Part& part, const Shape& shape, const Bf16* addend, Bf16* y, int numWarps) {
  constexpr int kAtOnce = 4;
  const uint32_t neighbour = clusterRank() % rowTiles;
  const int lane = threadIdx.x % 32;
  const int stride = splits * numWarps;
  for (int first = part.split + splits * (threadIdx.x / 32); first < shape.numTokens; first += kAtOnce * stride) {
    float4 parts[kAtOnce][splits];
    Bf16x4 added[kAtOnce] = {};
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int token = min(first + i * stride, shape.numTokens - 1);
      const int64_t at = static_cast<int64_t>(token) * shape.n + part.rowTile * kGroup + 4 * lane;
      if (addend != nullptr) added[i] = *reinterpret_cast<const Bf16x4*>(addend + at);
      const uint32_t mine = sharedAddress(shared + token * kSumStride + 4 * lane);
#pragma unroll
      for (int split = 0; split < splits; ++split) {
        parts[i][split] = loadFrom(addressAt(mine, split * rowTiles + neighbour));
      }
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int token = first + i * stride;
      if (token >= shape.numTokens) break;
      float4 sum = parts[i][0];
#pragma unroll
      for (int split = 1; split < splits; ++split) sum = sum + parts[i][split];
      if (addend != nullptr) sum = sum + widen(added[i]);
      const int64_t at = static_cast<int64_t>(token) * shape.n + part.rowTile * kGroup + 4 * lane;
      *reinterpret_cast<Bf16x4*>(y + at) = narrow(sum);
    }
  }
}

template <int tokens, int rowTiles, int splits>
__global__ void __maxnreg__(Tiling<tokens>::kStartRegisters)
    gemmKernel(const __grid_constant__ CUtensorMap values, const float* activationScales, const uint8_t* tiles,
               const float* weightScales, const Bf16* addend, Bf16* y, const Shape shape) {
  using Tiles = Tiling<tokens>;
  extern __shared__ uint8_t shared[];
  const Ring<tokens> ring(shared);
  constexpr int kStages = Ring<tokens>::kStages;
  const Part part = partOf<rowTiles>(shape);
  Producer<tokens, rowTiles> producer(ring, part, shape, tiles);
  const bool produces = threadIdx.x == Tiles::kConsumers;
  const int numFirst = min(part.numSteps, kStages);

  letNextStart();
  if (produces) {
    for (int slot = 0; slot < kStages; ++slot) {
      initialise(ring.full + slot, 1);
      initialise(ring.empty + slot, rowTiles * Tiles::kConsumerWarps * kArrivalsPerWarp);
    }
    fenceBarriers();
    for (int step = 0; step < numFirst; ++step) producer.bringWeights(step);
  }
  meetCluster();
  waitForPrevious();

  if (threadIdx.x >= Tiles::kConsumers) {
    if constexpr (Tiles::kTradesRegisters) shrinkRegisters<Tiles::kProducerRegisters>();
    if (produces) {
      for (int step = 0; step < numFirst; ++step) producer.bringActivations(step, &values, activationScales);
      for (int step = numFirst; step < part.numSteps; ++step) {
        producer.awaitSpace(step);
        producer.bringWeights(step);
        producer.bringActivations(step, &values, activationScales);
      }
    }
    __syncwarp();
    if constexpr (splits > 1) syncCluster();
    meetCluster();
  } else {
    if constexpr (Tiles::kTradesRegisters) growRegisters<Tiles::kConsumerRegisters>();
    Tiles product;
    const uint32_t lane = threadIdx.x % 32;
    const float* const ofTile = weightScales + static_cast<int64_t>(part.rowTile) * shape.numSteps + part.firstStep;
    float next = *ofTile;
    for (int step = 0; step < part.numSteps; ++step) {
      const int slot = step % kStages;
      const float weightScale = next;
      if (step + 1 < part.numSteps) next = ofTile[step + 1];
      wait(ring.full + slot, step / kStages % 2);
      product.multiplyStep(ring.weights(slot), ring.activations(slot),
                           ring.scalesOf(slot, part.firstStep + step, shape.numTokens), weightScale);
      __syncwarp();
      if constexpr (rowTiles == 1) {
        if (kArrivalsPerWarp == 32 || lane == 0) arrive(ring.empty + slot);
      } else if (kArrivalsPerWarp == 32) {
        for (int i = 0; i < rowTiles; ++i) arriveAt(ring.empty + slot, clusterRank() / rowTiles * rowTiles + i);
      } else if (lane < rowTiles) {
        arriveAt(ring.empty + slot, clusterRank() / rowTiles * rowTiles + lane);
      }
    }
    meetConsumers<tokens>();  // others may still read the ring
    float* const sums = reinterpret_cast<float*>(ring.stages);
    product.store(sums, shape.numTokens);
    if constexpr (splits > 1) {
      syncCluster();
    } else {
      meetConsumers<tokens>();
    }
    finish<rowTiles, splits>(sums, part, shape, addend, y, Tiles::kConsumerWarps);
    meetCluster();  // neighbours read this block's shared memory and arrive on its barriers until here
  }
}

struct Arguments {
  Activations x;
  Weights weights;
  const Bf16* addend;
  Bf16* y;
  Shape shape;
  cudaStream_t stream;
};

template <int tokens, int rowTiles, int splits>
cudaError_t start(const Arguments& a) {
  const auto kernel = gemmKernel<tokens, rowTiles, splits>;
  constexpr int kSharedBytes = Ring<tokens>::kSharedBytes;
  CUtensorMap values;
  cudaError_t error = mapBoxes(&values, {CU_TENSOR_MAP_DATA_TYPE_UINT8, 1, a.x.data, a.shape.numTokens,
                                         a.shape.numSteps * kGroup, tokens / rowTiles, kGroup, CU_TENSOR_MAP_SWIZZLE_128B});
  if (error != cudaSuccess) return error;
  error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (error != cudaSuccess) return error;
  const unsigned numBlocks = a.shape.n / kGroup * splits;
  return launch(kernel, {numBlocks, Tiling<tokens>::kThreads, kSharedBytes, rowTiles * splits}, a.stream, values, a.x.scales,
                reinterpret_cast<const uint8_t*>(a.weights.tiles), a.weights.scales, a.addend, a.y, a.shape);
}

template <int tokens>
cudaError_t startPlan(const GemmPlan& plan, const Arguments& arguments) {
  switch (10 * plan.rowTiles + plan.splits) {
    case 11: return start<tokens, 1, 1>(arguments);
    case 12: return start<tokens, 1, 2>(arguments);
    case 14: return start<tokens, 1, 4>(arguments);
    case 21: return start<tokens, 2, 1>(arguments);
    case 22: return start<tokens, 2, 2>(arguments);
    case 24: return start<tokens, 2, 4>(arguments);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace
}  // namespace gemm

GemmPlan planGemm(int n, int k) {
  constexpr int kUsefulBlocks = 128;  // of 132 multiprocessors, what whole clusters can have
  constexpr int kMaxSplits = 4;
  const int numTiles = n / kGroup;
  GemmPlan plan{numTiles % 2 == 0 ? 2 : 1, 1};
  while (2 * plan.splits <= kMaxSplits && 2 * plan.splits * numTiles <= kUsefulBlocks &&
         2 * plan.splits <= k / kGroup) {
    plan.splits *= 2;
  }
  return plan;
}

cudaError_t runGemm(GemmPlan plan, Activations x, Weights weights, const Bf16* addend, Bf16* y, int numTokens, int n, int k,
                    cudaStream_t stream) {
  if (numTokens < 1 || numTokens > 256 || n <= 0 || k <= 0 || n % kGroup != 0 || k % kGroup != 0) return cudaErrorInvalidValue;
  if (plan.rowTiles < 1 || plan.rowTiles > 2 || n / kGroup % plan.rowTiles != 0) return cudaErrorInvalidValue;
  if (plan.splits < 1 || plan.splits > k / kGroup) return cudaErrorInvalidValue;
  const gemm::Shape shape{numTokens, n, k / kGroup, plan.splits};
  const gemm::Arguments arguments{x, weights, addend, y, shape, stream};
  if (numTokens <= 16) return gemm::startPlan<16>(plan, arguments);
  if (numTokens <= 32) return gemm::startPlan<32>(plan, arguments);
  if (numTokens <= 64) return gemm::startPlan<64>(plan, arguments);
  if (numTokens <= 128) return gemm::startPlan<128>(plan, arguments);
  if (numTokens <= 192) return gemm::startPlan<192>(plan, arguments);
  return gemm::startPlan<256>(plan, arguments);
}

cudaError_t fp8Gemm(Activations x, Weights weights, const Bf16* addend, Bf16* y, int numTokens, int n, int k, void*,
                    cudaStream_t stream) {
  if (n < kGroup || k < kGroup) return cudaErrorInvalidValue;
  return runGemm(planGemm(n, k), x, weights, addend, y, numTokens, n, k, stream);
}

/// Parts of K meet in shared memory.
size_t gemmWorkspaceBytes(int, int, int) { return 0; }

}  // namespace rally
