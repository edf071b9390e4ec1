// Joins the shares of a sequence that several blocks have parts of, without waiting: whoever of a group of four comes last takes the
// others' parts from the workspace and goes on to the next group of four in the group's name. Every warp does this on its own for
// its 16 heads by 128 dimensions. Parts are added in the order of the blocks, so that results do not depend on who came last.
#pragma once

#include "mfa-output.h"
#include "mfa-plan.h"

namespace rally::mfa {

constexpr int kJoinSize = 4;
constexpr int kJoinLevels = 4;  // 4^4 blocks
constexpr int kJoinWarps = 8;

/// One block's share of a sequence, unnormalised.
struct Part {
  float4 output[kJoinWarps][16][32];  // [warp, 4 consecutive accumulators, lane]
  float2 stats[kJoinWarps][16];       // maximum and sum, [warp, head]
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

__device__ inline void storePart(const Half& half, Part& part, int warp) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    __stcg(&part.output[warp][i][lane],
           float4{half.output[4 * i], half.output[4 * i + 1], half.output[4 * i + 2], half.output[4 * i + 3]});
  }
  if (lane % 4 == 0) {
    __stcg(&part.stats[warp][lane / 4], float2{half.maximum[0], half.sum[0]});
    __stcg(&part.stats[warp][lane / 4 + 8], float2{half.maximum[1], half.sum[1]});
  }
}

/// half = the sum of the parts of members first, first + step, … below end, of which `own` is in registers.
template <typename PartOf>
__device__ void addParts(Half& half, int own, int first, int step, int end, int warp, PartOf partOf) {
  const int lane = threadIdx.x % 32;
  float2 stats[kJoinSize][2];
  float maximum[2] = {-INFINITY, -INFINITY};
#pragma unroll
  for (int i = 0; i < kJoinSize; ++i) {
    const int member = first + i * step;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      stats[i][h] = {-INFINITY, 0};
      if (member == own) {
        stats[i][h] = {half.maximum[h], half.sum[h]};
      } else if (member < end) {
        stats[i][h] = __ldcg(&partOf(member).stats[warp][lane / 4 + 8 * h]);
      }
      maximum[h] = fmaxf(maximum[h], stats[i][h].x);
    }
  }
  Half joined = {{maximum[0], maximum[1]}, {}, {}};
#pragma unroll
  for (int i = 0; i < kJoinSize; ++i) {
    const int member = first + i * step;
    if (member >= end) break;
    const float weights[2] = {exp2Fast(stats[i][0].x - maximum[0]), exp2Fast(stats[i][1].x - maximum[1])};
    joined.sum[0] = fmaf(stats[i][0].y, weights[0], joined.sum[0]);
    joined.sum[1] = fmaf(stats[i][1].y, weights[1], joined.sum[1]);
#pragma unroll
    for (int j = 0; j < 16; ++j) {
      float4 x = {half.output[4 * j], half.output[4 * j + 1], half.output[4 * j + 2], half.output[4 * j + 3]};
      if (member != own) x = __ldcg(&partOf(member).output[warp][j][lane]);
      joined.output[4 * j] = fmaf(x.x, weights[0], joined.output[4 * j]);
      joined.output[4 * j + 1] = fmaf(x.y, weights[0], joined.output[4 * j + 1]);
      joined.output[4 * j + 2] = fmaf(x.z, weights[1], joined.output[4 * j + 2]);
      joined.output[4 * j + 3] = fmaf(x.w, weights[1], joined.output[4 * j + 3]);
    }
  }
  half = joined;
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
      const bool isLast = __shfl_sync(~0u, loadAcquire(counter), 0) == size - 1;  // saves storing
      if (!isLast) {
        storePart(half, workspace.parts[indexOf(own)], warp);
        if (arriveAt(counter) != size - 1) return false;
      }
      if (lane == 0) *counter = 0;
      addParts(half, own, first, step, end, warp, [&](int member) -> const Part& { return workspace.parts[indexOf(member)]; });
    }
    own = first;
  }
  return true;
}

}  // namespace rally::mfa
