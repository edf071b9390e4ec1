// Bf16 values in vectors of 4 and 8, as loads and stores want them, and as f32.
#pragma once

#include "kernels.h"

namespace rally {

struct alignas(8) Bf16x4 {
  __nv_bfloat162 low, high;
};
struct alignas(16) Bf16x8 {
  __nv_bfloat162 pairs[4];
};

__device__ inline float4 widen(Bf16x4 v) {
  const float2 low = __bfloat1622float2(v.low), high = __bfloat1622float2(v.high);
  return {low.x, low.y, high.x, high.y};
}
__device__ inline Bf16x4 narrow(float4 v) { return {__floats2bfloat162_rn(v.x, v.y), __floats2bfloat162_rn(v.z, v.w)}; }

__device__ inline void widen(Bf16x8 v, float (&values)[8]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = __bfloat1622float2(v.pairs[i]);
    values[2 * i] = pair.x;
    values[2 * i + 1] = pair.y;
  }
}
__device__ inline Bf16x8 narrow(const float (&values)[8]) {
  Bf16x8 v;
#pragma unroll
  for (int i = 0; i < 4; ++i) v.pairs[i] = __floats2bfloat162_rn(values[2 * i], values[2 * i + 1]);
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
