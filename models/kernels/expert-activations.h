// The warp that brings activations into the ring: tokens that were packed into tiles for gate/up, then the tiles that gate/up has made
// for down. The two blocks of a cluster share the copies where they have the tokens in common.
#pragma once

#include "expert-shared.h"

namespace rally::expert {

/// One warp.
__device__ inline void produceActivations(const Args& args, Shared& shared) {
  const int lane = threadIdx.x % 32;
  const Progress& progress = shared.progress;
  Turn<kActivationStages> turn;
  for (int p = 0; p < 2; ++p) {
    const Work work(args.shape, shared.plan, p);
    const int kSteps = work.phase.kSteps;
    const PackedActivations& source = p == 0 ? args.workspace.input : args.workspace.middle;
    for (int s = 0; s < work.numSegments(); ++s) {
      const Segment segment = work.segment(s);
      const int tokens = fetchedTokens(segment.numRows);
      const int share = segment.sideBySide ? tokens : tokens / 2;  // what this block fetches
      const int first = segment.sideBySide ? 0 : work.rank() * share;
      if (p == 0) {
        waitAtLeast(progress.packed + segment.tile, segment.numRows * kPartsPerRow);
        fenceGlobalForAsync();
      }
      int ready = p == 0 ? segment.kEnd : segment.kBegin;  // steps before it are there
      for (int k = segment.kBegin; k < segment.kEnd; ++k) {
        while (ready <= k) {
          const int step = (k + lane + segment.firstStep) % kSteps;
          const bool there = loadAcquire(progress.activated + size_t(segment.tile) * kSteps + step) > 0;
          const unsigned missing = ~__ballot_sync(~0u, there);
          ready = k + (missing == 0 ? 32 : __ffs(missing) - 1);
          fenceGlobalForAsync();
        }
        if (lane == 0) {
          Barrier* full = &shared.fullActivations[turn.stage];
          const size_t tile = size_t(segment.tile) * kSteps + (k + segment.firstStep) % kSteps;
          const E4m3* data = source.data + tile * kTileBytes + first * kGroup;
          const float* scales = source.scales + tile * kTileTokens + first;
          uint8_t* dataTarget = shared.activations[turn.stage] + first * kGroup;
          float* scalesTarget = shared.scales[turn.stage] + first;
          wait(&shared.emptyActivations[turn.stage], turn.parity ^ 1);
          arriveExpecting(full, tokens * (kGroup + 4));
          if (segment.sideBySide) {
            copy(dataTarget, data, share * kGroup, full);
            copy(scalesTarget, scales, share * 4, full);
          } else {
            copyToBoth(dataTarget, data, share * kGroup, full);
            copyToBoth(scalesTarget, scales, share * 4, full);
          }
        }
        __syncwarp();
        turn.next();
      }
    }
  }
}

}  // namespace rally::expert
