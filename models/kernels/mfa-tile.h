// One page against the 64 query heads, by one warpgroup; the softmax runs on in powers of two. A thread holds heads r and r + 8
// (r = 16 (t / 32) + t % 32 / 4) and, of the page's tokens and the output's dimensions, those of its accumulators.
#pragma once

#include "mfa-narrow.h"
#include "mfa-page.h"
#include "wgmma.h"

namespace rally::mfa {

/// Running softmax of a thread's two heads, and their outputs in their scale: output = sum of 2^(logit - maximum + kShift) * value.
struct State {
  float maximum[2];
  float sum[2];  // of this thread's tokens alone
  float output[4][32];  // [64 dimensions each, accumulators]
};

/// e4m3 probabilities reach from 2^-9 to 448: the largest becomes 2^8.
constexpr float kShift = 8;

__device__ inline float exp2Fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ inline float maxOfQuad(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}
__device__ inline float sumOfQuad(float x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}

/// Describes a K-major operand with rows of 64 bytes, 64-byte swizzled (8 rows = 512 bytes).
__device__ inline uint64_t swizzledOperand64(const void* address) {
  const uint64_t start = (__cvta_generic_to_shared(address) & 0x3ffff) >> 4;
  return start | (uint64_t{1} << 16) | (uint64_t{512 >> 4} << 32) | (uint64_t{2} << 62);
}

/// scores [64 heads, 64 tokens] = q kᵀ; complete on return.
template <KvType type>
__device__ void scorePage(float (&scores)[32], const uint8_t* query, const uint8_t* keys) {
  wgmmaBegin();
#pragma unroll
  for (int byte = 0; byte < kHeadDim * Layout<type>::kValueSize; byte += 32) {
    const int offset = byte / 128 * 8192 + byte % 128;
    if constexpr (type == KvType::kE4m3) {
      WgmmaE4m3<64>::fromShared(scores, swizzledOperand(query + offset), swizzledOperand(keys + offset), byte > 0);
    } else {
      WgmmaBf16<64>::fromShared(scores, swizzledOperand(query + offset), swizzledOperand(keys + offset), byte > 0);
    }
  }
  wgmmaCommit();
  wgmmaWait<0>();
}

/// Turns scores into probabilities in the state's new scale and says by how much its older sums and outputs shrink.
template <KvType type>
__device__ void softmaxPage(float (&scores)[32], State& state, float (&shrink)[2], const float (&queryScales)[2],
                            const float* scales, int numValid) {
  const int column = threadIdx.x % 4 * 2;
  float2 logOfScale[8];
  if constexpr (type == KvType::kE4m3) {
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float2 key = *reinterpret_cast<const float2*>(scales + 8 * j + column);
      logOfScale[j] = *reinterpret_cast<const float2*>(scales + kPageTokens + 8 * j + column);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float& x = scores[4 * j + 2 * half];
        float& y = scores[4 * j + 2 * half + 1];
        x = fmaf(x * key.x, queryScales[half], logOfScale[j].x - kLogOffset);
        y = fmaf(y * key.y, queryScales[half], logOfScale[j].y - kLogOffset);
      }
    }
  }
  if (numValid < kPageTokens) {
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      if (i / 4 * 8 + column + i % 2 >= numValid) scores[i] = -INFINITY;
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float maximum = state.maximum[half];
#pragma unroll
    for (int j = 0; j < 8; ++j) maximum = fmaxf(maximum, fmaxf(scores[4 * j + 2 * half], scores[4 * j + 2 * half + 1]));
    maximum = maxOfQuad(maximum);
    // bf16 scores are not in the softmax's scale yet
    const float unit = type == KvType::kE4m3 ? 1.0f : kLogitScale;
    shrink[half] = exp2Fast((state.maximum[half] - maximum) * unit);
    state.maximum[half] = maximum;
    const float origin = maximum * unit - kShift;
    float sum = 0;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      float& x = scores[4 * j + 2 * half];
      float& y = scores[4 * j + 2 * half + 1];
      if constexpr (type == KvType::kE4m3) {
        // the value scale is in the exponent: the sum of probabilities takes it out again
        x = exp2Fast(x - origin);
        y = exp2Fast(y - origin);
        sum = fmaf(x, __uint_as_float(0x3f800000u - (__float_as_uint(logOfScale[j].x) << 23)), sum);
        sum = fmaf(y, __uint_as_float(0x3f800000u - (__float_as_uint(logOfScale[j].y) << 23)), sum);
      } else {
        x = exp2Fast(fmaf(x, unit, -origin));
        y = exp2Fast(fmaf(y, unit, -origin));
        sum += x + y;
      }
    }
    state.sum[half] = fmaf(state.sum[half], shrink[half], sum);
  }
}

/// Probabilities as the register operand of the product with the values, [step][4].
template <KvType type>
__device__ void packProbabilities(const float (&scores)[32], uint32_t (&packed)[Layout<type>::kIsFp8 ? 2 : 4][4]) {
  constexpr int kSteps = Layout<type>::kIsFp8 ? 2 : 4;
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
#pragma unroll
    for (int part = 0; part < 4; ++part) {
      const int half = part % 2;
      if constexpr (type == KvType::kE4m3) {
        const int d = 4 * (4 * step + part / 2 * 2) + 2 * half;
        packed[step][part] = packE4m3(scores[d], scores[d + 1]) | packE4m3(scores[d + 4], scores[d + 5]) << 16;
      } else {
        const int d = 4 * (2 * step + part / 2) + 2 * half;
        packed[step][part] = packBf16(scores[d], scores[d + 1]);
      }
    }
  }
}

/// Starts the page's share of 64 output dimensions.
template <KvType type>
__device__ void startValues(float (&share)[32], const uint32_t (&packed)[Layout<type>::kIsFp8 ? 2 : 4][4], const uint8_t* values,
                            int chunk) {
  values += chunk * (Layout<type>::kValueBytes / 4);
  wgmmaBegin();
#pragma unroll
  for (int step = 0; step < (Layout<type>::kIsFp8 ? 2 : 4); ++step) {
    if constexpr (type == KvType::kE4m3) {
      WgmmaE4m3<64>::fromRegisters(share, packed[step], swizzledOperand64(values + 32 * step), step > 0);
    } else {
      WgmmaBf16<64>::fromRegisters(share, packed[step], swizzledOperand(values + 32 * step), step > 0);
    }
  }
  wgmmaCommit();
}

__device__ inline void addShare(float (&output)[32], const float (&share)[32], const float (&shrink)[2]) {
#pragma unroll
  for (int i = 0; i < 32; ++i) output[i] = fmaf(output[i], shrink[i / 2 % 2], share[i]);
}

/// Adds the page's share to the outputs. It is summed apart and added in f32: the e4m3 instructions keep only some 14 bits of a
/// running sum. `scores` is overwritten.
template <KvType type>
__device__ void addValues(State& state, float (&scores)[32], const uint32_t (&packed)[Layout<type>::kIsFp8 ? 2 : 4][4],
                          const float (&shrink)[2], const uint8_t* values) {
  float other[32];
  startValues<type>(scores, packed, values, 0);
  startValues<type>(other, packed, values, 1);
  wgmmaWait<1>();
  addShare(state.output[0], scores, shrink);
  startValues<type>(scores, packed, values, 2);
  wgmmaWait<1>();
  addShare(state.output[1], other, shrink);
  startValues<type>(other, packed, values, 3);
  wgmmaWait<1>();
  addShare(state.output[2], scores, shrink);
  wgmmaWait<0>();
  keepOperand(packed);
  addShare(state.output[3], other, shrink);
}

}  // namespace rally::mfa
