// From a token's logits to its experts: softmax over all of them, and the largest.
#pragma once

#include "vectors.h"

namespace rally {

constexpr int kMaxExperts = 256;
constexpr int kMaxTopK = 16;

struct RouterJob {
  int32_t* expertIds;  // [T, topK]
  float* expertWeights;
  int numTokens, hidden, numExperts, topK;
};

/// Larger numbers have larger keys; -0 has that of 0. No key is 0.
__device__ inline uint32_t keyOf(float value) {
  const uint32_t bits = __float_as_uint(value + 0.0f);
  return bits & 0x80000000 ? ~bits : bits | 0x80000000;
}

/// By one warp: softmax over the logits, then the topK largest of them. A lane has the experts lane + 32 i, i < perLane.
template <int perLane, typename LogitOf>
__device__ void choose(const RouterJob& job, int token, LogitOf logitOf) {
  constexpr float kNone = -INFINITY;
  const int lane = threadIdx.x % 32;
  float mine[perLane];
  float largest = kNone;
#pragma unroll
  for (int i = 0; i < perLane; ++i) {
    const int expert = lane + 32 * i;
    mine[i] = expert < job.numExperts ? logitOf(expert) : kNone;
    largest = fmaxf(largest, mine[i]);
  }
  largest = largestOfLanes(largest);
  float sum = 0;
#pragma unroll
  for (int i = 0; i < perLane; ++i) sum += expf(mine[i] - largest);
  sum = sumOfLanes(sum);
  // Even of logits that are not numbers, the chosen ids are different experts; their weights are not numbers then. What is taken or
  // does not exist has key 0.
  uint32_t keys[perLane];
#pragma unroll
  for (int i = 0; i < perLane; ++i) {
    keys[i] = lane + 32 * i < job.numExperts ? keyOf(isnan(mine[i]) ? kNone : mine[i]) : 0;
  }
  int chosen = 0;  // of rank `lane`
  float logit = 0;
  for (int rank = 0; rank < job.topK; ++rank) {
    uint32_t best = 0;
    int id = kMaxExperts;
    float value = 0;
#pragma unroll
    for (int i = 0; i < perLane; ++i) {
      if (keys[i] > best) best = keys[i], id = lane + 32 * i, value = mine[i];
    }
    const uint32_t bestOfAll = __reduce_max_sync(~0u, best);
    const int winner = __reduce_min_sync(~0u, best == bestOfAll ? id : kMaxExperts);  // of equals the lower id
#pragma unroll
    for (int i = 0; i < perLane; ++i) {
      if (lane + 32 * i == winner) keys[i] = 0;
    }
    value = __shfl_sync(~0u, value, winner % 32);
    if (lane == rank) chosen = winner, logit = isnan(value) ? kNone : value;
  }
  if (lane < job.topK) {
    const int64_t at = static_cast<int64_t>(token) * job.topK + lane;
    job.expertIds[at] = chosen;
    job.expertWeights[at] = expf(logit - largest) / sum;
  }
}

}  // namespace rally
