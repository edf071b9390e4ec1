#include "f32-attention.h"

namespace rally {

namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
/// One block does so many heads of one token: a warp each where softmax is concerned.
constexpr int kBlockHeads = kWarps;
constexpr int kMostHeadDim = 256;
/// Outputs of one thread: kBlockHeads * headDim / kThreads.
constexpr int kMostOutputs = kBlockHeads * kMostHeadDim / kThreads;

__device__ const float* keysOf(F32Pool pool, Sequences sequences, int token, int page) {
  const int64_t at = sequences.pageTable[static_cast<int64_t>(token) * sequences.maxPages + page];
  return pool.pages + at * 2 * kPageTokens * pool.headDim;
}

/// As the CPU rounds: both products are exact in f64, so there is one rounding, of their sum.
__device__ float turned(float a, float cosine, float b, float sine) {
  return static_cast<float>(static_cast<double>(a) * cosine + static_cast<double>(b) * sine);
}

/// One block per token and head; head numHeads is the key, with its value.
__global__ void appendKernel(const float* query, const float* keyValue, int keyValueStride, const float2* cosSin, F32Pool pool,
                             Sequences sequences, float* rotated, int numHeads) {
  const int token = blockIdx.x, head = blockIdx.y, headDim = pool.headDim, half = headDim / 2;
  const int position = sequences.lengths[token] - 1;
  const bool isKey = head == numHeads;
  const int64_t row = static_cast<int64_t>(token) * numHeads + head;
  float* to = rotated + row * headDim;
  if (position < 0) {
    for (int i = threadIdx.x; i < headDim && !isKey; i += blockDim.x) to[i] = 0;
    return;
  }
  const float* from = query + row * headDim;
  if (isKey) {
    from = keyValue + static_cast<int64_t>(token) * keyValueStride;
    to = const_cast<float*>(keysOf(pool, sequences, token, position / kPageTokens)) + position % kPageTokens * headDim;
    for (int i = threadIdx.x; i < headDim; i += blockDim.x) to[kPageTokens * headDim + i] = from[headDim + i];
  }
  for (int i = threadIdx.x; i < half; i += blockDim.x) {
    const float2 angle = cosSin[static_cast<int64_t>(position) * half + i];
    const float first = from[i], second = from[half + i];
    to[i] = turned(first, angle.x, second, -angle.y);
    to[half + i] = turned(second, angle.x, first, angle.y);
  }
}

/// Rows of headDim floats into shared memory; the odd stride keeps threads that read a column off each other's banks.
__device__ void loadTile(const float* from, float* tile, int numRows, int headDim) {
  for (int i = threadIdx.x; i < numRows * headDim; i += kThreads) tile[i / headDim * (headDim + 1) + i % headDim] = from[i];
}

/// The softmax of one head while pages pass by; the lanes of its warp all have the same.
struct Softmax {
  float most = -INFINITY;
  float sum = 0;

  /// Scores of a page's keys become their shares, relative to the largest score so far; returns what earlier shares shrink by.
  __device__ float add(float* scores) {
    const int lane = threadIdx.x % 32;
    const float a = scores[lane], b = scores[lane + 32];
    float largest = fmaxf(a, b);
    for (int step = 16; step > 0; step /= 2) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, step));
    // A page has at least one key, so this is finite.
    const float next = fmaxf(most, largest);
    const float shareA = expf(a - next), shareB = expf(b - next);
    scores[lane] = shareA;
    scores[lane + 32] = shareB;
    float added = shareA + shareB;
    for (int step = 16; step > 0; step /= 2) added += __shfl_xor_sync(~0u, added, step);
    const float shrink = expf(most - next);
    most = next;
    sum = sum * shrink + added;
    return shrink;
  }
};

/// One block per token and kBlockHeads heads, page after page: the order of sums depends on the row's own length alone.
__global__ void __launch_bounds__(kThreads) decodeKernel(const float* rotated, F32Pool pool, Sequences sequences, float* out,
                                                         int numHeads, float scale) {
  extern __shared__ float shared[];
  const int headDim = pool.headDim, stride = headDim + 1;
  float* const tile = shared;                                  // [64, headDim + 1] keys, then values
  float* const queries = tile + kPageTokens * stride;          // [kBlockHeads, headDim]
  float* const scores = queries + kBlockHeads * headDim;       // [kBlockHeads, 64]
  float* const factors = scores + kBlockHeads * kPageTokens;   // [kBlockHeads]
  const int token = blockIdx.x, firstHead = blockIdx.y * kBlockHeads, warp = threadIdx.x / 32;
  const int numLocal = min(kBlockHeads, numHeads - firstHead), numOutputs = numLocal * headDim;
  const int64_t base = (static_cast<int64_t>(token) * numHeads + firstHead) * headDim;
  const int length = sequences.lengths[token];
  if (length <= 0) {
    for (int i = threadIdx.x; i < numOutputs; i += kThreads) out[base + i] = 0;
    return;
  }
  for (int i = threadIdx.x; i < numOutputs; i += kThreads) queries[i] = rotated[base + i];
  Softmax softmax;
  float outputs[kMostOutputs] = {};
  for (int first = 0; first < length; first += kPageTokens) {
    const int count = min(kPageTokens, length - first);
    const float* const keys = keysOf(pool, sequences, token, first / kPageTokens);
    __syncthreads();
    loadTile(keys, tile, count, headDim);
    __syncthreads();
    for (int i = threadIdx.x; i < numLocal * kPageTokens; i += kThreads) {
      const int head = i / kPageTokens, key = i % kPageTokens;
      float score = 0;
      for (int d = 0; d < headDim && key < count; d++) score = fmaf(queries[head * headDim + d], tile[key * stride + d], score);
      scores[i] = key < count ? score * scale : -INFINITY;
    }
    __syncthreads();
    loadTile(keys + kPageTokens * headDim, tile, count, headDim);
    if (warp < numLocal) {
      const float shrink = softmax.add(scores + warp * kPageTokens);
      if (threadIdx.x % 32 == 0) factors[warp] = shrink;
    }
    __syncthreads();
#pragma unroll
    for (int j = 0; j < kMostOutputs; j++) {
      const int i = threadIdx.x + j * kThreads;
      if (i >= numOutputs) break;
      const int head = i / headDim, d = i % headDim;
      float output = outputs[j] * factors[head];
      for (int key = 0; key < count; key++) output = fmaf(scores[head * kPageTokens + key], tile[key * stride + d], output);
      outputs[j] = output;
    }
  }
  __syncthreads();
  if (warp < numLocal && threadIdx.x % 32 == 0) factors[warp] = softmax.sum;
  __syncthreads();
#pragma unroll
  for (int j = 0; j < kMostOutputs; j++) {
    const int i = threadIdx.x + j * kThreads;
    if (i < numOutputs) out[base + i] = outputs[j] / factors[i / headDim];
  }
}

bool isDone(F32Pool pool, Sequences sequences, int numHeads) {
  return pool.headDim > 0 && pool.headDim % 2 == 0 && pool.headDim <= kMostHeadDim && numHeads > 0 && sequences.numSequences > 0;
}

}  // namespace

cudaError_t ropeAppendF32(const float* query, const float* keyValue, int keyValueStride, const float2* cosSin, F32Pool pool,
                          Sequences sequences, float* rotated, int numHeads, cudaStream_t stream) {
  if (!isDone(pool, sequences, numHeads) || keyValueStride < 2 * pool.headDim) return cudaErrorInvalidValue;
  const dim3 grid(sequences.numSequences, numHeads + 1);
  appendKernel<<<grid, 128, 0, stream>>>(query, keyValue, keyValueStride, cosSin, pool, sequences, rotated, numHeads);
  return cudaGetLastError();
}

cudaError_t mfaDecodeF32(const float* rotated, F32Pool pool, Sequences sequences, float* out, int numHeads, cudaStream_t stream) {
  if (!isDone(pool, sequences, numHeads)) return cudaErrorInvalidValue;
  const int floats = kPageTokens * (pool.headDim + 1) + kBlockHeads * (pool.headDim + kPageTokens + 1);
  const int bytes = floats * static_cast<int>(sizeof(float));
  if (cudaError_t error = cudaFuncSetAttribute(decodeKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes)) return error;
  const dim3 grid(sequences.numSequences, (numHeads + kBlockHeads - 1) / kBlockHeads);
  const float scale = 1 / sqrtf(static_cast<float>(pool.headDim));
  decodeKernel<<<grid, kThreads, bytes, stream>>>(rotated, pool, sequences, out, numHeads, scale);
  return cudaGetLastError();
}

}  // namespace rally
