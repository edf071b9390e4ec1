// Router: logits, softmax and the largest experts of each token, in f32. A cluster does as many tokens as it has blocks: each block
// multiplies all experts over its part of the hidden values, pushes the sums to the block that finishes the token, and finishes
// one. The weights of its part are brought to shared memory before the previous kernel ends. They are split in two for the matrix
// units (tf32), which together have them as precisely as f32 does; the tokens' bf16 is exact there. Sums are taken in one order
// whatever the batch.
#include "cluster.h"
#include "copy.h"
#include "launch.h"
#include "router-choose.h"
#include "tensor-map.h"
#include "vectors.h"

namespace rally {
namespace {

constexpr int kBlocks = 8;  // of a cluster
constexpr int kWarps = 8;
constexpr int kExpertTiles = 3;           // its M is 16
constexpr int kExpertsAtOnce = 16 * kExpertTiles;  // Step-3's 48
constexpr int kChunk = 32;                 // hidden values: a lane of each quad has 8 that lie side by side
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

/// d [16 experts, 8 tokens] += a [16, 8] b [8, 8] in tf32, whose 13 bits less than f32 are cut off.
__device__ void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

template <int tokens>
using Sums = float[kExpertTiles][tokens / 8][4];

/// sums += router [48, 32] x [tokens, 32]ᵀ of a chunk. Lane 4 g + t has of x what tokens g, g + 8, … have at 8 t; the order of hidden
/// values within a chunk is free as long as it is that of both operands.
template <int tiles>
__device__ void multiplyChunk(float (&sums)[kExpertTiles][tiles][4], const float (&router)[kExpertsAtOnce][kChunk],
                              const Bf16x8 (&x)[tiles]) {
  const int row = threadIdx.x % 32 / 4;
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {  // 4 of the 8 values
    uint32_t tokens[tiles][4];
#pragma unroll
    for (int tile = 0; tile < tiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint32_t pair = x[tile].words[2 * half + i / 2];
        tokens[tile][i] = i % 2 ? pair & 0xffff0000 : pair << 16;
      }
    }
#pragma unroll
    for (int experts = 0; experts < kExpertTiles; ++experts) {
      uint4 rows[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float* const from = router[16 * experts + 8 * i + row];
        rows[i] = reinterpret_cast<const uint4*>(from)[(2 * t + half) ^ row];
      }
      const uint32_t all[2][4] = {{rows[0].x, rows[0].y, rows[0].z, rows[0].w}, {rows[1].x, rows[1].y, rows[1].z, rows[1].w}};
#pragma unroll
      for (int step = 0; step < 2; ++step) {
        uint32_t high[4], low[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const uint32_t value = all[i % 2][2 * step + i / 2];
          high[i] = value & 0xffffe000;
          low[i] = __float_as_uint(__uint_as_float(value) - __uint_as_float(high[i]));
        }
#pragma unroll
        for (int tile = 0; tile < tiles; ++tile) {
          const uint32_t of[2] = {tokens[tile][2 * step], tokens[tile][2 * step + 1]};
          multiply(sums[experts][tile], high, of);
          multiply(sums[experts][tile], low, of);
        }
      }
    }
  }
}

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
