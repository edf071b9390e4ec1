// Router: logits, softmax and the largest experts of each token, in f32. A cluster does 8, 16 or 32 tokens: each of its 8 blocks
// multiplies all experts over an eighth of the hidden values, whose weights it has brought to shared memory before the previous
// kernel ends, pushes each token's sums to the block that finishes it, and finishes an eighth of the tokens. Sums are taken in one
// order whatever the batch.
#include "cluster.h"
#include "copy.h"
#include "launch.h"
#include "router-choose.h"
#include "router-multiply.h"
#include "tensor-map.h"
#include "vectors.h"

namespace rally {
namespace {

constexpr int kBlocks = 8;  // of a cluster
constexpr int kWarps = 8;
constexpr int kMaxChunks = 7168 / kChunk / kBlocks;  // of a block at once
constexpr int kChunksPerWarp = (kMaxChunks + kWarps - 1) / kWarps;
constexpr int kTokenStride = kExpertsAtOnce + 4;  // spreads the tokens of a quad over the banks

/// `tokens` of a cluster: 8, the matrix instruction's N, or a multiple.
template <int tokens>
struct Shared {
  static constexpr int kTokensPerBlock = tokens / kBlocks;  // that a block finishes
  union {
    float router[kMaxChunks][kExpertsAtOnce][kChunk];  // rows 128-byte swizzled
    float sums[kWarps][tokens][kTokenStride];          // takes the place of used weights
  };
  float parts[kTokensPerBlock][kBlocks][kMaxExperts];  // of the logits of this block's tokens, from each block
  Barrier full;
  Barrier partsFull;
};

/// This block's work is a list of fills of its shared memory: for every batch of experts, as many chunks at once as there is room.
struct Fills {
  int firstChunk, numChunks;
  int perBatch;
  int count;

  __device__ Fills(const RouterJob& job, int rank) {
    const int all = (job.hidden + kChunk - 1) / kChunk;
    firstChunk = rank * all / kBlocks;
    numChunks = (rank + 1) * all / kBlocks - firstChunk;
    perBatch = max(1, (numChunks + kMaxChunks - 1) / kMaxChunks);
    count = perBatch * ((job.numExperts + kExpertsAtOnce - 1) / kExpertsAtOnce);
  }
  __device__ int firstExpert(int fill) const { return fill / perBatch * kExpertsAtOnce; }
  __device__ bool isLastOfBatch(int fill) const { return fill % perBatch == perBatch - 1; }
  __device__ int firstOf(int fill) const { return firstChunk + fill % perBatch * kMaxChunks; }
  __device__ int chunksOf(int fill) const { return min(kMaxChunks, numChunks - fill % perBatch * kMaxChunks); }
};

/// By one thread. Experts and hidden values that do not exist are zeros.
template <int tokens>
__device__ void bringRouter(Shared<tokens>& shared, const CUtensorMap* router, const Fills& fills, int fill) {
  arriveExpecting(&shared.full, fills.chunksOf(fill) * sizeof(shared.router[0]));
  for (int i = 0; i < fills.chunksOf(fill); ++i) {
    copyBox(shared.router[i], router, (fills.firstOf(fill) + i) * kChunk, fills.firstExpert(fill), &shared.full);
  }
}

template <int tokens>
using Sums = float[kExpertTiles][tokens / 8][4];

/// A warp's sums to shared memory as [token, expert].
template <int tokens>
__device__ void storeSums(const Sums<tokens>& sums, Shared<tokens>& shared) {
  const int row = threadIdx.x % 32 / 4;
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int experts = 0; experts < kExpertTiles; ++experts) {
#pragma unroll
    for (int tile = 0; tile < tokens / 8; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        shared.sums[threadIdx.x / 32][8 * tile + 2 * t + i % 2][16 * experts + 8 * (i / 2) + row] = sums[experts][tile][i];
      }
    }
  }
}

__device__ int paddedExperts(int numExperts) { return (numExperts + 3) / 4 * 4; }

/// Adds up the warps' sums of a batch of experts and gives each token's to the block that finishes it.
template <int tokens>
__device__ void pushSums(Shared<tokens>& shared, int firstExpert, int numExperts, int rank) {
  constexpr int kFours = kExpertsAtOnce / 4;
  const int numFours = min(kFours, (paddedExperts(numExperts) - firstExpert) / 4);
  for (int i = threadIdx.x; i < tokens * kFours; i += blockDim.x) {
    const int token = i / kFours, four = i % kFours;
    if (four >= numFours) continue;
    float4 sum = {};
#pragma unroll
    for (int warp = 0; warp < kWarps; ++warp) {
      const float4 part = *reinterpret_cast<const float4*>(&shared.sums[warp][token][4 * four]);
      sum = {sum.x + part.x, sum.y + part.y, sum.z + part.z, sum.w + part.w};
    }
    const int block = token / shared.kTokensPerBlock;
    float* const part = &shared.parts[token % shared.kTokensPerBlock][rank][firstExpert + 4 * four];
    storeAt(addressAt(sharedAddress(part), block), sum, addressAt(sharedAddress(&shared.partsFull), block));
  }
}

/// A logit of one of this block's tokens.
template <int tokens>
__device__ float logitOf(const Shared<tokens>& shared, int token, int expert) {
  float sum = 0;
#pragma unroll
  for (int part = 0; part < kBlocks; ++part) sum += shared.parts[token][part][expert];
  return sum;
}

template <int tokens>
__global__ void __launch_bounds__(kWarps * 32, 1)
    routeKernel(const Bf16* x, const __grid_constant__ CUtensorMap router, const RouterJob job) {
  extern __shared__ __align__(1024) uint8_t bytes[];
  Shared<tokens>& shared = *reinterpret_cast<Shared<tokens>*>(bytes);
  letNextStart();
  const int rank = static_cast<int>(clusterRank());
  const int firstToken = blockIdx.x / kBlocks * tokens;
  const int warp = threadIdx.x / 32;
  const Fills fills(job, rank);
  if (threadIdx.x == 0) {
    initialise(&shared.full, 1);
    initialise(&shared.partsFull, 1);
    fenceBarriers();
    arriveExpecting(&shared.partsFull, tokens * paddedExperts(job.numExperts) * sizeof(float));
    bringRouter(shared, &router, fills, 0);
  }
  meetCluster();
  waitForPrevious();

  Sums<tokens> sums = {};
  for (int fill = 0; fill < fills.count; ++fill) {
    Bf16x8 values[kChunksPerWarp][tokens / 8];
#pragma unroll
    for (int i = 0; i < kChunksPerWarp; ++i) {
      const int column = (fills.firstOf(fill) + warp + i * kWarps) * kChunk + 8 * (threadIdx.x % 4);
      const bool isColumn = warp + i * kWarps < fills.chunksOf(fill) && column < job.hidden;
#pragma unroll
      for (int tile = 0; tile < tokens / 8; ++tile) {
        const int token = firstToken + 8 * tile + threadIdx.x % 32 / 4;
        values[i][tile] = isColumn && token < job.numTokens
                              ? *reinterpret_cast<const Bf16x8*>(x + static_cast<int64_t>(token) * job.hidden + column)
                              : Bf16x8{};
      }
    }
    wait(&shared.full, fill % 2);
#pragma unroll
    for (int i = 0; i < kChunksPerWarp; ++i) {
      if (warp + i * kWarps < fills.chunksOf(fill)) multiplyChunk(sums, shared.router[warp + i * kWarps], values[i]);
    }
    __syncthreads();  // the weights are used
    if (fills.isLastOfBatch(fill)) {
      storeSums<tokens>(sums, shared);
      for (auto& ofExperts : sums) {
        for (auto& ofTokens : ofExperts) {
          for (float& sum : ofTokens) sum = 0;
        }
      }
      fenceForAsync();
      __syncthreads();
      pushSums(shared, fills.firstExpert(fill), job.numExperts, rank);
      if (fill + 1 == fills.count) break;
      __syncthreads();  // the sums are used
    }
    if (threadIdx.x == 0) bringRouter(shared, &router, fills, fill + 1);
  }
  // Until the neighbours have pushed theirs, so that they do not find this block gone.
  if (warp >= shared.kTokensPerBlock) return;
  wait(&shared.partsFull, 0);
  const int token = firstToken + rank * shared.kTokensPerBlock + warp;
  if (token >= job.numTokens) return;
  const auto logit = [&](int expert) { return logitOf(shared, warp, expert); };
  if (job.numExperts <= 64) {
    choose<2>(job, token, logit);
  } else {
    choose<kMaxExperts / 32>(job, token, logit);
  }
}

template <int tokens>
cudaError_t start(const Bf16* x, const CUtensorMap& router, const RouterJob& job, cudaStream_t stream) {
  const auto kernel = routeKernel<tokens>;
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(Shared<tokens>));
  if (error != cudaSuccess) return error;
  const unsigned numBlocks = (job.numTokens + tokens - 1) / tokens * kBlocks;
  return launch(kernel, {numBlocks, kWarps * 32, sizeof(Shared<tokens>), kBlocks}, stream, x, router, job);
}

}  // namespace

cudaError_t routeTopK(const Bf16* x, const float* router, int32_t* expertIds, float* expertWeights, int numTokens, int hidden,
                      int numExperts, int topK, cudaStream_t stream) {
  if (numTokens < 1 || hidden < 8 || hidden % 8 != 0 || numExperts < 1 || numExperts > kMaxExperts || topK < 1 ||
      topK > kMaxTopK || topK > numExperts) {
    return cudaErrorInvalidValue;
  }
  CUtensorMap rows;
  const cudaError_t error = mapBoxes(&rows, {CU_TENSOR_MAP_DATA_TYPE_FLOAT32, sizeof(float), router, numExperts, hidden,
                                             kExpertsAtOnce, kChunk, CU_TENSOR_MAP_SWIZZLE_128B});
  if (error != cudaSuccess) return error;
  // Up to 8 clusters: more than 15 do not fit side by side.
  const RouterJob job{expertIds, expertWeights, numTokens, hidden, numExperts, topK};
  if (numTokens <= 64) return start<8>(x, rows, job, stream);
  if (numTokens <= 128) return start<16>(x, rows, job, stream);
  return start<32>(x, rows, job, stream);
}

}  // namespace rally
