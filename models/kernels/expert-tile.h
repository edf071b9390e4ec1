// The consumers' part of the expert feed-forward kernel: two warpgroups multiply 256 weight rows (wgmma's M; warpgroup w has rows
// 128 w ..) with up to 128 tokens (N). Weight and activation tiles come through two rings of stages in shared memory.
#pragma once

#include "expert-args.h"
#include "expert-sync.h"
#include "wgmma.h"

namespace rally::expert {

constexpr int kWeightStages = 5;
constexpr int kActivationStages = 3;

struct Shared {
  alignas(1024) uint8_t weights[kWeightStages][2 * kTileBytes];
  alignas(1024) uint8_t activations[kActivationStages][kTileBytes];
  float scales[kActivationStages][kTileTokens];
  Barrier fullWeights[kWeightStages], emptyWeights[kWeightStages];
  Barrier fullActivations[kActivationStages], emptyActivations[kActivationStages];
  uint32_t largest[kTileTokens];  // bits of the largest magnitude per token; zero between items
  Plan plan;
  int counts[12][kMaxLocal];
};

/// Where a role is in a ring.
template <int numStages>
struct Turn {
  int stage = 0;
  uint32_t parity = 0;
  __device__ void next() {
    if (++stage == numStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

/// Columns of the matrix instruction for so many tokens.
__device__ inline int columnsFor(int numRows) { return numRows <= 16 ? 16 : numRows <= 64 ? 64 : 128; }

/// One consumer thread. Its sums: sums[m][4 j + 2 h + c] is row 64 m + 16 warp + lane / 4 + 8 h of the warpgroup's 128, token
/// 8 j + 2 (lane % 4) + c.
struct Consumer {
  const Args& args;
  Shared& shared;
  int thread;  // 0 to 255
  int group;   // warpgroup, 0 or 1
  int warp;    // within the warpgroup
  int lane;
  Turn<kWeightStages> weightTurn;
  Turn<kActivationStages> activationTurn;

  template <int n>
  __device__ void addSteps(float (&sums)[2][n / 2], const Segment& segment, const float* weightScales, bool idle) {
    float weightScale = idle ? 0.f : __ldg(weightScales + segment.kBegin);
    for (int k = segment.kBegin; k < segment.kEnd; ++k) {
      const float nextScale = idle || k + 1 == segment.kEnd ? 0.f : __ldg(weightScales + k + 1);
      wait(&shared.fullWeights[weightTurn.stage], weightTurn.parity);
      wait(&shared.fullActivations[activationTurn.stage], activationTurn.parity);
      if (!idle) {
        const uint64_t a = swizzledOperand(shared.weights[weightTurn.stage] + group * kTileBytes);
        const uint64_t b = swizzledOperand(shared.activations[activationTurn.stage]);
        const float2* scales = reinterpret_cast<const float2*>(shared.scales[activationTurn.stage]) + lane % 4;
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          float part[n / 2];
          wgmmaBegin();
#pragma unroll
          for (int step = 0; step < 4; ++step)  // 32 bytes of K each; the address counts 16 bytes
            WgmmaE4m3<n>::fromShared(part, a + m * (kTileBytes / 2 / 16) + 2 * step, b + 2 * step, step > 0);
          wgmmaCommit();
          wgmmaWait<0>();
#pragma unroll
          for (int j = 0; j < n / 8; ++j) {
            const float2 scale = scales[4 * j];
            const float first = scale.x * weightScale, second = scale.y * weightScale;
            sums[m][4 * j] += part[4 * j] * first;
            sums[m][4 * j + 1] += part[4 * j + 1] * second;
            sums[m][4 * j + 2] += part[4 * j + 2] * first;
            sums[m][4 * j + 3] += part[4 * j + 3] * second;
          }
        }
      }
      __syncwarp();
      if (lane < 2) arriveAt(&shared.emptyWeights[weightTurn.stage], lane);
      weightTurn.next();
      if (k + 1 < segment.kEnd) release();  // the last stage is the epilogue's
      weightScale = nextScale;
    }
  }

  /// Gives an activation stage back to the producers of both blocks.
  __device__ void release() {
    __syncwarp();
    if (lane < 2) arriveAt(&shared.emptyActivations[activationTurn.stage], lane);
    activationTurn.next();
  }

  __device__ float4* handedSums(int phase, int block) const {
    return reinterpret_cast<float4*>(args.workspace.sums + size_t(phase * kMaxBlocks + block) * kItemRows * kTileTokens) +
           thread;
  }

  template <int n>
  __device__ void handOver(const float (&sums)[2][n / 2], int phase) {
    release();
    float4* out = handedSums(phase, blockIdx.x);
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int j = 0; j < n / 8; ++j)
        __stcg(out + (m * (n / 8) + j) * kConsumers,
               make_float4(sums[m][4 * j], sums[m][4 * j + 1], sums[m][4 * j + 2], sums[m][4 * j + 3]));
    consumerBarrier();
    if (thread == 0) announce(args.workspace.progress.handedOver + phase * kMaxBlocks + blockIdx.x);
  }

  template <int n>
  __device__ void takeOver(float (&sums)[2][n / 2], int phase) {
    waitAtLeast(args.workspace.progress.handedOver + phase * kMaxBlocks + blockIdx.x - 2, 1);
    const float4* in = handedSums(phase, blockIdx.x - 2);
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int j = 0; j < n / 8; ++j) {
        const float4 value = __ldcg(in + (m * (n / 8) + j) * kConsumers);
        sums[m][4 * j] = value.x;
        sums[m][4 * j + 1] = value.y;
        sums[m][4 * j + 2] = value.z;
        sums[m][4 * j + 3] = value.w;
      }
  }

  /// SwiGLU and quantisation of 128 intermediate values per token. m = 0 is gate, m = 1 the matching up.
  template <int n>
  __device__ void activate(float (&sums)[2][n / 2], const Segment& segment) {
#pragma unroll
    for (int i = 0; i < n / 2; ++i) sums[0][i] = sums[0][i] / (1.f + __expf(-sums[0][i])) * sums[1][i];
#pragma unroll
    for (int j = 0; j < n / 8; ++j)
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const uint32_t upper = __float_as_uint(fabsf(sums[0][4 * j + c]));
        const uint32_t lower = __float_as_uint(fabsf(sums[0][4 * j + 2 + c]));
        uint32_t largest = max(upper, lower);  // as integers, so that NaN is the largest
        for (int distance = 4; distance < 32; distance *= 2)
          largest = max(largest, __shfl_xor_sync(~0u, largest, distance));
        if (lane < 4) atomicMax(&shared.largest[8 * j + 2 * lane + c], largest);
      }
    consumerBarrier();  // now nobody reads the activation stage any more
    uint8_t* staging = shared.activations[activationTurn.stage];
#pragma unroll
    for (int j = 0; j < n / 8; ++j)
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const int token = 8 * j + 2 * (lane % 4) + c;
        const float largest = __uint_as_float(shared.largest[token]);
        const float inverse = largest > 0.f ? 448.f / largest : 0.f;
        uint8_t* at = staging + token * 128 + ((group * 4 + warp) ^ (token % 8)) * 16 + lane / 4;
        for (int h = 0; h < 2; ++h)
          at[8 * h] = __nv_cvt_float_to_fp8(sums[0][4 * j + 2 * h + c] * inverse, __NV_SATFINITE, __NV_E4M3);
      }
    consumerBarrier();
    const size_t tile = size_t(segment.tile) * args.shape.interGroups() + segment.rowPair;
    const PackedActivations& out = args.workspace.middle;
    for (int i = thread; i < segment.numRows * 8; i += kConsumers)
      reinterpret_cast<uint4*>(out.data + tile * kTileBytes)[i] = reinterpret_cast<const uint4*>(staging)[i];
    if (thread < n) {
      if (thread < segment.numRows)
        out.scales[tile * kTileTokens + thread] = __uint_as_float(shared.largest[thread]) / 448.f;
      shared.largest[thread] = 0;
    }
    fenceGlobalForAsync();
    fenceForAsync();
    release();
    consumerBarrier();
    if (thread == 0) announce(args.workspace.progress.activated + tile);
  }

  template <int n>
  __device__ void storeRows(const float (&sums)[2][n / 2], const Segment& segment, bool idle) {
    release();
    if (!idle) {
      const int column = segment.rowPair * kItemRows + group * 128 + warp * 16 + lane / 4;
      float* out = args.workspace.rows + size_t(segment.firstRow) * args.shape.hidden + column;
#pragma unroll
      for (int j = 0; j < n / 8; ++j)
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          const int token = 8 * j + 2 * (lane % 4) + c;
          if (token >= segment.numRows) continue;
          for (int m = 0; m < 2; ++m)
            for (int h = 0; h < 2; ++h)
              __stcg(out + size_t(token) * args.shape.hidden + 64 * m + 8 * h, sums[m][4 * j + 2 * h + c]);
        }
    }
    consumerBarrier();
    if (thread == 0) announce(args.workspace.progress.down + segment.rowPair);
  }

  template <int n>
  __device__ void runSegment(const Segment& segment, int phase) {
    const Shape& shape = args.shape;
    const Weights& weights = phase == 0 ? args.weights.gateUp : args.weights.down;
    const int rowTiles = phase == 0 ? 2 * shape.interGroups() : shape.hiddenGroups();
    const int kSteps = phase == 0 ? shape.hiddenGroups() : shape.interGroups();
    const int rowTile = 2 * segment.rowPair + group;
    const bool idle = rowTile >= rowTiles;
    const bool absent = 2 * segment.rowPair >= rowTiles;
    float sums[2][n / 2] = {};
    if (segment.kBegin > 0 && !absent) takeOver<n>(sums, phase);
    addSteps<n>(sums, segment, weights.scales + (size_t(segment.expert) * rowTiles + rowTile) * kSteps, idle);
    if (absent)
      release();
    else if (segment.kEnd < kSteps)
      handOver<n>(sums, phase);
    else if (phase == 0)
      activate<n>(sums, segment);
    else
      storeRows<n>(sums, segment, idle);
  }

  __device__ void run(const Segment& segment, int phase) {
    switch (columnsFor(segment.numRows)) {
      case 16:
        return runSegment<16>(segment, phase);
      case 64:
        return runSegment<64>(segment, phase);
      default:
        return runSegment<128>(segment, phase);
    }
  }
};

}  // namespace rally::expert
