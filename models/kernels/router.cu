// Router: logits, softmax and the largest experts of each token, in f32. A cluster does 8 tokens: each of its 8 blocks multiplies
// all experts over an eighth of the hidden values, then finishes one token. Sums are taken in one order whatever the batch.
#include "cluster.h"
#include "launch.h"
#include "vectors.h"

namespace rally {
namespace {

constexpr int kTokens = 8;  // and blocks, of a cluster
constexpr int kWarps = 8;
constexpr int kExpertsAtOnce = 6;  // of a warp: 8 warps x 6 = Step-3's 48
constexpr int kMaxExperts = 256;
constexpr int kMaxTopK = 16;
constexpr int kRun = 4;  // hidden values that a lane takes together

struct RouterJob {
  const Bf16* x;        // [T, hidden]
  const float* router;  // [numExperts, hidden]
  int32_t* expertIds;   // [T, topK]
  float* expertWeights;
  int numTokens, hidden, numExperts, topK;
};

__device__ float dot(float4 a, float4 b, float sum) {
  return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
}

/// partial [kTokens, kMaxExperts] = this block's part of the logits.
__device__ void multiplyPart(const RouterJob& job, int firstToken, int firstRun, int endRun, float* partial) {
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int numRuns = job.hidden / kRun;
  const float4* const router = reinterpret_cast<const float4*>(job.router);
  const Bf16x4* const x = reinterpret_cast<const Bf16x4*>(job.x);
  const int lastToken = job.numTokens - 1;
  for (int first = warp * kExpertsAtOnce; first < job.numExperts; first += kWarps * kExpertsAtOnce) {
    float sums[kExpertsAtOnce][kTokens] = {};
    for (int run = firstRun + lane; run < endRun; run += 32) {
      float4 weights[kExpertsAtOnce];
#pragma unroll
      for (int e = 0; e < kExpertsAtOnce; ++e) {
        weights[e] = router[static_cast<int64_t>(min(first + e, job.numExperts - 1)) * numRuns + run];
      }
#pragma unroll
      for (int t = 0; t < kTokens; ++t) {
        const float4 values = widen(x[static_cast<int64_t>(min(firstToken + t, lastToken)) * numRuns + run]);
#pragma unroll
        for (int e = 0; e < kExpertsAtOnce; ++e) sums[e][t] = dot(weights[e], values, sums[e][t]);
      }
    }
#pragma unroll
    for (int e = 0; e < kExpertsAtOnce; ++e) {
#pragma unroll
      for (int t = 0; t < kTokens; ++t) {
        const float sum = sumOfLanes(sums[e][t]);
        if (lane == 0 && first + e < job.numExperts) partial[t * kMaxExperts + first + e] = sum;
      }
    }
  }
}

/// By one warp: softmax over logits [numExperts], then the topK largest of them.
__device__ void choose(const RouterJob& job, const float* logits, int token) {
  constexpr int kPerLane = kMaxExperts / 32;
  constexpr float kNone = -INFINITY;
  const int lane = threadIdx.x % 32;
  float mine[kPerLane];
  float largest = kNone;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int expert = lane + 32 * i;
    mine[i] = expert < job.numExperts ? logits[expert] : kNone;
    largest = fmaxf(largest, mine[i]);
  }
  largest = largestOfLanes(largest);
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) sum += expf(mine[i] - largest);
  sum = sumOfLanes(sum);
  // Even of logits that are not numbers, the chosen ids are different experts; their weights are not numbers then.
  uint32_t taken = 0;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    if (isnan(mine[i])) mine[i] = kNone;
    if (lane + 32 * i >= job.numExperts) taken |= 1u << i;
  }
  for (int rank = 0; rank < job.topK; ++rank) {
    float best = kNone;
    int bestId = kMaxExperts;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      if (!(taken >> i & 1) && (mine[i] > best || bestId == kMaxExperts)) best = mine[i], bestId = lane + 32 * i;
    }
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
      const float other = __shfl_xor_sync(~0u, best, distance);
      const int otherId = __shfl_xor_sync(~0u, bestId, distance);
      if (other > best || (other == best && otherId < bestId)) best = other, bestId = otherId;
    }
    if (bestId % 32 == lane) taken |= 1u << (bestId / 32);
    if (lane == 0) {
      job.expertIds[static_cast<int64_t>(token) * job.topK + rank] = bestId;
      job.expertWeights[static_cast<int64_t>(token) * job.topK + rank] = expf(best - largest) / sum;
    }
  }
}

/// The router is read from device memory once; before the previous kernel ends, its part can come to L2.
__device__ void prefetchPart(const RouterJob& job, int firstRun, int endRun) {
  constexpr int kLine = 128 / sizeof(float);
  const int first = firstRun * kRun / kLine * kLine;
  const int numLines = (endRun * kRun - first + kLine - 1) / kLine;
  for (int i = threadIdx.x; i < numLines * job.numExperts; i += blockDim.x) {
    const float* const line = job.router + static_cast<int64_t>(i / numLines) * job.hidden + first + i % numLines * kLine;
    asm volatile("prefetch.global.L2 [%0];" ::"l"(line));
  }
}

__global__ void __launch_bounds__(kWarps * 32) routeKernel(const RouterJob job) {
  __shared__ __align__(16) float partial[kTokens * kMaxExperts];
  __shared__ float logits[kMaxExperts];
  letNextStart();
  const int rank = static_cast<int>(clusterRank());
  const int firstToken = blockIdx.x / kTokens * kTokens;
  const int numRuns = job.hidden / kRun;
  const int firstRun = rank * numRuns / kTokens;
  const int endRun = (rank + 1) * numRuns / kTokens;
  if (firstToken == 0) prefetchPart(job, firstRun, endRun);
  waitForPrevious();
  multiplyPart(job, firstToken, firstRun, endRun, partial);
  syncCluster();
  for (int expert = threadIdx.x; expert < job.numExperts; expert += blockDim.x) {
    const uint32_t mine = sharedAddress(partial + rank * kMaxExperts + expert);
    float sum = 0;
#pragma unroll
    for (int part = 0; part < kTokens; ++part) sum += loadFloatFrom(addressAt(mine, part));
    logits[expert] = sum;
  }
  syncCluster();  // the neighbours have read this block's part
  if (threadIdx.x < 32 && firstToken + rank < job.numTokens) choose(job, logits, firstToken + rank);
}

}  // namespace

cudaError_t routeTopK(const Bf16* x, const float* router, int32_t* expertIds, float* expertWeights, int numTokens, int hidden,
                      int numExperts, int topK, cudaStream_t stream) {
  if (numTokens < 1 || hidden < kRun || hidden % kRun != 0 || numExperts < 1 || numExperts > kMaxExperts || topK < 1 ||
      topK > kMaxTopK || topK > numExperts) {
    return cudaErrorInvalidValue;
  }
  const unsigned numBlocks = (numTokens + kTokens - 1) / kTokens * kTokens;
  return launch(routeKernel, {numBlocks, kWarps * 32, 0, kTokens}, stream,
                RouterJob{x, router, expertIds, expertWeights, numTokens, hidden, numExperts, topK});
}

}  // namespace rally
