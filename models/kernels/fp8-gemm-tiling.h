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
  /// Beyond 64 tokens the producer is a whole warpgroup that gives its registers to those that multiply. What a block starts with
  /// is little enough, in each of a multiprocessor's four register files, for one of a norm beside it (128 tokens: 3 warps of 104
  /// registers and 4 of 48).
  static constexpr bool kTradesRegisters = tokens > kM;
  static constexpr int kThreads = kConsumers + (kTradesRegisters ? kWarpgroup : 32);
  static constexpr int kStartRegisters = tokens == 2 * kM ? 104 : kWarpgroups == 3 ? 128 : 168;
  static constexpr int kConsumerRegisters = tokens == 2 * kM ? 144 : kWarpgroups == 3 ? 160 : 232;
  static constexpr int kProducerRegisters = tokens == 2 * kM ? 24 : kWarpgroups == 3 ? 32 : 40;

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
      if constexpr (kTokensAreM) {
        const float* const ofRow = scales + rowOf(tile);
        const float scale[2] = {weightScale * ofRow[0], weightScale * ofRow[8]};
        wgmmaWait<0>();
#pragma unroll
        for (int i = 0; i < kN / 2; ++i) sums[tile][i] = fmaf(product[i], scale[i / 2 % 2], sums[tile][i]);
      } else {
        wgmmaWait<0>();
#pragma unroll
        for (int i = 0; i < kN / 2; ++i) sums[tile][i] = fmaf(product[i], weightScale * scales[columnOf(i)], sums[tile][i]);
      }
    }
  }

  /// To shared memory as [tokens, kSumStride].
  __device__ void store(float* shared, int numTokens) const {
    if constexpr (kTokensAreM) {
      const int firstColumn = kN < kGroup ? threadIdx.x / kWarpgroup * kN : 0;
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
        for (int i = 0; i < kN / 2; i += 2) {
          const int token = rowOf(tile) + i / 2 % 2 * 8;
          float2* const at = reinterpret_cast<float2*>(shared + token * kSumStride + firstColumn + columnOf(i));
          if (token < numTokens) *at = {sums[tile][i], sums[tile][i + 1]};
        }
      }
    } else {
#pragma unroll
      for (int i = 0; i < kN / 2; ++i) {
        const int token = columnOf(i);
        const int row = rowOf(0) + i / 2 % 2 * 8;
        if (token < numTokens) shared[token * kSumStride + row] = sums[0][i];
      }
    }
  }

 private:
  /// The block's row of M that this thread's first values of a tile belong to.
  __device__ static int rowOf(int tile) {
    const int inTile = threadIdx.x % kWarpgroup / 32 * 16 + threadIdx.x % 32 / 4;
    return kTokensAreM && kN < kGroup ? inTile : (static_cast<int>(threadIdx.x) / kWarpgroup * kTiles + tile) * kM + inTile;
  }
  __device__ static int columnOf(int i) { return i / 4 * 8 + 2 * (threadIdx.x % 4) + i % 2; }
};

}  // namespace rally::gemm
