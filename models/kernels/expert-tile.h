// The consumers' part of the expert feed-forward kernel: two warpgroups multiply 256 weight rows (wgmma's M; warpgroup w has rows
// 128 w ..) with up to 128 tokens (N). Weight and activation tiles come through two rings of stages in shared memory.
#pragma once

#include "expert-args.h"
#include "expert-sync.h"
#include "wgmma.h"

namespace rally::expert {

constexpr int kWeightStages = 5;
constexpr int kActivationStages = 3;

#ifdef RALLY_RACECHECK  // for racecheck, which does not see that __syncwarp puts all lanes' reads before the arrival of one of them
constexpr int kArrivalsPerWarp = 32;
#else
constexpr int kArrivalsPerWarp = 1;
#endif

struct Shared {
  alignas(1024) uint8_t weights[kWeightStages][2 * kTileBytes];
  alignas(1024) uint8_t activations[kActivationStages][kTileBytes];
  float scales[kActivationStages][kTileTokens];
  Barrier fullWeights[kWeightStages], emptyWeights[kWeightStages];
  Barrier fullActivations[kActivationStages], emptyActivations[kActivationStages];
  uint32_t largest[kTileTokens];  // bits of the largest magnitude per token; zero between items
  Plan plan;
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

/// As swizzledOperand, with the address apart: moving it costs half as much.
struct Operand {
  uint32_t address;
  __device__ explicit Operand(const uint8_t* data) : address(static_cast<uint32_t>(swizzledOperand(data))) {}
  __device__ uint64_t at(int bytes) const { return uint64_t{0x40000040} << 32 | (address + bytes / 16); }
};

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

  /// part = 64 weight rows times w tokens over the 128 bytes of K of a stage; begun, not waited for.
  template <int w>
  static __device__ void multiply(float (&part)[w / 2], Operand a, Operand b) {
    wgmmaBegin();
#pragma unroll
    for (int step = 0; step < 4; ++step)  // 32 bytes of K each
      WgmmaE4m3<w>::fromShared(part, a.at(32 * step), b.at(32 * step), step > 0);
    wgmmaCommit();
  }

  /// sums of tokens 64 half.. += part, scaled.
  template <int w, int half, int n>
  __device__ void promote(float (&sums)[n / 2], const float (&part)[w / 2], float weightScale) const {
    const float2* scales = reinterpret_cast<const float2*>(shared.scales[activationTurn.stage] + half * w) + lane % 4;
#pragma unroll
    for (int j = 0; j < w / 8; ++j) {
      const float2 scale = scales[4 * j];
      const float first = scale.x * weightScale, second = scale.y * weightScale;
      float* sum = sums + half * (w / 2) + 4 * j;
      sum[0] += part[4 * j] * first;
      sum[1] += part[4 * j + 1] * second;
      sum[2] += part[4 * j + 2] * first;
      sum[3] += part[4 * j + 3] * second;
    }
  }

  /// One step of K. The matrix unit works on the next quarter (half, for up to 64 tokens) while the last one is promoted.
  template <int n>
  __device__ void addStep(float (&sums)[2][n / 2], float weightScale) {
    constexpr int w = n < 64 ? n : 64;
    const uint8_t* weights = shared.weights[weightTurn.stage] + group * kTileBytes;
    const Operand gate(weights), up(weights + kTileBytes / 2);  // or upper and lower rows
    const Operand b(shared.activations[activationTurn.stage]), secondHalf(shared.activations[activationTurn.stage] + 64 * kGroup);
    float even[w / 2], odd[w / 2];
    multiply<w>(even, gate, b);
    if constexpr (n == w) {
      multiply<w>(odd, up, b);
      wgmmaWait<1>();
      promote<w, 0, n>(sums[0], even, weightScale);
    } else {
      multiply<w>(odd, gate, secondHalf);
      wgmmaWait<1>();
      promote<w, 0, n>(sums[0], even, weightScale);
      multiply<w>(even, up, b);
      wgmmaWait<1>();
      promote<w, 1, n>(sums[0], odd, weightScale);
      multiply<w>(odd, up, secondHalf);
      wgmmaWait<1>();
      promote<w, 0, n>(sums[1], even, weightScale);
    }
    wgmmaWait<0>();
    giveBack(shared.emptyWeights[weightTurn.stage]);
    promote<w, n / w - 1, n>(sums[1], odd, weightScale);
  }

  template <int n>
  __device__ void addSteps(float (&sums)[2][n / 2], const Segment& segment, const float* weightScales, bool idle) {
    float weightScale = idle ? 0.f : __ldg(weightScales + segment.kBegin);
    for (int k = segment.kBegin; k < segment.kEnd; ++k) {
      const float nextScale = idle || k + 1 == segment.kEnd ? 0.f : __ldg(weightScales + k + 1);
      wait(&shared.fullWeights[weightTurn.stage], weightTurn.parity);
      wait(&shared.fullActivations[activationTurn.stage], activationTurn.parity);
      if (idle)
        giveBack(shared.emptyWeights[weightTurn.stage]);
      else
        addStep<n>(sums, weightScale);
      weightTurn.next();
      if (k + 1 < segment.kEnd) release();  // the last stage is the epilogue's
      weightScale = nextScale;
    }
  }

  /// Tells the producers of both blocks that this warp needs the stage no more.
  __device__ void giveBack(Barrier& empty) const {
    __syncwarp();
    for (int rank = 0; rank < 2; ++rank)
      if (kArrivalsPerWarp == 32 || lane == rank) arriveAt(&empty, rank);
  }

  __device__ void release() {
    giveBack(shared.emptyActivations[activationTurn.stage]);
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
