// MFA's attention in f32, for exactness on small models: any number of heads that share one key and value head of 32, 64, … 256
// dimensions; several new tokens per sequence. A page is 64 rows of keys, then 64 rows of values. One block per new token and head;
// its warps share the tokens, a lane holds every 32nd dimension.
#include "kernels.h"

namespace rally {
namespace mfa {

constexpr int kF32Warps = 8;

__device__ inline float* pageOf(KvPool pool, Sequences sequences, int sequence, int position) {
  const int32_t page = sequences.pageTable[static_cast<size_t>(sequence) * sequences.maxPages + position / kPageTokens];
  return static_cast<float*>(pool.pages) + static_cast<size_t>(page) * 2 * kPageTokens * pool.headDim;
}

__device__ inline bool isRow(Rows rows, Sequences sequences, int row) {
  const int sequence = rows.sequences[row];
  const int position = rows.positions[row];
  return sequence >= 0 && sequence < sequences.numSequences && position >= 0 && position < sequences.maxPages * kPageTokens;
}

/// Block (row, head); head numHeads is the key, numHeads + 1 the value.
__global__ void appendF32Kernel(const float* query, const float* key, const float* value, int stride, const float2* cosSin, KvPool pool,
                                Sequences sequences, Rows rows, float* rotated, int numHeads) {
  const int row = blockIdx.x;
  const int head = blockIdx.y;
  if (!isRow(rows, sequences, row)) return;
  const int position = rows.positions[row];
  const int dim = pool.headDim;
  const int half = dim / 2;
  float* page = pageOf(pool, sequences, rows.sequences[row], position);
  const int token = position % kPageTokens;
  if (head == numHeads + 1) {
    for (int d = threadIdx.x; d < dim; d += blockDim.x) {
      page[(kPageTokens + token) * dim + d] = value[static_cast<size_t>(row) * stride + d];
    }
    return;
  }
  const size_t queryRow = (static_cast<size_t>(row) * numHeads + head) * dim;
  const float* from = head < numHeads ? query + queryRow : key + static_cast<size_t>(row) * stride;
  float* to = head < numHeads ? rotated + queryRow : page + token * dim;
  for (int d = threadIdx.x; d < half; d += blockDim.x) {
    const float2 turn = cosSin[static_cast<size_t>(position) * half + d];
    const float low = from[d];
    const float high = from[d + half];
    to[d] = low * turn.x - high * turn.y;
    to[d + half] = high * turn.x + low * turn.y;
  }
}

template <int perLane>
__global__ void __launch_bounds__(32 * kF32Warps)
    decodeF32Kernel(const float* rotated, KvPool pool, Sequences sequences, Rows rows, float* out, int numHeads) {
  constexpr int kDim = 32 * perLane;
  __shared__ float maxima[kF32Warps];
  __shared__ float sums[kF32Warps];
  __shared__ float outputs[kF32Warps][kDim];
  const int row = blockIdx.x;
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const size_t start = (static_cast<size_t>(row) * numHeads + blockIdx.y) * kDim;
  const bool isUsed = isRow(rows, sequences, row);
  const int length = isUsed ? rows.positions[row] + 1 : 0;

  float query[perLane];
  float output[perLane] = {};
  for (int i = 0; i < perLane; ++i) query[i] = isUsed ? rotated[start + 32 * i + lane] * rsqrtf(kDim) : 0;
  float maximum = -INFINITY;
  float sum = 0;
  for (int position = warp; position < length; position += kF32Warps) {
    const float* page = pageOf(pool, sequences, rows.sequences[row], position);
    const float* key = page + position % kPageTokens * kDim;
    const float* value = key + kPageTokens * kDim;
    float logit = 0;
    for (int i = 0; i < perLane; ++i) logit += query[i] * key[32 * i + lane];
    for (int step = 16; step > 0; step /= 2) logit += __shfl_xor_sync(~0u, logit, step);
    const float common = fmaxf(maximum, logit);
    const float shrink = expf(maximum - common);
    const float weight = expf(logit - common);
    maximum = common;
    sum = sum * shrink + weight;
    for (int i = 0; i < perLane; ++i) output[i] = output[i] * shrink + weight * value[32 * i + lane];
  }
  if (lane == 0) {
    maxima[warp] = maximum;
    sums[warp] = sum;
  }
  for (int i = 0; i < perLane; ++i) outputs[warp][32 * i + lane] = output[i];
  __syncthreads();
  for (int d = threadIdx.x; d < kDim; d += 32 * kF32Warps) {
    float common = -INFINITY;
    for (int w = 0; w < kF32Warps; ++w) common = fmaxf(common, maxima[w]);
    float total = 0;
    float joined = 0;
    for (int w = 0; w < kF32Warps; ++w) {
      const float weight = sums[w] > 0 ? expf(maxima[w] - common) : 0;
      total += sums[w] * weight;
      joined += outputs[w][d] * weight;
    }
    out[start + d] = total > 0 ? joined / total : 0;
  }
}

static bool isSupported(KvPool pool, Rows rows, int numHeads) {
  return pool.type == KvType::kF32 && pool.headDim % 32 == 0 && pool.headDim >= 32 && pool.headDim <= 256 && rows.numRows > 0 &&
         numHeads > 0;
}

}  // namespace mfa

cudaError_t ropeAppendF32(const float* query, const float* key, const float* value, int keyValueStride, const float2* cosSin,
                          KvPool pool, Sequences sequences, Rows rows, float* rotated, int numHeads, cudaStream_t stream) {
  if (!mfa::isSupported(pool, rows, numHeads)) return cudaErrorInvalidValue;
  mfa::appendF32Kernel<<<dim3(rows.numRows, numHeads + 2), 128, 0, stream>>>(query, key, value, keyValueStride, cosSin, pool, sequences,
                                                                             rows, rotated, numHeads);
  return cudaGetLastError();
}

cudaError_t mfaDecodeF32(const float* rotated, KvPool pool, Sequences sequences, Rows rows, float* out, int numHeads,
                         cudaStream_t stream) {
  if (!mfa::isSupported(pool, rows, numHeads)) return cudaErrorInvalidValue;
  constexpr decltype(&mfa::decodeF32Kernel<1>) kKernels[] = {
      mfa::decodeF32Kernel<1>, mfa::decodeF32Kernel<2>, mfa::decodeF32Kernel<3>, mfa::decodeF32Kernel<4>,
      mfa::decodeF32Kernel<5>, mfa::decodeF32Kernel<6>, mfa::decodeF32Kernel<7>, mfa::decodeF32Kernel<8>};
  kKernels[pool.headDim / 32 - 1]<<<dim3(rows.numRows, numHeads), 32 * mfa::kF32Warps, 0, stream>>>(rotated, pool, sequences, rows, out,
                                                                                                   numHeads);
  return cudaGetLastError();
}

}  // namespace rally
