// RMSNorm of a token and its quantisation in groups of 128, with the addition that comes before a norm. One block per token; a
// thread holds one or two runs of 8 values, so that 16 neighbouring threads hold a group.
#include "launch.h"
#include "vectors.h"

namespace rally {
namespace {

constexpr int kRun = 8;
constexpr int kRunsPerLine = 128 / (kRun * int{sizeof(Bf16)});
constexpr int kLanesPerGroup = kGroup / kRun;
constexpr int kMaxThreads = 448;
constexpr float kLargest = 448;          // of e4m3
constexpr float kSmallestScaled = 1e-30f;  // keeps the inverse scale of a group of zeros finite

struct NormJob {
  const Bf16* x;  // [T, stride]
  int stride;
  Bf16* sum;  // [T, width]: where x + partials goes, or null
  const Bf16* partials;
  int numPartials;
  const Bf16* weight;
  float epsilon;
  Activations out;
  Bf16* normed;
  int numTokens;
  int width;
};

__device__ float sumOfBlock(float value) {
  __shared__ float sums[kMaxThreads / 32];
  const float sum = sumOfLanes(value);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
  __syncthreads();
  float total = 0;
  for (int warp = 0; warp < blockDim.x / 32; ++warp) total += sums[warp];
  return total;
}

__device__ void add(float (&sums)[kRun], Bf16x8 run) {
#pragma unroll
  for (int i = 0; i < kRun / 2; ++i) {
    const float2 pair = widenPair(run.words[i]);
    sums[2 * i] += pair.x;
    sums[2 * i + 1] += pair.y;
  }
}

__device__ void scale(float (&values)[kRun], Bf16x8 weight, float factor) {
#pragma unroll
  for (int i = 0; i < kRun / 2; ++i) {
    const float2 pair = widenPair(weight.words[i]);
    values[2 * i] *= pair.x * factor;
    values[2 * i + 1] *= pair.y * factor;
  }
}

__device__ void prefetchLine(const void* line) { asm volatile("prefetch.global.L2 [%0];" ::"l"(line)); }

__device__ Bf16x8 loadRun(const Bf16* values, int64_t run) { return reinterpret_cast<const Bf16x8*>(values)[run]; }

/// Sums of the partials, in order, for the runs of this thread.
template <int runsPerThread>
__device__ void addPartials(float (&sums)[runsPerThread][kRun], const NormJob& job, int token) {
  const int numRuns = job.width / kRun;
  const auto rowOf = [&](int partial) { return (static_cast<int64_t>(partial) * job.numTokens + token) * numRuns; };
#pragma unroll 1
  for (int partial = 0; partial < job.numPartials; ++partial) {
    const int64_t row = rowOf(partial);
    Bf16x8 values[runsPerThread];
#pragma unroll
    for (int i = 0; i < runsPerThread; ++i) {
      const int run = threadIdx.x + i * blockDim.x;
      values[i] = run < numRuns ? loadRun(job.partials, row + run) : Bf16x8{};
    }
#pragma unroll
    for (int i = 0; i < runsPerThread; ++i) add(sums[i], values[i]);
  }
}

/// Leaves x as bf16 holds it, in the sum too.
template <int runsPerThread>
__device__ void store(float (&x)[runsPerThread][kRun], const NormJob& job, int token) {
  const int numRuns = job.width / kRun;
#pragma unroll
  for (int i = 0; i < runsPerThread; ++i) {
    const int run = threadIdx.x + i * blockDim.x;
    if (run >= numRuns) continue;
    const Bf16x8 stored = narrow(x[i]);
    reinterpret_cast<Bf16x8*>(job.sum)[static_cast<int64_t>(token) * numRuns + run] = stored;
    widen(stored, x[i]);
  }
}

/// By the 16 lanes of a group; lanes without one take part.
__device__ void quantiseRun(const float (&values)[kRun], const NormJob& job, int token, int run, bool inside) {
  float largest = 0;
#pragma unroll
  for (int i = 0; i < kRun; ++i) largest = fmaxf(largest, fabsf(values[i]));
  largest = fmaxf(largestOfLanes<kLanesPerGroup>(largest), kSmallestScaled);
  if (!inside) return;
  const float inverse = kLargest / largest;
  const auto quantised = [&](int i) {
    return __nv_fp8x4_e4m3(
        float4{values[i] * inverse, values[i + 1] * inverse, values[i + 2] * inverse, values[i + 3] * inverse});
  };
  reinterpret_cast<uint2*>(job.out.data)[static_cast<int64_t>(token) * (job.width / kRun) + run] = {quantised(0).__x,
                                                                                                   quantised(4).__x};
  if (run % kLanesPerGroup == 0) job.out.scales[run / kLanesPerGroup * job.numTokens + token] = largest / kLargest;
}

/// Registers are kept few, so that a block of the next GEMM can start beside one of these.
template <int runsPerThread>
__global__ void __maxnreg__(runsPerThread <= 2 ? 48 : 128) normKernel(const NormJob job) {
  letNextStart();
  const int token = blockIdx.x;
  const int numRuns = job.width / kRun;
  // To L2, which has the latest of what the kernel before still writes.
  for (int line = threadIdx.x; line < numRuns / kRunsPerLine; line += blockDim.x) {
    const int64_t at = line * kRunsPerLine * kRun;
    prefetchLine(job.weight + at);
    for (int partial = 0; partial < job.numPartials; ++partial) {
      prefetchLine(job.partials + (static_cast<int64_t>(partial) * job.numTokens + token) * job.width + at);
    }
  }
  waitForPrevious();

  float x[runsPerThread][kRun] = {};
  {
    Bf16x8 before[runsPerThread];
#pragma unroll
    for (int i = 0; i < runsPerThread; ++i) {
      const int run = threadIdx.x + i * blockDim.x;
      before[i] = run < numRuns ? loadRun(job.x, static_cast<int64_t>(token) * (job.stride / kRun) + run) : Bf16x8{};
    }
    addPartials(x, job, token);
#pragma unroll
    for (int i = 0; i < runsPerThread; ++i) add(x[i], before[i]);
  }
  if (job.sum != nullptr) store(x, job, token);
  float squares = 0;
#pragma unroll
  for (int i = 0; i < runsPerThread; ++i) {
#pragma unroll
    for (int j = 0; j < kRun; ++j) squares = fmaf(x[i][j], x[i][j], squares);
  }
  Bf16x8 weight[runsPerThread];
#pragma unroll
  for (int i = 0; i < runsPerThread; ++i) {
    const int run = threadIdx.x + i * blockDim.x;
    weight[i] = run < numRuns ? loadRun(job.weight, run) : Bf16x8{};
  }
  const float inverse = 1 / sqrtf(sumOfBlock(squares) / job.width + job.epsilon);
#pragma unroll
  for (int i = 0; i < runsPerThread; ++i) {
    const int run = threadIdx.x + i * blockDim.x;
    const bool inside = run < numRuns;
    scale(x[i], weight[i], inverse);
    if (job.normed != nullptr && inside) {
      reinterpret_cast<Bf16x8*>(job.normed)[static_cast<int64_t>(token) * numRuns + run] = narrow(x[i]);
    }
    if (job.out.data != nullptr) quantiseRun(x[i], job, token, run, inside);
  }
}

cudaError_t launchNorm(const NormJob& job, cudaStream_t stream) {
  const bool aligned = job.stride % kRun == 0 && reinterpret_cast<uintptr_t>(job.x) % 16 == 0;
  if (job.numTokens < 1 || job.width < kGroup || job.width % kGroup != 0 || job.stride < job.width || !aligned) {
    return cudaErrorInvalidValue;
  }
  const int numRuns = job.width / kRun;
  const auto start = [&](auto kernel, int runsPerThread) {
    const unsigned threads = ((numRuns + runsPerThread - 1) / runsPerThread + 31) / 32 * 32;
    return launch(kernel, {static_cast<unsigned>(job.numTokens), threads}, stream, job);
  };
  if (numRuns <= kMaxThreads) return start(normKernel<1>, 1);
  if (numRuns <= 2 * kMaxThreads) return start(normKernel<2>, 2);
  if (numRuns <= 4 * kMaxThreads) return start(normKernel<4>, 4);
  return cudaErrorInvalidValue;
}

}  // namespace

cudaError_t addRmsNormQuantise(const Bf16* residual, const Bf16* partials, int numPartials, Bf16* sum, const Bf16* weight,
                               float epsilon, Activations out, Bf16* normed, int numTokens, int width, cudaStream_t stream) {
  if (numPartials == 0 && sum == residual) sum = nullptr;  // is there already
  return launchNorm({residual, width, sum, partials, numPartials, weight, epsilon, out, normed, numTokens, width}, stream);
}

cudaError_t rmsNormQuantise(const Bf16* x, int stride, const Bf16* weight, float epsilon, Activations out, int numTokens,
                            int width, cudaStream_t stream) {
  return launchNorm({x, stride, nullptr, nullptr, 0, weight, epsilon, out, nullptr, numTokens, width}, stream);
}

}  // namespace rally
