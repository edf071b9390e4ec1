// Narrowing two f32 at once; the first value goes to the low half.
#pragma once

#include <cstdint>

namespace rally::mfa {

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

}  // namespace rally::mfa
