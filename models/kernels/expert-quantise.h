// Values from the registers of a matrix product to 16-byte chunks.
#pragma once

#include "kernels.h"

namespace rally::expert {

/// Word i of the result is word (lane % 4) of the quad's thread i.
__device__ inline uint4 transposeQuad(const uint32_t (&words)[4]) {
  const bool upper = threadIdx.x & 2, odd = threadIdx.x & 1;  // first the pairs, then within them
  const uint32_t given0 = __shfl_xor_sync(~0u, upper ? words[0] : words[2], 2);
  const uint32_t given1 = __shfl_xor_sync(~0u, upper ? words[1] : words[3], 2);
  const uint32_t low0 = upper ? given0 : words[0], low1 = upper ? given1 : words[1];
  const uint32_t high0 = upper ? words[2] : given0, high1 = upper ? words[3] : given1;
  const uint32_t givenLow = __shfl_xor_sync(~0u, odd ? low0 : low1, 1);
  const uint32_t givenHigh = __shfl_xor_sync(~0u, odd ? high0 : high1, 1);
  return {odd ? givenLow : low0, odd ? low1 : givenLow, odd ? givenHigh : high0, odd ? high1 : givenHigh};
}

/// values[4 j + 2 h + c] of a thread is column 8 j + 2 (lane % 4) + c of a row that the four threads of a quad share. Multiplies
/// them, rounds them to e4m3, and returns columns 16 (lane % 4) .. + 15.
__device__ inline uint4 quantiseChunk(const float (&values)[32], int h, float factor) {
  uint32_t words[4];  // word c: columns 16 c + 2 (lane % 4), + 1, + 8, + 9
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    const float* low = values + 8 * c + 2 * h;
    const uint32_t first = __nv_cvt_float2_to_fp8x2(make_float2(low[0] * factor, low[1] * factor), __NV_SATFINITE, __NV_E4M3);
    const uint32_t second = __nv_cvt_float2_to_fp8x2(make_float2(low[4] * factor, low[5] * factor), __NV_SATFINITE, __NV_E4M3);
    words[c] = first | second << 16;
  }
  const uint4 from = transposeQuad(words);
  return {__byte_perm(from.x, from.y, 0x5410), __byte_perm(from.z, from.w, 0x5410), __byte_perm(from.x, from.y, 0x7632),
          __byte_perm(from.z, from.w, 0x7632)};
}

}  // namespace rally::expert
