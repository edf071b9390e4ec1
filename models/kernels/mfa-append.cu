// RoPE and append: rotates the new token's queries and key, quantises, and writes key and value into the page. One warp per two query
// heads, so that all blocks are resident at once; in the first block of a token warp 0 does the key and warp 1 the value.
#include "kernels.h"
#include "launch.h"
#include "mfa-page.h"
#include "mfa-narrow.h"

namespace rally {
namespace mfa {

constexpr int kWarps = 8;
constexpr int kHeadsPerWarp = 2;
constexpr int kQueryBlocks = kHeads / kWarps / kHeadsPerWarp;
/// 8 values of a lane: dimensions 4 lane + i and kHeadDim / 2 + 4 lane + i.
struct Halves {
  float low[4];
  float high[4];
};

__device__ inline void load(const Bf16* from, float (&values)[4]) {
  const uint2 bits = *reinterpret_cast<const uint2*>(from);
  values[0] = __uint_as_float(bits.x << 16);
  values[1] = __uint_as_float(bits.x & 0xffff0000u);
  values[2] = __uint_as_float(bits.y << 16);
  values[3] = __uint_as_float(bits.y & 0xffff0000u);
}

__device__ inline Halves loadHead(const Bf16* head) {
  const int lane = threadIdx.x % 32;
  Halves x;
  load(head + 4 * lane, x.low);
  load(head + kHeadDim / 2 + 4 * lane, x.high);
  return x;
}

/// cosSin [kHeadDim / 2] of the position.
__device__ inline void rotate(Halves& x, const float2* cosSin) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 turn = cosSin[4 * (threadIdx.x % 32) + i];
    const float low = x.low[i];
    x.low[i] = low * turn.x - x.high[i] * turn.y;
    x.high[i] = x.high[i] * turn.x + low * turn.y;
  }
}

__device__ inline float largestOfWarp(const Halves& x) {
  float largest = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) largest = fmaxf(largest, fmaxf(fabsf(x.low[i]), fabsf(x.high[i])));
  for (int step = 16; step > 0; step /= 2) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, step));
  return largest;
}

/// Stores a head as a row of the keys' layout, times `factor`.
template <KvType type>
__device__ void storeHead(uint8_t* rows, int row, const float (&values)[4], int dim, float factor) {
  uint8_t* to = rows + Layout<type>::rowOffset(row, dim);
  if constexpr (type == KvType::kE4m3) {
    *reinterpret_cast<uint32_t*>(to) =
        packE4m3(values[0] * factor, values[1] * factor) | packE4m3(values[2] * factor, values[3] * factor) << 16;
  } else {
    *reinterpret_cast<uint2*>(to) = {packBf16(values[0], values[1]), packBf16(values[2], values[3])};
  }
}

template <KvType type>
__global__ void __launch_bounds__(32 * kWarps)
    appendKernel(const Bf16* query, const Bf16* key, const Bf16* value, int stride, const float2* cosSin, uint8_t* pages,
                 Sequences sequences, uint8_t* rotated) {
  waitForPrevious();
  letNextStart();
  const int sequence = blockIdx.x;
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const int position = sequences.lengths[sequence] - 1;
  if (position < 0 || position >= sequences.maxPages * kPageTokens) return;
  const float2* turns = cosSin + static_cast<size_t>(position) * (kHeadDim / 2);

  if (blockIdx.y > 0) {
    const int first = ((blockIdx.y - 1) * kWarps + warp) * kHeadsPerWarp;
    uint8_t* rows = rotated + static_cast<size_t>(sequence) * Layout<type>::kQueryBytes;
    Halves x[kHeadsPerWarp];
#pragma unroll
    for (int i = 0; i < kHeadsPerWarp; ++i) {
      x[i] = loadHead(query + (static_cast<size_t>(sequence) * kHeads + first + i) * kHeadDim);
    }
#pragma unroll
    for (int i = 0; i < kHeadsPerWarp; ++i) {
      const int head = first + i;
      rotate(x[i], turns);
      const float largest = largestOfWarp(x[i]);
      const float factor = e4m3Factor(largest);
      storeHead<type>(rows, head, x[i].low, 4 * lane, factor);
      storeHead<type>(rows, head, x[i].high, kHeadDim / 2 + 4 * lane, factor);
      if (type == KvType::kE4m3 && lane == 0) {
        reinterpret_cast<float*>(rows + kHeads * kHeadDim)[head] = largest / kMaxE4m3 * kLogitScale;
      }
    }
    return;
  }

  const int token = position % kPageTokens;
  const int32_t pageId = sequences.pageTable[static_cast<size_t>(sequence) * sequences.maxPages + position / kPageTokens];
  uint8_t* page = pages + static_cast<size_t>(pageId) * Layout<type>::kPageBytes;
  // A page's first token clears it: what a page held before must not meet a probability of zero as NaN or infinity.
  if (token == 0) {
    for (int i = threadIdx.x; i < Layout<type>::kPageBytes / 16; i += 32 * kWarps) reinterpret_cast<uint4*>(page)[i] = {};
    __syncthreads();
  }
  float* scales = reinterpret_cast<float*>(page + Layout<type>::kKeyBytes);
  if (warp == 0) {
    Halves x = loadHead(key + static_cast<size_t>(sequence) * stride);
    rotate(x, turns);
    const float largest = largestOfWarp(x);
    const float factor = e4m3Factor(largest);
    storeHead<type>(page, token, x.low, 4 * lane, factor);
    storeHead<type>(page, token, x.high, kHeadDim / 2 + 4 * lane, factor);
    if (type == KvType::kE4m3 && lane == 0) scales[token] = largest / kMaxE4m3;
  } else if (warp == 1) {
    const Halves x = loadHead(value + static_cast<size_t>(sequence) * stride);
    const float largest = largestOfWarp(x);
    // the least power of two that brings all values within e4m3's range; decoding needs scales that are not too far apart
    const int exponent = largest > 0 ? max(kMinValueExponent, static_cast<int>(ceilf(log2f(largest / kMaxE4m3)))) : 0;
    const float factor = exp2f(static_cast<float>(-exponent));
    uint8_t* values = page + Layout<type>::kValueStart;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int dim = i < 4 ? 4 * lane + i : kHeadDim / 2 + 4 * lane + i - 4;
      const float element = i < 4 ? x.low[i % 4] : x.high[i % 4];
      uint8_t* to = values + Layout<type>::valueOffset(dim, token);
      if constexpr (type == KvType::kE4m3) {
        *to = static_cast<uint8_t>(packE4m3(element * factor, 0));
      } else {
        *reinterpret_cast<Bf16*>(to) = __float2bfloat16(element);
      }
    }
    if (type == KvType::kE4m3 && lane == 0) scales[kPageTokens + token] = kLogOffset + exponent;
  }
}

template <KvType type>
static cudaError_t append(const Bf16* query, const Bf16* key, const Bf16* value, int stride, const float2* cosSin, void* pages,
                          Sequences sequences, void* rotated, cudaStream_t stream) {
  return launch(appendKernel<type>, {dim3(sequences.numSequences, kQueryBlocks + 1), dim3(32 * kWarps)}, stream, query, key,
                value, stride, cosSin, static_cast<uint8_t*>(pages), sequences, static_cast<uint8_t*>(rotated));
}

}  // namespace mfa

cudaError_t ropeAppend(const Bf16* query, const Bf16* key, const Bf16* value, int keyValueStride, const float2* cosSin, KvPool pool,
                       Sequences sequences, void* rotated, int numHeads, cudaStream_t stream) {
  if (numHeads != mfa::kHeads || pool.headDim != mfa::kHeadDim || keyValueStride % 4 != 0) return cudaErrorInvalidValue;
  if (sequences.numSequences < 1) return cudaErrorInvalidValue;
  switch (pool.type) {
    case KvType::kE4m3:
      return mfa::append<KvType::kE4m3>(query, key, value, keyValueStride, cosSin, pool.pages, sequences, rotated, stream);
    case KvType::kBf16:
      return mfa::append<KvType::kBf16>(query, key, value, keyValueStride, cosSin, pool.pages, sequences, rotated, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

size_t rotatedBytes(KvType type, int numTokens, int numHeads, int headDim) {
  const size_t numValues = static_cast<size_t>(numTokens) * numHeads * headDim;
  switch (type) {
    case KvType::kE4m3:
      return numValues + static_cast<size_t>(numTokens) * numHeads * sizeof(float);
    case KvType::kBf16:
      return numValues * sizeof(Bf16);
    default:
      return numValues * sizeof(float);
  }
}

size_t kvPageBytes(KvType type, int headDim) {
  const size_t numValues = static_cast<size_t>(kPageTokens) * headDim;
  switch (type) {
    case KvType::kE4m3:
      return 2 * numValues + 2 * kPageTokens * sizeof(float);
    case KvType::kBf16:
      return 2 * numValues * sizeof(Bf16);
    default:
      return 2 * numValues * sizeof(float);
  }
}

}  // namespace rally
