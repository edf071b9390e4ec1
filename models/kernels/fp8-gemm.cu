// y = x Wᵀ for few tokens, bound by reading W once. Rows of weights are wgmma's M, tokens its N. One thread of a block keeps a
// deep ring of stages full (a 16 KB tile of weights, the tokens' 128 values of the same step and their scales); two warpgroups
// multiply 64 rows each and add every step, scaled, to f32 registers. Parts of K are summed in order through the shared memory of
// their cluster, so that the same weights and token give the same bits whatever else is in the batch.
#include "fp8-gemm.h"

#include <algorithm>

#include "cluster.h"
#include "copy.h"
#include "launch.h"
#include "tensor-map.h"
#include "vectors.h"
#include "wgmma.h"

namespace rally {
namespace {

constexpr int kTileBytes = kGroup * kGroup;
constexpr int kWarpgroup = 128;
constexpr int kConsumers = 2 * kWarpgroup;
constexpr int kConsumerWarps = kConsumers / 32;
constexpr int kSharedLimit = 227 * 1024;
constexpr int kMaxStages = 12;
/// Floats between two tokens' sums in shared memory; four over a row tile keep both sides free of bank conflicts.
constexpr int kSumStride = kGroup + 4;

/// Shared memory of a block for up to `tokens` tokens; sums of the row tile take the place of the ring at the end.
template <int tokens>
struct Ring {
  static constexpr int kActivationBytes = tokens * kGroup;
  static constexpr int kStageBytes = kTileBytes + kActivationBytes;
  /// Copies start and end at multiples of 16 bytes: up to three floats of the group before come along.
  static constexpr int kScaleFloats = tokens + 4;
  static constexpr int kScaleBytes = kScaleFloats * static_cast<int>(sizeof(float));
  static constexpr int kBytesPerStage = kStageBytes + kScaleBytes + 2 * static_cast<int>(sizeof(Barrier));
  static constexpr int kStages = std::min(kMaxStages, (kSharedLimit - 1024) / kBytesPerStage);
  static constexpr int kSharedBytes = 1024 + kStages * kBytesPerStage;  // 1,024 to align the stages
  static_assert(tokens * kSumStride * static_cast<int>(sizeof(float)) <= kStages * kStageBytes);

  uint8_t* stages;   // kStages x (weights, activations), 1,024-aligned
  float* scales;     // [kStages, kScaleFloats]
  Barrier* full;     // [kStages]
  Barrier* empty;    // [kStages]

  __device__ explicit Ring(uint8_t* shared) {
    stages = shared + (1024 - sharedAddress(shared) % 1024) % 1024;
    scales = reinterpret_cast<float*>(stages + kStages * kStageBytes);
    full = reinterpret_cast<Barrier*>(scales + kStages * kScaleFloats);
    empty = full + kStages;
  }
  __device__ uint8_t* weights(int slot) const { return stages + slot * kStageBytes; }
  __device__ uint8_t* activations(int slot) const { return weights(slot) + kTileBytes; }
};

/// Up to this many tokens, a block leaves registers for one of a small kernel beside it; beyond, a whole third warpgroup gives its
/// registers to the two that multiply.
constexpr int kTokensWithoutTrade = 192;
template <int tokens>
constexpr int kThreads = tokens <= kTokensWithoutTrade ? kConsumers + 32 : kConsumers + kWarpgroup;

struct GemmShape {
  int numTokens;
  int n;
  int numSteps;  // k / 128
  int splits;
};

/// What of the product this block does.
struct Part {
  int rowTile;
  int split;
  int firstStep;
  int numSteps;
};

template <int rowTiles>
__device__ Part partOf(const GemmShape& shape) {
  const int rank = static_cast<int>(clusterRank());
  const int cluster = blockIdx.x / (rowTiles * shape.splits);
  const int split = rank / rowTiles;
  const int first = split * shape.numSteps / shape.splits;
  const int end = (split + 1) * shape.numSteps / shape.splits;
  return {cluster * rowTiles + rank % rowTiles, split, first, end - first};
}

template <int tokens, int rowTiles>
class Producer {
 public:
  using Stages = Ring<tokens>;
  __device__ Producer(const Stages& ring, const Part& part, const GemmShape& shape, const uint8_t* tiles)
      : ring(ring), part(part), numTokens(shape.numTokens) {
    source = tiles + (static_cast<int64_t>(part.rowTile) * shape.numSteps + part.firstStep) * kTileBytes;
  }

  __device__ void bringWeights(int step) {
    const int slot = step % Stages::kStages;
    arriveExpecting(ring.full + slot, Stages::kStageBytes + scaleBytes(part.firstStep + step));
    copyOnce(ring.weights(slot), source + static_cast<int64_t>(step) * kTileBytes, kTileBytes, ring.full + slot);
  }

  /// Blocks of neighbouring row tiles bring a half each, for both.
  __device__ void bringActivations(int step, const CUtensorMap* values, const float* scales) {
    const int slot = step % Stages::kStages;
    const int group = part.firstStep + step;
    copy(ring.scales + slot * Stages::kScaleFloats, scales + group * numTokens / 4 * 4, scaleBytes(group), ring.full + slot);
    if constexpr (rowTiles == 1) {
      copyBox(ring.activations(slot), values, group * kGroup, 0, ring.full + slot);
    } else {
      constexpr int kHalf = tokens / 2;
      const int rank = static_cast<int>(clusterRank());
      const int half = rank % 2;
      copyBoxToMany(ring.activations(slot) + half * kHalf * kGroup, values, group * kGroup, half * kHalf, ring.full + slot,
                    static_cast<uint16_t>(3 << (rank - half)));
    }
  }

  /// Of a group's scales, from the multiple of 16 bytes before to that after them.
  __device__ uint32_t scaleBytes(int group) const { return (group * numTokens % 4 + numTokens + 3) / 4 * 16; }

  __device__ void awaitSpace(int step) {
    wait(ring.empty + step % Stages::kStages, (step / Stages::kStages - 1) % 2);
  }

 private:
  const Stages& ring;
  const Part& part;
  const int numTokens;
  const uint8_t* source;
};

/// sums += this step's product of 64 rows of weights and all tokens, times both scales. sums as wgmma holds D, chunk by chunk.
template <int tokens>
__device__ void multiplyStep(float (&sums)[tokens / 2], const uint8_t* weights, const uint8_t* activations,
                             const float* scales, float weightScale) {
  constexpr int kChunk = tokens <= 128 ? tokens : tokens / 2;  // tokens per instruction
  const uint64_t a = swizzledOperand(weights);
  const int firstColumn = 2 * (threadIdx.x % 4);
#pragma unroll
  for (int chunk = 0; chunk < tokens / kChunk; ++chunk) {
    const uint64_t b = swizzledOperand(activations + chunk * kChunk * kGroup);
    float product[kChunk / 2];
    wgmmaBegin();
#pragma unroll
    for (int byte = 0; byte < kGroup; byte += 32) {
      WgmmaE4m3<kChunk>::fromShared(product, a + byte / 16, b + byte / 16, byte > 0);
    }
    wgmmaCommit();
    wgmmaWait<0>();
#pragma unroll
    for (int j = 0; j < kChunk / 8; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float& sum = sums[chunk * kChunk / 2 + 4 * j + i];
        sum = fmaf(product[4 * j + i], weightScale * scales[chunk * kChunk + 8 * j + firstColumn + i % 2], sum);
      }
    }
  }
}

/// Sums of this thread's rows to shared memory as [tokens, kSumStride].
template <int tokens>
__device__ void storeSums(const float (&sums)[tokens / 2], float* shared, int numTokens) {
  const int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4;
#pragma unroll
  for (int i = 0; i < tokens / 2; ++i) {
    const int token = i / 4 * 8 + 2 * (threadIdx.x % 4) + i % 2;
    if (token < numTokens) shared[token * kSumStride + row + i / 2 % 2 * 8] = sums[i];
  }
}

__device__ float4 operator+(float4 a, float4 b) { return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w}; }

/// Adds up the parts of K for every splits-th token of this block's row tile and writes y; a warp does a token.
template <int rowTiles>
__device__ void finish(const float* shared, const Part& part, const GemmShape& shape, const Bf16* addend, Bf16* y) {
  const uint32_t neighbour = clusterRank() % rowTiles;
  const int lane = threadIdx.x % 32;
#pragma unroll 4
  for (int token = part.split + shape.splits * (threadIdx.x / 32); token < shape.numTokens;
       token += shape.splits * kConsumerWarps) {
    const uint32_t mine = sharedAddress(shared + token * kSumStride + 4 * lane);
    float4 sum = loadFrom(addressAt(mine, neighbour));
    for (int split = 1; split < shape.splits; ++split) sum = sum + loadFrom(addressAt(mine, split * rowTiles + neighbour));
    const int64_t at = static_cast<int64_t>(token) * shape.n + part.rowTile * kGroup + 4 * lane;
    if (addend != nullptr) sum = sum + widen(*reinterpret_cast<const Bf16x4*>(addend + at));
    *reinterpret_cast<Bf16x4*>(y + at) = narrow(sum);
  }
}

__device__ void meetConsumers() { asm volatile("bar.sync 1, %0;" ::"n"(kConsumers) : "memory"); }

template <int tokens, int rowTiles>
__global__ void __launch_bounds__(kThreads<tokens>, 1)
    gemmKernel(const __grid_constant__ CUtensorMap values, const float* activationScales,
               const uint8_t* tiles, const float* weightScales, const Bf16* addend, Bf16* y, const GemmShape shape) {
  extern __shared__ uint8_t shared[];
  const Ring<tokens> ring(shared);
  constexpr int kStages = Ring<tokens>::kStages;
  const Part part = partOf<rowTiles>(shape);
  Producer<tokens, rowTiles> producer(ring, part, shape, tiles);
  const bool produces = threadIdx.x == kConsumers;
  const int numFirst = min(part.numSteps, kStages);

  letNextStart();
  if (produces) {
    for (int slot = 0; slot < kStages; ++slot) {
      initialise(ring.full + slot, 1);
      initialise(ring.empty + slot, rowTiles * kConsumerWarps);
    }
    fenceBarriers();
    for (int step = 0; step < numFirst; ++step) producer.bringWeights(step);
  }
  meetCluster();
  waitForPrevious();

  if (threadIdx.x >= kConsumers) {
    if constexpr (tokens > kTokensWithoutTrade) shrinkRegisters<40>();
    if (produces) {
      for (int step = 0; step < numFirst; ++step) producer.bringActivations(step, &values, activationScales);
      for (int step = numFirst; step < part.numSteps; ++step) {
        producer.awaitSpace(step);
        producer.bringWeights(step);
        producer.bringActivations(step, &values, activationScales);
      }
    }
    __syncwarp();
    if (shape.splits > 1) syncCluster();
    meetCluster();
  } else {
    if constexpr (tokens > kTokensWithoutTrade) growRegisters<232>();
    float sums[tokens / 2] = {};
    const int firstRow = threadIdx.x / kWarpgroup * 64;
    const float* weightScale = weightScales + static_cast<int64_t>(part.rowTile) * shape.numSteps + part.firstStep;
    float next = *weightScale;
    for (int step = 0; step < part.numSteps; ++step) {
      const int slot = step % kStages;
      const float current = next;
      if (step + 1 < part.numSteps) next = weightScale[step + 1];
      const float* const scales = ring.scales + slot * Ring<tokens>::kScaleFloats + (part.firstStep + step) * shape.numTokens % 4;
      wait(ring.full + slot, step / kStages % 2);
      multiplyStep<tokens>(sums, ring.weights(slot) + firstRow * kGroup, ring.activations(slot), scales,
                           current);
      __syncwarp();
      const uint32_t lane = threadIdx.x % 32;
      if constexpr (rowTiles == 1) {
        if (lane == 0) arrive(ring.empty + slot);
      } else {
        if (lane < rowTiles) arriveAt(ring.empty + slot, clusterRank() / rowTiles * rowTiles + lane);
      }
    }
    meetConsumers();  // the other warpgroup may still read the ring
    float* const sumsOfTile = reinterpret_cast<float*>(ring.stages);
    storeSums<tokens>(sums, sumsOfTile, shape.numTokens);
    if (shape.splits > 1) {
      syncCluster();
    } else {
      meetConsumers();
    }
    finish<rowTiles>(sumsOfTile, part, shape, addend, y);
    meetCluster();  // neighbours read this block's shared memory and arrive on its barriers until here
  }
}

template <int tokens, int rowTiles>
cudaError_t launchGemm(const GemmPlan& plan, Activations x, Weights weights, const Bf16* addend, Bf16* y,
                       const GemmShape& shape, cudaStream_t stream) {
  const auto kernel = gemmKernel<tokens, rowTiles>;
  constexpr int kSharedBytes = Ring<tokens>::kSharedBytes;
  const int k = shape.numSteps * kGroup;
  CUtensorMap values;
  cudaError_t error = mapRows(&values, x.data, shape.numTokens, k, tokens / rowTiles);
  if (error != cudaSuccess) return error;
  error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (error != cudaSuccess) return error;
  const unsigned numBlocks = shape.n / kGroup * plan.splits;
  return launch(kernel, {numBlocks, kThreads<tokens>, kSharedBytes, static_cast<unsigned>(plan.rowTiles * plan.splits)}, stream,
                values, x.scales, reinterpret_cast<const uint8_t*>(weights.tiles), weights.scales, addend, y, shape);
}

template <int tokens>
cudaError_t launchFor(const GemmPlan& plan, Activations x, Weights weights, const Bf16* addend, Bf16* y,
                      const GemmShape& shape, cudaStream_t stream) {
  return plan.rowTiles == 2 ? launchGemm<tokens, 2>(plan, x, weights, addend, y, shape, stream)
                            : launchGemm<tokens, 1>(plan, x, weights, addend, y, shape, stream);
}

}  // namespace

GemmPlan planGemm(int n, int k) {
  constexpr int kUsefulBlocks = 128;  // of 132 multiprocessors, what whole clusters can have
  constexpr int kMaxClusterBlocks = 8;
  const int numTiles = n / kGroup;
  GemmPlan plan{numTiles % 2 == 0 ? 2 : 1, 1};
  while (2 * plan.splits * plan.rowTiles <= kMaxClusterBlocks && 2 * plan.splits * numTiles <= kUsefulBlocks &&
         2 * plan.splits <= k / kGroup) {
    plan.splits *= 2;
  }
  return plan;
}

cudaError_t runGemm(GemmPlan plan, Activations x, Weights weights, const Bf16* addend, Bf16* y, int numTokens, int n, int k,
                    cudaStream_t stream) {
  if (numTokens < 1 || numTokens > 256 || n <= 0 || k <= 0 || n % kGroup != 0 || k % kGroup != 0) return cudaErrorInvalidValue;
  if (plan.rowTiles < 1 || plan.rowTiles > 2 || n / kGroup % plan.rowTiles != 0) return cudaErrorInvalidValue;
  if (plan.splits < 1 || plan.splits * plan.rowTiles > 8 || plan.splits > k / kGroup) return cudaErrorInvalidValue;
  const GemmShape shape{numTokens, n, k / kGroup, plan.splits};
  if (numTokens <= 16) return launchFor<16>(plan, x, weights, addend, y, shape, stream);
  if (numTokens <= 32) return launchFor<32>(plan, x, weights, addend, y, shape, stream);
  if (numTokens <= 64) return launchFor<64>(plan, x, weights, addend, y, shape, stream);
  if (numTokens <= 128) return launchFor<128>(plan, x, weights, addend, y, shape, stream);
  if (numTokens <= 192) return launchFor<192>(plan, x, weights, addend, y, shape, stream);
  return launchFor<256>(plan, x, weights, addend, y, shape, stream);
}

cudaError_t fp8Gemm(Activations x, Weights weights, const Bf16* addend, Bf16* y, int numTokens, int n, int k, void*,
                    cudaStream_t stream) {
  if (n < kGroup || k < kGroup) return cudaErrorInvalidValue;
  return runGemm(planGemm(n, k), x, weights, addend, y, numTokens, n, k, stream);
}

/// Parts of K meet in shared memory.
size_t gemmWorkspaceBytes(int, int, int) { return 0; }

}  // namespace rally
