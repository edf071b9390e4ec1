// Joins the shares of a sequence that several blocks have parts of, without waiting: whoever of a group of four comes last takes
// the others' parts from the workspace and goes on to the next group of four in the group's name. Every warp does this on its own
// for its 16 heads by 128 dimensions. Parts are added in the order of the blocks: results do not depend on who came last.
#pragma once

#include "mfa-output.h"
#include "mfa-plan.h"

namespace rally::mfa {

constexpr int kJoinSize = 4;
constexpr int kJoinLevels = 4;  // 4^4 blocks
constexpr int kJoinWarps = 8;

/// One block's share of a sequence, unnormalised, in half precision.
struct Part {
  uint2 output[kJoinWarps][16][32];  // [warp, 4 consecutive accumulators, lane], over the row's largest
  float4 stats[kJoinWarps][16];      // maximum, sum, the row's largest, [warp, head]
};

/// A thread's share of a part.
struct Share {
  uint2 output[16];
  float4 stats[2];
};

/// Arrivals, zero between launches.
using Counters = uint32_t[kJoinWarps];

struct Workspace {
  Counters* counters;  // [kJoinLevels, numParts]
  Part* parts;         // [numParts]
  int numParts;
};

__device__ inline uint32_t loadAcquire(const uint32_t* from) {
  uint32_t value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(from) : "memory");
  return value;
}

/// Makes what the warp wrote before visible to whoever arrives later, and the other way round.
__device__ inline uint32_t arriveAt(uint32_t* counter) {
  uint32_t numBefore = 0;
  __syncwarp();
  if (threadIdx.x % 32 == 0) {
    asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], 1;" : "=r"(numBefore) : "l"(counter) : "memory");
  }
  return __shfl_sync(~0u, numBefore, 0);
}

__device__ inline Share shareOf(const Half& half) {
  Share share;
  float factors[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const float largest = largestOfRow(half.output, h);
    factors[h] = e4m3Factor(largest) / kMaxE4m3;
    share.stats[h] = {half.maximum[h], half.sum[h], largest, 0};
  }
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const float* four = half.output + 4 * i;
    share.output[i] = {packHalf(four[0] * factors[0], four[1] * factors[0]), packHalf(four[2] * factors[1], four[3] * factors[1])};
  }
  return share;
}

__device__ inline void storeShare(const Share& share, Part& part, int warp) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < 16; ++i) __stcg(&part.output[warp][i][lane], share.output[i]);
  if (lane % 4 == 0) {
    __stcg(&part.stats[warp][lane / 4], share.stats[0]);
    __stcg(&part.stats[warp][lane / 4 + 8], share.stats[1]);
  }
}

/// The sum of the parts of members first, first + step, … below end. The one in registers, `own`, is as narrow as the others, so
/// that the sum does not depend on whose it is.
template <typename PartOf>
__device__ Half addParts(const Share& ownShare, int own, int first, int step, int end, int warp, PartOf partOf) {
  const int lane = threadIdx.x % 32;
  float4 stats[kJoinSize][2];
  Half joined = {{-INFINITY, -INFINITY}, {}, {}};
#pragma unroll
  for (int i = 0; i < kJoinSize; ++i) {
    const int member = first + i * step;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      stats[i][h] = {-INFINITY, 0, 0, 0};
      if (member == own) {
        stats[i][h] = ownShare.stats[h];
      } else if (member < end) {
        stats[i][h] = __ldcg(&partOf(member).stats[warp][lane / 4 + 8 * h]);
      }
      joined.maximum[h] = fmaxf(joined.maximum[h], stats[i][h].x);
    }
  }
#pragma unroll
  for (int i = 0; i < kJoinSize; ++i) {
    const int member = first + i * step;
    if (member >= end) break;
    float weights[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      weights[h] = exp2Fast(stats[i][h].x - joined.maximum[h]);
      joined.sum[h] = fmaf(stats[i][h].y, weights[h], joined.sum[h]);
      weights[h] *= stats[i][h].z;
    }
#pragma unroll
    for (int j = 0; j < 16; ++j) {
      uint2 packed = ownShare.output[j];
      if (member != own) packed = __ldcg(&partOf(member).output[warp][j][lane]);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float2 two = unpackHalf(h == 0 ? packed.x : packed.y);
        joined.output[4 * j + 2 * h] = fmaf(two.x, weights[h], joined.output[4 * j + 2 * h]);
        joined.output[4 * j + 2 * h + 1] = fmaf(two.y, weights[h], joined.output[4 * j + 2 * h + 1]);
      }
    }
  }
  return joined;
}

/// Whether this warp came last of all: then `half` is complete.
__device__ inline bool join(Half& half, Workspace workspace, Sharing sharing) {
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  auto indexOf = [&](int member) { return 2 * (sharing.firstBlock + member) + (member == 0); };
  int own = blockIdx.x - sharing.firstBlock;
  for (int level = 0, step = 1; step < sharing.numBlocks; ++level, step *= kJoinSize) {
    const int first = own - own % (step * kJoinSize);
    const int end = min(first + step * kJoinSize, sharing.numBlocks);
    const int size = (end - first + step - 1) / step;
    if (size > 1) {
      uint32_t* counter = &workspace.counters[level * workspace.numParts + indexOf(first)][warp];
      const Share share = shareOf(half);
      const bool isLast = __shfl_sync(~0u, loadAcquire(counter), 0) == size - 1;  // saves storing
      if (!isLast) {
        storeShare(share, workspace.parts[indexOf(own)], warp);
        if (arriveAt(counter) != size - 1) return false;
      }
      __syncwarp();  // what the first lane has seen arrive, all lanes see
      if (lane == 0) *counter = 0;
      half = addParts(share, own, first, step, end, warp,
                      [&](int member) -> const Part& { return workspace.parts[indexOf(member)]; });
    }
    own = first;
  }
  return true;
}

}  // namespace rally::mfa
