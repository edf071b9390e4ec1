// The warp that streams weights through the ring. It runs ahead over all waits of the activations, so that the device memory never idles
// between segments and phases.
#pragma once

#include "expert-shared.h"

namespace rally::expert {

/// Of a segment's weights: one lane's tile of each stage, with its scale. Two lanes bring a stage.
struct WeightTile {
  const E4m3* tiles;  // [kSteps]
  const float* scales;
  int lane;  // 0 or 1
  int kSteps;
  int firstStep;
  bool wanted;      // the last 256 rows of a matrix may be 128
  bool sideBySide;  // one of the two blocks asks for both
  bool asked;       // by this block

  __device__ WeightTile(const Args& args, int p, const Segment& segment)
      : lane(threadIdx.x % 32), firstStep(segment.firstStep), sideBySide(segment.sideBySide) {
    const Weights& weights = p == 0 ? args.weights.gateUp : args.weights.down;
    const int rowTiles = p == 0 ? 2 * args.shape.interGroups() : args.shape.hiddenGroups();
    const int tile = 2 * segment.rowPair + lane;
    kSteps = args.shape.phase(p).kSteps;
    wanted = tile < rowTiles;
    asked = wanted && (!sideBySide || lane == static_cast<int>(clusterRank()));
    const size_t first = (size_t(segment.expert) * rowTiles + tile) * kSteps;
    tiles = weights.tiles + first * kTileBytes;
    scales = weights.scales + first;
  }

  __device__ void bring(Shared& shared, int stage, int k) const {
    Barrier* full = &shared.fullWeights[stage];
    const int step = (k + firstStep) % kSteps;
    const uintptr_t scale = reinterpret_cast<uintptr_t>(scales + step);  // it comes with its neighbours: copies have 16 bytes at least
    shared.scaleAt[stage][lane] = scale / 4 % 4;
    arriveExpecting(full, wanted ? kTileBytes + 16 : 0);
    uint8_t* target = shared.weights[stage] + lane * kTileBytes;
    if (asked && sideBySide)
      copyOnceToBoth(target, tiles + size_t(step) * kTileBytes, kTileBytes, full);
    else if (asked)
      copyOnce(target, tiles + size_t(step) * kTileBytes, kTileBytes, full);
    if (wanted) copy(shared.weightScales[stage][lane], reinterpret_cast<const void*>(scale / 16 * 16), 16, full);
  }
};

/// The first stages, as if all experts had the same number of tokens: before anything is known, so that the memory has work meanwhile.
/// By one warp.
__device__ inline void bringGuessedWeights(const Args& args, Shared& shared) {
  const int lane = threadIdx.x % 32, numLocal = args.shape.numLocal;
  Guess& guess = shared.guess;
  const int tilesEach = max(1, (args.shape.numPairs() + numLocal * kTileTokens - 1) / (numLocal * kTileTokens));
  for (int e = lane; e <= numLocal; e += 32) guess.tileBase[e] = e * tilesEach;
  __syncwarp();
  if (lane >= 2) return;
  const Phase phase = args.shape.phase(0);
  const Range range = rangeOf(guess.tileBase, phase, blockIdx.x / 2, gridDim.x / 2);
  const Segment segment = segmentOf(guess.tileBase, guess.tileBase, phase, range, 0, clusterRank());
  const int numStages = range.numSegments == 0 ? 0 : min(kStagesInFlight, segment.kEnd - segment.kBegin);
  const WeightTile tile(args, 0, segment);
  for (int i = 0; i < numStages; ++i) tile.bring(shared, i, segment.kBegin + i);
  if (lane > 0) return;
  guess.first = segment;
  guess.numStages = numStages;
}

/// Stages that were brought for nothing; `first`: of this block, really.
__device__ inline int numWrongStages(const Guess& guess, const Segment& first) {
  const bool right = first.expert == guess.first.expert && first.rowPair == guess.first.rowPair &&
                     first.sideBySide == guess.first.sideBySide && first.kBegin == guess.first.kBegin &&
                     first.kEnd - first.kBegin >= guess.numStages;
  return right ? 0 : guess.numStages;
}

/// One warp. At most kStagesInFlight stages are asked for and not there yet: more would only queue up in front of everybody else's
/// accesses to memory.
__device__ inline void produceWeights(const Args& args, Shared& shared) {
  asm volatile("bar.sync 4, 288;" ::: "memory");  // the tokens are in their tiles: their way does not queue behind that of the weights
  if (threadIdx.x % 32 >= 2) return;
  Turn<kWeightStages> turn, arrived;
  int numInFlight = shared.guess.numStages;
  for (int i = 0; i < numInFlight; ++i) turn.next();
  int begun = numInFlight - shared.plan.numWrongStages;  // steps of the segment that are on their way
  for (int p = 0; p < 2; ++p) {
    const Work work(args.shape, shared.plan, p);
    for (int s = 0; s < work.numSegments(); ++s) {
      const Segment segment = work.segment(s);
      const WeightTile tile(args, p, segment);
      const int maxInFlight = segment.sideBySide ? kMostShared : kStagesInFlight;  // of which the other block asks for half
      for (int k = segment.kBegin + begun; k < segment.kEnd; ++k) {
        for (; numInFlight >= maxInFlight; --numInFlight) {
          wait(&shared.fullWeights[arrived.stage], arrived.parity);
          arrived.next();
        }
        ++numInFlight;
        wait(&shared.emptyWeights[turn.stage], turn.parity ^ 1);
        tile.bring(shared, turn.stage, k);
        turn.next();
      }
      begun = 0;
    }
  }
}

}  // namespace rally::expert
