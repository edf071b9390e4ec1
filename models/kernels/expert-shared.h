// What the warps of a block share in the expert feed-forward kernel, and what each of them goes through.
#pragma once

#include "expert-args.h"
#include "expert-sync.h"

namespace rally::expert {

constexpr int kWeightStages = 5;
constexpr int kActivationStages = 3;
constexpr int kStagesInFlight = 2;
constexpr int kMostShared = 4;  // of weights that two blocks ask for together

struct Shared {
  alignas(1024) uint8_t weights[kWeightStages][2 * kTileBytes];
  alignas(1024) uint8_t activations[kActivationStages][kTileBytes];
  float scales[kActivationStages][kTileTokens];
  alignas(16) float weightScales[kWeightStages][2][4];
  int scaleAt[kWeightStages][2];  // which of four it is
  Barrier fullWeights[kWeightStages], emptyWeights[kWeightStages];
  Barrier fullActivations[kActivationStages], emptyActivations[kActivationStages];
  Barrier written, announced;  // of one segment
  uint32_t largest[2][64];  // per warpgroup and token, with up to 64 tokens
  int numCalls;  // before this one
  Progress progress;
  Guess guess;
  Plan plan;
};

/// Where a role is in a ring.
template <int numStages>
struct Turn {
  int stage = 0;
  uint32_t parity = 0;
  __device__ void next() {
    if (++stage == numStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

/// What this block does in one phase. Nothing of it is kept in registers.
struct Work {
  const Plan& plan;
  Phase phase;
  int p;
  __device__ Work(const Shape& shape, const Plan& plan, int p) : plan(plan), phase(shape.phase(p)), p(p) {}
  __device__ int rank() const { return clusterRank(); }
  __device__ int numSegments() const { return plan.ranges[p].numSegments; }
  __device__ Segment segment(int index) const {
    return segmentOf(plan.tileBase, plan.rowBase, phase, plan.ranges[p], index, rank());
  }
};

__device__ inline int tokenOfRow(const Shape& shape, const Plan& plan, int row) {
  return (plan.pairOf[row] & ~kSeveral) / shape.choices();
}

/// With what a token's row at one of its choices counts in its y; the shared expert counts as it is.
__device__ inline float weightOf(const Args& args, int token, int choice) {
  return choice == args.shape.topK ? 1.f : args.expertWeights[token * args.shape.topK + choice];
}

/// Tokens whose activations are fetched, when so many are used.
__device__ inline int fetchedTokens(int numRows) { return (numRows + 15) / 16 * 16; }

}  // namespace rally::expert
