// How a block's 128 rows of weights x all tokens are cut into wgmma's tiles, and the product of one step with its scales. Where
// tokens fill wgmma's M they are it: a thread then needs the scales of few tokens, and shared memory, which feeds the matrix units
// too, is not spent on reading scales. Fewer tokens are its N. Both ways give a token the same bits.
#pragma once

#include "fp8-gemm-ring.h"
#include "wgmma.h"

namespace rally::gemm {

constexpr int kWarpgroup = 128;
constexpr int kM = 64;  // of wgmma

template <int tokens>
struct Tiling {
  static constexpr bool kTokensAreM = tokens >= kM;
  static constexpr int kWarpgroups = tokens == 3 * kM ? 3 : 2;
  static constexpr int kTiles = tokens == 4 * kM ? 2 : 1;  // of a warpgroup, along M
  static constexpr int kN = !kTokensAreM ? tokens : tokens == kM ? kGroup / 2 : kGroup;
  static constexpr int kConsumers = kWarpgroups * kWarpgroup;
  static constexpr int kConsumerWarps = kConsumers / 32;
  /// Up to 128 tokens, a block leaves registers for one of a small kernel beside it; beyond, the producer is a whole warpgroup that
  /// gives its registers to those that multiply.
  static constexpr bool kTradesRegisters = tokens > 2 * kM;
  static constexpr int kThreads = kConsumers + (kTradesRegisters ? kWarpgroup : 32);
  static constexpr int kRegisters = kTradesRegisters ? (kWarpgroups == 3 ? 128 : 168) : 152;  // of a thread, at the start
  static constexpr int kConsumerRegisters = kWarpgroups == 3 ? 160 : 232;
  static constexpr int kProducerRegisters = kWarpgroups == 3 ? 32 : 40;

  /// A thread's sums, each tile as wgmma holds D.
  float sums[kTiles][kN / 2] = {};

  /// sums += this step's product times both scales.
  __device__ void multiplyStep(const uint8_t* weights, const uint8_t* activations, const float* scales, float weightScale) {
    const int warpgroup = threadIdx.x / kWarpgroup;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const int m = (warpgroup * kTiles + tile) * kM;  // first of this tile
      uint64_t a, b;
      if constexpr (kTokensAreM) {
        a = swizzledOperand(activations + (kN < kGroup ? 0 : m) * kGroup);
        b = swizzledOperand(weights + (kN < kGroup ? warpgroup * kN : 0) * kGroup);
      } else {
        a = swizzledOperand(weights + m * kGroup);
        b = swizzledOperand(activations);
      }
      float product[kN / 2];
      wgmmaBegin();
#pragma unroll
      for (int byte = 0; byte < kGroup; byte += 32) {
        WgmmaE4m3<kN>::fromShared(product, a + byte / 16, b + byte / 16, byte > 0);
      }
      wgmmaCommit();
      addUp(product, tile, scales, weightScale);
    }
  }

  /// Calls put(token, column of the row tile, sums) with what this thread has: float2 of two columns, or float.
  template <typename Put>
  __device__ void each(int numTokens, Put put) const {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      if constexpr (kTokensAreM) {
        const int firstColumn = kN < kGroup ? threadIdx.x / kWarpgroup * kN : 0;
#pragma unroll
        for (int i = 0; i < kN / 2; i += 2) {
          const int token = rowOf(tile) + i / 2 % 2 * 8;
          if (token < numTokens) put(token, firstColumn + columnOf(i), float2{sums[tile][i], sums[tile][i + 1]});
        }
      } else {
#pragma unroll
        for (int i = 0; i < kN / 2; ++i) {
          if (columnOf(i) < numTokens) put(columnOf(i), rowOf(tile) + i / 2 % 2 * 8, sums[tile][i]);
        }
      }
    }
  }

 private:
  /// When the product is finished.
  __device__ void addUp(float (&product)[kN / 2], int tile, const float* scales, float weightScale) {
    float scale[2] = {};
    if constexpr (kTokensAreM) {
      scale[0] = weightScale * scales[rowOf(tile)];
      scale[1] = weightScale * scales[rowOf(tile) + 8];
    }
    wgmmaWait<0>();
#pragma unroll
    for (float& value : product) asm volatile("" : "+f"(value)::"memory");  // not to be read before the wait
#pragma unroll
    for (int i = 0; i < kN / 2; ++i) {
      const float factor = kTokensAreM ? scale[i / 2 % 2] : weightScale * scales[columnOf(i)];
      sums[tile][i] = fmaf(product[i], factor, sums[tile][i]);
    }
  }

  /// The block's row of M that this thread's first values of a tile belong to.
  __device__ static int rowOf(int tile) {
    const int inTile = threadIdx.x % kWarpgroup / 32 * 16 + threadIdx.x % 32 / 4;
    return kTokensAreM && kN < kGroup ? inTile : (static_cast<int>(threadIdx.x) / kWarpgroup * kTiles + tile) * kM + inTile;
  }
  __device__ static int columnOf(int i) { return i / 4 * 8 + 2 * (threadIdx.x % 4) + i % 2; }
};

}  // namespace rally::gemm
