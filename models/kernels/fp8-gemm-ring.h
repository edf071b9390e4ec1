// The ring of stages that one thread of a GEMM's block keeps full, and which part of the product a block does.
#pragma once

#include <cstdint>

#include "cluster.h"
#include "copy.h"
#include "kernels.h"
#include "tensor-map.h"

namespace rally::gemm {

constexpr int kTileBytes = kGroup * kGroup;
constexpr int kSharedLimit = 227 * 1024;
constexpr int kMaxStages = 12;
/// Floats between two tokens' sums in shared memory: 8 beyond a multiple of 32, so that 8 tokens' pairs of columns lie in
/// different banks.
constexpr int kSumStride = kGroup + 8;

/// Shared memory of a block for up to `tokens` tokens; sums of the row tile take the place of the ring at the end.
template <int tokens>
struct Ring {
  static constexpr int kStageBytes = kTileBytes + tokens * kGroup;
  /// Copies start and end at multiples of 16 bytes: up to three floats of the group before come along.
  static constexpr int kScaleFloats = tokens + 4;
  static constexpr int kBytesPerStage = kStageBytes + kScaleFloats * int{sizeof(float)} + 2 * int{sizeof(Barrier)};
  static constexpr int kFitting = (kSharedLimit - 1024) / kBytesPerStage;
  static constexpr int kStages = kFitting < kMaxStages ? kFitting : kMaxStages;
  static constexpr int kSharedBytes = 1024 + kStages * kBytesPerStage;  // 1,024 to align the stages
  static_assert(tokens * kSumStride * int{sizeof(float)} <= kStages * kStageBytes);

  uint8_t* stages;  // kStages x (weights, activations), 1,024-aligned
  float* scales;    // [kStages, kScaleFloats]
  Barrier* full;    // [kStages]
  Barrier* empty;   // [kStages]

  __device__ explicit Ring(uint8_t* shared) {
    stages = shared + (1024 - sharedAddress(shared) % 1024) % 1024;
    scales = reinterpret_cast<float*>(stages + kStages * kStageBytes);
    full = reinterpret_cast<Barrier*>(scales + kStages * kScaleFloats);
    empty = full + kStages;
  }
  __device__ uint8_t* weights(int slot) const { return stages + slot * kStageBytes; }
  __device__ uint8_t* activations(int slot) const { return weights(slot) + kTileBytes; }
  /// The tokens' scales of a group of K.
  __device__ const float* scalesOf(int slot, int group, int numTokens) const {
    return scales + slot * kScaleFloats + group * numTokens % 4;
  }
};

struct Shape {
  int numTokens;
  int n;
  int numSteps;  // k / 128
  int splits;
};

/// What of the product a block does.
struct Part {
  int rowTile;
  int split;
  int firstStep;
  int numSteps;
};

template <int rowTiles>
__device__ Part partOf(const Shape& shape) {
  const int rank = static_cast<int>(clusterRank());
  const int cluster = blockIdx.x / (rowTiles * shape.splits);
  const int split = rank / rowTiles;
  const int first = split * shape.numSteps / shape.splits;
  const int end = (split + 1) * shape.numSteps / shape.splits;
  return {cluster * rowTiles + rank % rowTiles, split, first, end - first};
}

/// By one thread.
template <int tokens, int rowTiles>
class Producer {
 public:
  using Stages = Ring<tokens>;
  __device__ Producer(const Stages& ring, const Part& part, const Shape& shape, const uint8_t* tiles)
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

  __device__ void awaitSpace(int step) {
    wait(ring.empty + step % Stages::kStages, (step / Stages::kStages - 1) % 2);
  }

 private:
  /// Of a group's scales, from the multiple of 16 bytes before to that after them.
  __device__ uint32_t scaleBytes(int group) const { return (group * numTokens % 4 + numTokens + 3) / 4 * 16; }

  const Stages& ring;
  const Part& part;
  const int numTokens;
  const uint8_t* source;
};

}  // namespace rally::gemm
