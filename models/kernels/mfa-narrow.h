// Narrowing two f32 at once; the first value goes to the low half.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

namespace rally::mfa {

constexpr float kMaxE4m3 = 448.0f;
/// What brings a largest value to e4m3's; 0 where that would overflow.
__device__ inline float e4m3Factor(float largest) { return largest > 1e-35f ? kMaxE4m3 / largest : 0; }

/// Saturates at 448; the upper 16 bits are zero.
__device__ inline uint32_t packE4m3(float low, float high) {
  uint16_t packed;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(packed) : "f"(high), "f"(low));
  return packed;
}
__device__ inline uint32_t packBf16(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

__device__ inline uint32_t packHalf(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}
__device__ inline float2 unpackHalf(uint32_t packed) { return __half22float2(reinterpret_cast<const __half2&>(packed)); }

}  // namespace rally::mfa
