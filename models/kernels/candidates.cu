// The largest logits of each row, and log(sum(exp)), in two steps: every slice of a row gives its own largest, then every row
// merges those of its slices. Keys are unique (value, then the lower id), so that the result never depends on timing.
#include "launch.h"
#include "vectors.h"

namespace rally {
namespace {

constexpr int kRun = 8;
constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
constexpr int kRunsPerThread = 4;
constexpr int kSlice = kThreads * kRunsPerThread * kRun;  // logits of a slice, at most
constexpr int kMaxCandidates = 64;
constexpr int kMaxSlices = 64;
/// Keys that a slice ranks against each other; where more could be candidates, they are found one by one.
constexpr int kMaxKept = 2048;
static_assert(kSlice < 65536, "an index within a slice fits half a key");

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

/// Order-preserving: larger bf16 values have larger bits, both zeros the same. 0 is left for "none" (it would be a NaN).
__device__ uint32_t orderedBits(Bf16 value) {
  uint32_t bits = __bfloat16_as_ushort(value);
  if (bits == 0x8000) bits = 0;
  return bits & 0x8000 ? ~bits & 0xffff : bits | 0x8000;
}
__device__ float valueOf(uint32_t ordered) {
  return __bfloat162float(__ushort_as_bfloat16(ordered & 0x8000 ? ordered & 0x7fff : ~ordered & 0xffff));
}
__device__ uint32_t sliceKey(Bf16 value, int index) { return orderedBits(value) << 16 | (0xffff - index); }

/// How many of the shared keys are larger.
template <typename Key>
__device__ int rankOf(Key key, const Key* keys, int numKeys) {
  int rank = 0;
  for (int i = 0; i < numKeys; ++i) rank += keys[i] > key;
  return rank;
}

/// The run of logits at `index` of this row, those past `end` as the most negative.
__device__ void loadLogits(Bf16 (&values)[kRun], const Bf16* row, int index, int end, bool aligned) {
  if (aligned && index + kRun <= end) {
    const uint4 run = *reinterpret_cast<const uint4*>(row + index);
    const uint32_t words[] = {run.x, run.y, run.z, run.w};
#pragma unroll
    for (int i = 0; i < kRun; ++i) values[i] = __ushort_as_bfloat16(words[i / 2] >> (16 * (i % 2)) & 0xffff);
    return;
  }
#pragma unroll
  for (int i = 0; i < kRun; ++i) values[i] = index + i < end ? row[index + i] : __ushort_as_bfloat16(0xff80);
}

/// The logits that a thread holds, and their keys.
struct Held {
  Bf16 values[kRunsPerThread][kRun];
  int end;  // of the slice, counted from its begin

  __device__ void load(const Bf16* row, int begin, int sliceEnd, bool aligned) {
    end = sliceEnd - begin;
#pragma unroll
    for (int r = 0; r < kRunsPerThread; ++r) loadLogits(values[r], row, begin + indexOf(r, 0), sliceEnd, aligned);
  }
  __device__ static int indexOf(int run, int i) { return (run * kThreads + static_cast<int>(threadIdx.x)) * kRun + i; }
  /// Calls with every key.
  template <typename Use>
  __device__ void eachKey(Use use) const {
#pragma unroll
    for (int r = 0; r < kRunsPerThread; ++r) {
#pragma unroll
      for (int i = 0; i < kRun; ++i) {
        if (indexOf(r, i) < end) use(sliceKey(values[r][i], indexOf(r, i)));
      }
    }
  }
  /// Of those below `limit`; 0: none.
  __device__ uint32_t largestKey(uint32_t limit) const {
    uint32_t largest = 0;
    eachKey([&](uint32_t key) { largest = key < limit ? max(largest, key) : largest; });
    return largest;
  }
};

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

/// One block per slice and row. If every warp has its q-th lane's largest key at or above a bound, and q warps' worth are
/// numCandidates, then no candidate lies below the least of those keys.
__global__ void __launch_bounds__(kThreads, 2) sliceKernel(const CandidatesJob job) {
  __shared__ uint32_t kept[kMaxKept];
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
  const uint32_t mine = held.largestKey(~0u);
  const uint32_t ofWarp = __reduce_max_sync(~0u, mine);
  const uint32_t bound = rankOfWarp(mine, (job.numCandidates + kWarps - 1) / kWarps - 1);
  if (lane == 0) largestKeys[warp] = ofWarp, bounds[warp] = bound;
  __syncthreads();
  const uint32_t lowest = __reduce_min_sync(~0u, bounds[lane % kWarps]);
  const uint32_t largestKey = __reduce_max_sync(~0u, largestKeys[lane % kWarps]);
  const float largest = valueOf(largestKey >> 16);
  const float base = largest == -INFINITY ? 0 : largest;
  float sum = 0;
#pragma unroll
  for (int r = 0; r < kRunsPerThread; ++r) {
#pragma unroll
    for (int i = 0; i < kRun; ++i) sum += __expf(__bfloat162float(held.values[r][i]) - base);
  }
  sum = sumOfLanes(sum);
  if (lane == 0) warpSums[warp] = sum;

  if (mine >= lowest) {
    held.eachKey([&](uint32_t key) {
      if (key < lowest) return;
      const int at = atomicAdd(&numKept, 1);
      if (at < kMaxKept) kept[at] = key;
    });
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    sum = 0;
    for (const float ofOne : warpSums) sum += ofOne;
    job.sums[row * job.numSlices + blockIdx.x] = {largest, sum};
  }
  uint32_t* const out = job.keys + (row * job.numSlices + blockIdx.x) * job.numCandidates;
  if (numKept <= kMaxKept) {
    for (int i = threadIdx.x; i < numKept; i += kThreads) {
      const int rank = rankOf(kept[i], kept, numKept);
      if (rank < job.numCandidates) out[rank] = kept[i];
    }
    for (int i = numKept + threadIdx.x; i < job.numCandidates; i += kThreads) out[i] = 0;
    return;
  }
  uint32_t limit = ~0u;
  for (int rank = 0; rank < job.numCandidates; ++rank) {
    limit = largestOfBlock(held.largestKey(limit), bounds);
    if (threadIdx.x == 0) out[rank] = limit;
  }
}

/// By one thread: log of the sum over all slices.
__device__ float logOfSum(const SliceSum* sums, int numSlices) {
  float largest = -INFINITY;
  for (int slice = 0; slice < numSlices; ++slice) largest = fmaxf(largest, sums[slice].largest);
  const float base = largest == -INFINITY ? 0 : largest;
  float sum = 0;
  for (int slice = 0; slice < numSlices; ++slice) sum += sums[slice].sum * expf(sums[slice].largest - base);
  return base + logf(sum);
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
  if (threadIdx.x == 0) numKept = 0, job.logSum[row] = logOfSum(job.sums + row * job.numSlices, job.numSlices);
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
}

int slicesOf(int vocab) { return (vocab + kSlice - 1) / kSlice; }

}  // namespace

cudaError_t topCandidates(const Bf16* logits, int stride, int32_t* ids, float* values, float* logSum, int numTokens, int vocab,
                          int numCandidates, void* workspace, cudaStream_t stream) {
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
  return static_cast<size_t>(numTokens) * slicesOf(vocab) * (sizeof(SliceSum) + numCandidates * sizeof(uint32_t));
}

}  // namespace rally
