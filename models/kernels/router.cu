// Router: logits, softmax and the largest experts of each token, in f32. A cluster does 8 tokens: each of its 8 blocks multiplies
// all experts over an eighth of the hidden values, then finishes one token. The weights of that eighth are brought to shared
// memory before the previous kernel ends. Sums are taken in one order whatever the batch.
#include "cluster.h"
#include "copy.h"
#include "launch.h"
#include "tensor-map.h"
#include "vectors.h"

namespace rally {
namespace {

constexpr int kTokens = 8;  // and blocks, of a cluster
constexpr int kWarps = 8;
constexpr int kExpertsPerWarp = 6;
constexpr int kExpertsAtOnce = kWarps * kExpertsPerWarp;  // Step-3's 48
constexpr int kMaxExperts = 256;
constexpr int kMaxTopK = 16;
constexpr int kRun = 4;          // hidden values that a lane takes together
constexpr int kChunk = 32 * kRun;  // of a warp
constexpr int kStages = 4;  // two blocks of a multiprocessor have room
constexpr int kSums = kExpertsPerWarp * kTokens;

struct RouterJob {
  int32_t* expertIds;  // [T, topK]
  float* expertWeights;
  int numTokens, hidden, numExperts, topK;
};

struct Stage {
  float router[kExpertsAtOnce][kChunk];
  Bf16 x[kTokens][kChunk];
};

struct Shared {
  Stage stages[kStages];
  float partial[kTokens][kMaxExperts];  // this block's part of the logits
  Barrier full[kStages];
};

/// This block's work is a list of steps: for every batch of experts, each of its chunks of hidden values.
struct Steps {
  int firstChunk;
  int numChunks;
  int numSteps;

  __device__ Steps(const RouterJob& job, int rank) {
    const int all = (job.hidden + kChunk - 1) / kChunk;
    firstChunk = rank * all / kTokens;
    numChunks = (rank + 1) * all / kTokens - firstChunk;
    numSteps = numChunks * ((job.numExperts + kExpertsAtOnce - 1) / kExpertsAtOnce);
  }
  __device__ int firstExpert(int step) const { return step / numChunks * kExpertsAtOnce; }
  __device__ int firstValue(int step) const { return (firstChunk + step % numChunks) * kChunk; }
};

/// By one thread, as all copies. Experts, tokens and hidden values that do not exist are zeros.
__device__ void bringRouter(Shared& shared, const CUtensorMap* router, const Steps& steps, int step) {
  Barrier* const full = shared.full + step % kStages;
  arriveExpecting(full, sizeof(Stage));
  copyBox(shared.stages[step % kStages].router, router, steps.firstValue(step), steps.firstExpert(step), full);
}
__device__ void bringTokens(Shared& shared, const CUtensorMap* x, const Steps& steps, int step, int firstToken) {
  copyBox(shared.stages[step % kStages].x, x, steps.firstValue(step), firstToken, shared.full + step % kStages);
}

__device__ float dot(float4 a, float4 b, float sum) {
  return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
}

/// sums [kExpertsPerWarp, kTokens] += this lane's share of a stage.
__device__ void multiplyStage(float (&sums)[kSums], const Stage& stage) {
  const int lane = threadIdx.x % 32;
  const int firstExpert = threadIdx.x / 32 * kExpertsPerWarp;
  float4 weights[kExpertsPerWarp];
#pragma unroll
  for (int e = 0; e < kExpertsPerWarp; ++e) {
    weights[e] = *reinterpret_cast<const float4*>(&stage.router[firstExpert + e][kRun * lane]);
  }
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
    const float4 values = widen(*reinterpret_cast<const Bf16x4*>(&stage.x[t][kRun * lane]));
#pragma unroll
    for (int e = 0; e < kExpertsPerWarp; ++e) sums[e * kTokens + t] = dot(weights[e], values, sums[e * kTokens + t]);
  }
}

/// Halves how many sums a lane holds: lanes with the bit `distance` keep the upper half, and each adds what its partner had of it.
template <int count>
__device__ void fold(float (&sums)[kSums], int distance) {
  const bool upper = threadIdx.x & distance;
#pragma unroll
  for (int i = 0; i < count / 2; ++i) {
    const float kept = upper ? sums[i + count / 2] : sums[i];
    const float given = upper ? sums[i] : sums[i + count / 2];
    sums[i] = kept + __shfl_xor_sync(~0u, given, distance);
  }
}

/// Sums over the lanes of the warp, to partial.
__device__ void storeSums(float (&sums)[kSums], Shared& shared, int firstExpert) {
  static_assert(kSums == 48);
  fold<48>(sums, 16);
  fold<24>(sums, 8);
  fold<12>(sums, 4);
  fold<6>(sums, 2);
  const int lane = threadIdx.x % 32;
  const int first = (lane & 16 ? 24 : 0) + (lane & 8 ? 12 : 0) + (lane & 4 ? 6 : 0) + (lane & 2 ? 3 : 0);
#pragma unroll
  for (int i = 0; i < 3; ++i) {
    const float sum = sumOfLanes<2>(sums[i]);
    const int expert = firstExpert + threadIdx.x / 32 * kExpertsPerWarp + (first + i) / kTokens;
    if (lane % 2 == 0 && expert < kMaxExperts) shared.partial[(first + i) % kTokens][expert] = sum;
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

__global__ void __launch_bounds__(kWarps * 32, 2)
    routeKernel(const __grid_constant__ CUtensorMap x, const __grid_constant__ CUtensorMap router, const RouterJob job) {
  extern __shared__ __align__(128) uint8_t bytes[];
  Shared& shared = *reinterpret_cast<Shared*>(bytes);
  letNextStart();
  const int rank = static_cast<int>(clusterRank());
  const int firstToken = blockIdx.x / kTokens * kTokens;
  const Steps steps(job, rank);
  const int numFirst = min(steps.numSteps, kStages);
  const bool brings = threadIdx.x == 0;
  if (brings) {
    for (Barrier& full : shared.full) initialise(&full, 1);
    fenceBarriers();
    for (int step = 0; step < numFirst; ++step) bringRouter(shared, &router, steps, step);
  }
  __syncthreads();
  waitForPrevious();
  if (brings) {
    for (int step = 0; step < numFirst; ++step) bringTokens(shared, &x, steps, step, firstToken);
  }
  // A part without hidden values is zero.
  for (int i = threadIdx.x; i < kTokens * kMaxExperts && steps.numSteps == 0; i += blockDim.x) shared.partial[0][i] = 0;

  float sums[kSums] = {};
  for (int step = 0; step < steps.numSteps; ++step) {
    wait(shared.full + step % kStages, step / kStages % 2);
    multiplyStage(sums, shared.stages[step % kStages]);
    if ((step + 1) % steps.numChunks == 0) {
      storeSums(sums, shared, steps.firstExpert(step));
      for (float& sum : sums) sum = 0;
    }
    if (step + kStages >= steps.numSteps) continue;
    __syncthreads();
    if (brings) {
      bringRouter(shared, &router, steps, step + kStages);
      bringTokens(shared, &x, steps, step + kStages, firstToken);
    }
  }
  float* const logits = shared.stages[0].router[0];  // of the token that this block finishes
  syncCluster();
  for (int expert = threadIdx.x; expert < job.numExperts; expert += blockDim.x) {
    const uint32_t mine = sharedAddress(&shared.partial[rank][expert]);
    float sum = 0;
#pragma unroll
    for (int part = 0; part < kTokens; ++part) sum += loadFloatFrom(addressAt(mine, part));
    logits[expert] = sum;
  }
  __syncthreads();
  meetCluster();  // the neighbours have read this block's part
  if (threadIdx.x < 32 && firstToken + rank < job.numTokens) choose(job, logits, firstToken + rank);
}

}  // namespace

cudaError_t routeTopK(const Bf16* x, const float* router, int32_t* expertIds, float* expertWeights, int numTokens, int hidden,
                      int numExperts, int topK, cudaStream_t stream) {
  if (numTokens < 1 || hidden < 8 || hidden % 8 != 0 || numExperts < 1 || numExperts > kMaxExperts || topK < 1 ||
      topK > kMaxTopK || topK > numExperts) {
    return cudaErrorInvalidValue;
  }
  CUtensorMap values, rows;
  cudaError_t error =
      mapBoxes(&values, {CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, sizeof(Bf16), x, numTokens, hidden, kTokens, kChunk});
  if (error != cudaSuccess) return error;
  error = mapBoxes(&rows, {CU_TENSOR_MAP_DATA_TYPE_FLOAT32, sizeof(float), router, numExperts, hidden, kExpertsAtOnce, kChunk});
  if (error != cudaSuccess) return error;
  error = cudaFuncSetAttribute(routeKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(Shared));
  if (error != cudaSuccess) return error;
  const unsigned numBlocks = (numTokens + kTokens - 1) / kTokens * kTokens;
  return launch(routeKernel, {numBlocks, kWarps * 32, sizeof(Shared), kTokens}, stream, values, rows,
                RouterJob{expertIds, expertWeights, numTokens, hidden, numExperts, topK});
}

}  // namespace rally
