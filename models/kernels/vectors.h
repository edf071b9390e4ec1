// Bf16 values in vectors of 4 and 8, as loads and stores want them, and as f32.
#pragma once

#include "kernels.h"

namespace rally {

/// Words, the earlier value of two in the lower half: arithmetic on the type itself costs more registers, and copies of it fall
/// apart into narrow loads and stores.
using Bf16x4 = uint2;
struct alignas(16) Bf16x8 {
  uint32_t words[4];
};

__device__ inline float2 widenPair(uint32_t word) { return {__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000)}; }
__device__ inline uint32_t narrowPair(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return reinterpret_cast<const uint32_t&>(pair);
}

__device__ inline float4 widen(Bf16x4 v) {
  const float2 low = widenPair(v.x), high = widenPair(v.y);
  return {low.x, low.y, high.x, high.y};
}
__device__ inline Bf16x4 narrow(float4 v) { return {narrowPair(v.x, v.y), narrowPair(v.z, v.w)}; }

__device__ inline void widen(Bf16x8 v, float (&values)[8]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = widenPair(v.words[i]);
    values[2 * i] = pair.x;
    values[2 * i + 1] = pair.y;
  }
}
__device__ inline Bf16x8 narrow(const float (&values)[8]) {
  Bf16x8 v;
#pragma unroll
  for (int i = 0; i < 4; ++i) v.words[i] = narrowPair(values[2 * i], values[2 * i + 1]);
  return v;
}

/// Sum, or largest, over `lanes` neighbouring lanes, the same in each; every lane of the warp takes part.
template <int lanes = 32>
__device__ inline float sumOfLanes(float value) {
#pragma unroll
  for (int distance = lanes / 2; distance > 0; distance /= 2) value += __shfl_xor_sync(~0u, value, distance);
  return value;
}
template <int lanes = 32>
__device__ inline float largestOfLanes(float value) {
#pragma unroll
  for (int distance = lanes / 2; distance > 0; distance /= 2) value = fmaxf(value, __shfl_xor_sync(~0u, value, distance));
  return value;
}

}  // namespace rally
