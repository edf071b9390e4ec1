// What a warp of the router multiplies: experts are the matrix instruction's M, tokens its N. Weights are split in two for tf32, whose
// 11 bits hold a bf16 exactly and, twice, a weight as well as f32 does.
#pragma once

#include "vectors.h"

namespace rally {

constexpr int kExpertTiles = 3;                    // of 16
constexpr int kExpertsAtOnce = 16 * kExpertTiles;  // Step-3's 48
constexpr int kChunk = 32;                         // hidden values: a lane of each quad has 8 that lie side by side

/// d [16 experts, 8 tokens] += a [16, 8] b [8, 8] in tf32, whose 13 bits less than f32 are cut off.
__device__ inline void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/// sums += router [48, 32] x [tokens, 32]ᵀ of a chunk. Lane 4 g + t has of x what tokens g, g + 8, … have at 8 t; the order of hidden
/// values within a chunk is free as long as it is that of both operands.
template <int tiles>
__device__ void multiplyChunk(float (&sums)[kExpertTiles][tiles][4], const float (&router)[kExpertsAtOnce][kChunk],
                              const Bf16x8 (&x)[tiles]) {
  const int row = threadIdx.x % 32 / 4;
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {  // 4 of the 8 values
    uint32_t tokens[tiles][4];
#pragma unroll
    for (int tile = 0; tile < tiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint32_t pair = x[tile].words[2 * half + i / 2];
        tokens[tile][i] = i % 2 ? pair & 0xffff0000 : pair << 16;
      }
    }
#pragma unroll
    for (int experts = 0; experts < kExpertTiles; ++experts) {
      uint4 rows[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float* const from = router[16 * experts + 8 * i + row];
        rows[i] = reinterpret_cast<const uint4*>(from)[(2 * t + half) ^ row];
      }
      const uint32_t all[2][4] = {{rows[0].x, rows[0].y, rows[0].z, rows[0].w}, {rows[1].x, rows[1].y, rows[1].z, rows[1].w}};
#pragma unroll
      for (int step = 0; step < 2; ++step) {
        uint32_t high[4], low[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const uint32_t value = all[i % 2][2 * step + i / 2];
          high[i] = value & 0xffffe000;
          low[i] = __float_as_uint(__uint_as_float(value) - __uint_as_float(high[i]));
        }
#pragma unroll
        for (int tile = 0; tile < tiles; ++tile) {
          const uint32_t of[2] = {tokens[tile][2 * step], tokens[tile][2 * step + 1]};
          multiply(sums[experts][tile], high, of);
          multiply(sums[experts][tile], low, of);
        }
      }
    }
  }
}

}  // namespace rally
