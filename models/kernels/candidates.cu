// The largest logits of each row, and log(sum(exp)), in two steps: every slice of a row gives its own largest, then every row
// merges those of its slices. Keys are unique (value, then the lower id), so that the result never depends on timing.
#include "candidates-held.h"
#include "launch.h"

namespace rally {
namespace candidates {
namespace {

constexpr int kMaxCandidates = 64;
constexpr int kMaxSlices = 64;
/// Keys that a slice ranks against each other; where more could be candidates, they are found one by one.
constexpr int kMaxKept = 2048;

/// What a slice says of itself: largest logit and sum(exp(logit - largest)).
struct SliceSum {
  float largest;
  float sum;
};

struct CandidatesJob {
  const Bf16* logits;  // [T, stride]
  int stride;
  int vocab;
  int numCandidates;
  int numSlices;
  int slice;       // logits of a slice, a multiple of kRun
  uint32_t* keys;  // [T, numSlices, numCandidates], descending; 0: none
  SliceSum* sums;  // [T, numSlices]
  int32_t* ids;
  float* values;
  float* logSum;
};

/// How many of the shared keys are larger. numKeys is rounded up to a multiple of 4 with zeros behind.
__device__ int rankOf(uint32_t key, const uint32_t* keys, int numKeys) {
  int rank = 0;
  for (int i = 0; i < numKeys; i += 4) {
    const uint4 four = *reinterpret_cast<const uint4*>(keys + i);
    rank += (four.x > key) + (four.y > key) + (four.z > key) + (four.w > key);
  }
  return rank;
}
__device__ int rankOf(uint64_t key, const uint64_t* keys, int numKeys) {
  int rank = 0;
  for (int i = 0; i < numKeys; ++i) rank += keys[i] > key;
  return rank;
}

/// The rank-th largest (from 0) of the lanes' keys, which differ unless they are 0.
__device__ uint32_t rankOfWarp(uint32_t key, int rank) {
  uint32_t largest = __reduce_max_sync(~0u, key);
  for (int i = 0; i < rank; ++i) {
    if (key == largest) key = 0;
    largest = __reduce_max_sync(~0u, key);
  }
  return largest;
}

/// Over the block; every thread gets it.
__device__ uint32_t largestOfBlock(uint32_t key, uint32_t* scratch) {
  key = __reduce_max_sync(~0u, key);
  __syncthreads();
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = key;
  __syncthreads();
  return __reduce_max_sync(~0u, scratch[threadIdx.x % kWarps]);
}

/// One block per slice and row. If every warp has its q-th lane's largest logit at or above a bound, and q warps' worth are
/// numCandidates, then no candidate lies below the least of those.
__global__ void __launch_bounds__(kThreads, 3) sliceKernel(const CandidatesJob job) {
  __shared__ __align__(16) uint32_t kept[kMaxKept];
  __shared__ int numKept;
  __shared__ uint32_t bounds[kWarps], largestKeys[kWarps];
  __shared__ float warpSums[kWarps];
  letNextStart();
  if (threadIdx.x == 0) numKept = 0;
  waitForPrevious();
  const int64_t row = blockIdx.y;
  const int begin = blockIdx.x * job.slice;
  Held held;
  held.load(job.logits + row * job.stride, begin, min(begin + job.slice, job.vocab), job.stride % kRun == 0);

  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const float mine = held.largest();
  const uint32_t laneKey = sliceKey(__float2bfloat16(mine), lane);
  const uint32_t ofWarp = __reduce_max_sync(~0u, laneKey);
  const uint32_t bound = rankOfWarp(laneKey, (job.numCandidates + kWarps - 1) / kWarps - 1);
  if (lane == 0) largestKeys[warp] = ofWarp, bounds[warp] = bound;
  __syncthreads();
  const float lowest = valueOf(__reduce_min_sync(~0u, bounds[lane % kWarps]) >> 16);
  const float largest = valueOf(__reduce_max_sync(~0u, largestKeys[lane % kWarps]) >> 16);
  if (mine >= lowest) {
    held.eachFrom(lowest, [&](uint32_t key) {
      const int at = atomicAdd(&numKept, 1);
      if (at < kMaxKept) kept[at] = key;
    });
  }
  const float sum = sumOfLanes(held.sumOfExponentials(largest == -INFINITY ? 0 : largest));
  if (lane == 0) warpSums[warp] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    float all = 0;
    for (const float ofOne : warpSums) all += ofOne;
    job.sums[row * job.numSlices + blockIdx.x] = {largest, all};
  }
  uint32_t* const out = job.keys + (row * job.numSlices + blockIdx.x) * job.numCandidates;
  const int count = numKept;
  if (count <= kMaxKept) {
    if (threadIdx.x < (4 - count % 4) % 4) kept[count + threadIdx.x] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < count; i += kThreads) {
      const int rank = rankOf(kept[i], kept, count);
      if (rank < job.numCandidates) out[rank] = kept[i];
    }
    for (int i = count + threadIdx.x; i < job.numCandidates; i += kThreads) out[i] = 0;
    return;
  }
  uint32_t limit = ~0u;
  for (int rank = 0; rank < job.numCandidates; ++rank) {
    limit = largestOfBlock(held.largestKeyBelow(limit), bounds);
    if (threadIdx.x == 0) out[rank] = limit;
  }
}

/// By one warp: log of the sum over all slices.
__device__ float logOfSum(const SliceSum* sums, int numSlices) {
  const int lane = threadIdx.x % 32;
  const SliceSum none = {-INFINITY, 0};
  const SliceSum first = lane < numSlices ? sums[lane] : none;
  const SliceSum second = lane + 32 < numSlices ? sums[lane + 32] : none;
  const float largest = largestOfLanes(fmaxf(first.largest, second.largest));
  const float base = largest == -INFINITY ? 0 : largest;
  return base + logf(sumOfLanes(first.sum * expf(first.largest - base) + second.sum * expf(second.largest - base)));
}

/// One block per row. If every slice has its q-th key at or above a bound, and q slices' worth are numCandidates, then no candidate
/// lies below the least of the q-th keys.
__global__ void __launch_bounds__(kThreads) mergeKernel(const CandidatesJob job) {
  __shared__ uint64_t kept[kMaxSlices * kMaxCandidates];
  __shared__ uint64_t bounds[kMaxSlices];
  __shared__ int numKept;
  letNextStart();
  waitForPrevious();
  const int64_t row = blockIdx.x;
  const uint32_t* const keys = job.keys + row * job.numSlices * job.numCandidates;
  /// Value, then the lower id, over the whole row.
  const auto rowKey = [&](int slice, uint32_t key) {
    const uint32_t id = slice * job.slice + (0xffff - (key & 0xffff));
    return key == 0 ? 0 : uint64_t{key >> 16} << 32 | (0xffffffff - id);
  };
  const int q = (job.numCandidates + job.numSlices - 1) / job.numSlices;
  if (threadIdx.x == 0) numKept = 0;
  if (threadIdx.x >= kThreads - 32) {
    const float sum = logOfSum(job.sums + row * job.numSlices, job.numSlices);
    if (threadIdx.x == kThreads - 1) job.logSum[row] = sum;
  }
  if (threadIdx.x < job.numSlices) {
    bounds[threadIdx.x] = rowKey(threadIdx.x, keys[threadIdx.x * job.numCandidates + q - 1]);
  }
  __syncthreads();
  uint64_t bound = ~uint64_t{0};
  for (int slice = 0; slice < job.numSlices; ++slice) bound = min(bound, bounds[slice]);
  for (int i = threadIdx.x; i < job.numSlices * job.numCandidates; i += kThreads) {
    const uint64_t key = rowKey(i / job.numCandidates, keys[i]);
    if (key != 0 && key >= bound) kept[atomicAdd(&numKept, 1)] = key;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < numKept; i += kThreads) {
    const int rank = rankOf(kept[i], kept, numKept);
    if (rank >= job.numCandidates) continue;
    job.ids[row * job.numCandidates + rank] = static_cast<int32_t>(0xffffffff - static_cast<uint32_t>(kept[i]));
    job.values[row * job.numCandidates + rank] = valueOf(static_cast<uint32_t>(kept[i] >> 32));
  }
  for (int i = numKept + threadIdx.x; i < job.numCandidates; i += kThreads) {
    job.ids[row * job.numCandidates + i] = -1;
    job.values[row * job.numCandidates + i] = NAN;
  }
}

int slicesOf(int vocab) { return (vocab + kSlice - 1) / kSlice; }

}  // namespace
}  // namespace candidates

cudaError_t topCandidates(const Bf16* logits, int stride, int32_t* ids, float* values, float* logSum, int numTokens, int vocab,
                          int numCandidates, void* workspace, cudaStream_t stream) {
  using namespace candidates;
  if (numTokens < 1 || numTokens > 65535 || vocab < 1 || stride < vocab || numCandidates < 1 ||
      numCandidates > kMaxCandidates || numCandidates > vocab || slicesOf(vocab) > kMaxSlices) {
    return cudaErrorInvalidValue;
  }
  const int numSlices = slicesOf(vocab);
  const int slice = ((vocab + numSlices - 1) / numSlices + kRun - 1) / kRun * kRun;
  const size_t numRowSlices = static_cast<size_t>(numTokens) * numSlices;
  SliceSum* const sums = static_cast<SliceSum*>(workspace);
  uint32_t* const keys = reinterpret_cast<uint32_t*>(sums + numRowSlices);
  const CandidatesJob job{logits, stride, vocab, numCandidates, numSlices, slice, keys, sums, ids, values, logSum};
  const dim3 blocks(numSlices, numTokens);
  const cudaError_t error = launch(sliceKernel, {blocks, kThreads}, stream, job);
  if (error != cudaSuccess) return error;
  return launch(mergeKernel, {static_cast<unsigned>(numTokens), kThreads}, stream, job);
}

size_t candidatesWorkspaceBytes(int numTokens, int vocab, int numCandidates) {
  using namespace candidates;
  return static_cast<size_t>(numTokens) * slicesOf(vocab) * (sizeof(SliceSum) + numCandidates * sizeof(uint32_t));
}

}  // namespace rally
