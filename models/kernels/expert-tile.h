// The consumers' part of the expert feed-forward kernel: two warpgroups multiply up to 128 tokens (wgmma's M) with 256 weight rows (N).
// With more than 64 tokens each warpgroup has 64 of them and all rows, otherwise all tokens and 128 rows. Weight and activation tiles
// come through two rings of stages in shared memory.
#pragma once

#include "expert-quantise.h"
#include "expert-shared.h"
#include "wgmma.h"

namespace rally::expert {

/// As swizzledOperand, with the address apart: moving it costs half as much.
struct Operand {
  uint32_t address;
  __device__ explicit Operand(const uint8_t* data) : address(static_cast<uint32_t>(swizzledOperand(data))) {}
  __device__ uint64_t at(int bytes) const { return uint64_t{0x40000040} << 32 | (address + bytes / 16); }
};

/// One consumer thread. Its sums: sums[b][4 j + 2 h + c] is token 16 warp + lane / 4 + 8 h of the warpgroup's 64, weight row
/// 64 b + 8 j + 2 (lane % 4) + c of the warpgroup's 64 * blocks. In gate/up even blocks are gates, odd ones the matching ups.
struct Consumer {
  const Args& args;
  Shared& shared;
  Turn<kWeightStages> weightTurn;
  Turn<kActivationStages> activationTurn;
  uint32_t announcedParity = 1;

  // Computed where they are needed: a step has no registers to spare.
  static __device__ int thread() { return threadIdx.x; }  // 0 to 255
  static __device__ int group() { return threadIdx.x / 128; }  // warpgroup, 0 or 1
  static __device__ int warp() { return threadIdx.x / 32 % 4; }  // within the warpgroup
  static __device__ int lane() { return threadIdx.x % 32; }

  template <int blocks>
  __device__ int firstToken() const {
    return (blocks == 4 ? 64 * group() : 0) + 16 * warp() + lane() / 4;
  }
  /// First of the warpgroup's 128-row weight tiles within the item.
  template <int blocks>
  __device__ int firstTile() const {
    return blocks == 4 ? 0 : group();
  }

  /// Tells the producers of both blocks that this warp needs the stage no more.
  __device__ void giveBack(Barrier& empty) const {
    __syncwarp();
    for (int rank = 0; rank < 2; ++rank)
      if (kArrivalsPerWarp == 32 || lane() == rank) arriveAt(&empty, rank);
  }

  /// The next stages of weights are nobody's.
  __device__ void passOver(int numStages) {
    for (; numStages > 0; --numStages) {
      wait(&shared.fullWeights[weightTurn.stage], weightTurn.parity);
      giveBack(shared.emptyWeights[weightTurn.stage]);
      weightTurn.next();
    }
  }

  /// part = this warpgroup's tokens times 128 weight rows over the 128 bytes of K of a stage; begun, not waited for.
  static __device__ void multiply(float (&part)[64], const uint8_t* tokens, const uint8_t* weights) {
    const Operand a(tokens), b(weights);
    wgmmaBegin();
#pragma unroll
    for (int byte = 0; byte < kGroup; byte += 32) WgmmaE4m3<128>::fromShared(part, a.at(byte), b.at(byte), byte > 0);
    wgmmaCommit();
  }
  static __device__ void promote(float (&sums)[32], const float* part, float2 scales) {
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      sums[4 * j] += part[4 * j] * scales.x;
      sums[4 * j + 1] += part[4 * j + 1] * scales.x;
      sums[4 * j + 2] += part[4 * j + 2] * scales.y;
      sums[4 * j + 3] += part[4 * j + 3] * scales.y;
    }
  }

  /// Waits for the next stage of tokens; the scales of this thread's two.
  template <int blocks>
  __device__ float2 awaitTokens() {
    wait(&shared.fullActivations[activationTurn.stage], activationTurn.parity);
    const float* scales = shared.scales[activationTurn.stage] + firstToken<blocks>();
    return {scales[0], scales[8]};
  }

  /// One step of K. The matrix unit works for the other warpgroup while this one promotes; whatever the next step needs first is
  /// asked for before the last products are promoted.
  template <int blocks>
  __device__ void addStep(float (&sums)[blocks][32], float2& tokenScales, bool isLast) {
    const int stage = weightTurn.stage;
    wait(&shared.fullWeights[stage], weightTurn.parity);
    float2 scales[blocks / 2];
#pragma unroll
    for (int t = 0; t < blocks / 2; ++t) {
      const int tile = firstTile<blocks>() + t;
      const float scale = shared.weightScales[stage][tile][shared.scaleAt[stage][tile]];
      scales[t] = {tokenScales.x * scale, tokenScales.y * scale};
    }
    const uint8_t* tokens = shared.activations[activationTurn.stage] + (blocks == 4 ? 64 * group() : 0) * kGroup;
    const uint8_t* weights = shared.weights[stage] + firstTile<blocks>() * kTileBytes;
    float part[64];
#pragma unroll
    for (int t = 0; t < blocks / 2; ++t) {
      multiply(part, tokens, weights + t * kTileBytes);
      wgmmaWait<0>();
      if (t + 1 == blocks / 2) {
        giveBack(shared.emptyActivations[activationTurn.stage]);
        activationTurn.next();
        giveBack(shared.emptyWeights[stage]);
        weightTurn.next();
        if (!isLast) tokenScales = awaitTokens<blocks>();
      }
      promote(sums[2 * t], part, scales[t]);
      promote(sums[2 * t + 1], part + 32, scales[t]);
    }
  }

  __device__ float4* handedSums(int phase, int block) const {
    return reinterpret_cast<float4*>(args.workspace.sums + size_t(phase * kMaxBlocks + block) * kItemRows * kTileTokens) +
           thread();
  }

  template <int blocks>
  __device__ void handOver(const float (&sums)[blocks][32], int phase) {
    float4* out = handedSums(phase, blockIdx.x);
#pragma unroll
    for (int b = 0; b < blocks; ++b)
#pragma unroll
      for (int j = 0; j < 8; ++j)
        storeKept(out + (b * 8 + j) * kConsumers,
                  make_float4(sums[b][4 * j], sums[b][4 * j + 1], sums[b][4 * j + 2], sums[b][4 * j + 3]));
  }

  template <int blocks>
  __device__ void takeOver(float (&sums)[blocks][32], int phase) {
    waitAtLeast(shared.progress.handedOver + phase * kMaxBlocks + blockIdx.x - 2, 1);
    const float4* in = handedSums(phase, blockIdx.x - 2);
#pragma unroll
    for (int b = 0; b < blocks; ++b)
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const float4 value = __ldcg(in + (b * 8 + j) * kConsumers);
        sums[b][4 * j] = value.x;
        sums[b][4 * j + 1] = value.y;
        sums[b][4 * j + 2] = value.z;
        sums[b][4 * j + 3] = value.w;
      }
  }

  template <int blocks>
  __device__ void discardTaken(int phase) const {
    const float4* in = handedSums(phase, blockIdx.x - 2);
    for (int i = lane() / 4; i < blocks * 8; i += 8)  // a warp's 512 bytes of each i are four lines
      discardLine(in - lane() + i * kConsumers + lane() % 4 * 8);
  }

  /// SwiGLU and quantisation of 128 intermediate values per token.
  template <int blocks>
  __device__ void activate(float (&sums)[blocks][32], const Segment& segment) {
    uint32_t largest[2] = {};  // bits of the largest magnitude of each of the thread's two tokens; NaN is the largest
#pragma unroll
    for (int b = 0; b < blocks; b += 2)
#pragma unroll
      for (int i = 0; i < 32; ++i) {
        const float gate = sums[b][i];
        sums[b][i] = __fdividef(gate, 1.f + __expf(-gate)) * sums[b + 1][i];
        largest[i / 2 % 2] = max(largest[i / 2 % 2], __float_as_uint(fabsf(sums[b][i])));
      }
    const int token = firstToken<blocks>();
#pragma unroll
    for (int h = 0; h < 2; ++h)
      for (int distance = 1; distance < 4; distance *= 2)
        largest[h] = max(largest[h], __shfl_xor_sync(~0u, largest[h], distance));
    if constexpr (blocks == 2) {  // the other warpgroup has the other half of each token's values
      if (lane() % 4 == 0) {
        shared.largest[group()][token] = largest[0];
        shared.largest[group()][token + 8] = largest[1];
      }
      consumerBarrier();
      for (int h = 0; h < 2; ++h) largest[h] = max(largest[h], shared.largest[1 - group()][token + 8 * h]);
      consumerBarrier();
    }
    const size_t tile = size_t(segment.tile) * args.shape.interGroups() + segment.rowPair;
    const PackedActivations& out = args.workspace.middle;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = token + 8 * h;
      const float magnitude = __uint_as_float(largest[h]);
      const float inverse = magnitude > 0.f ? 448.f / magnitude : 0.f;
#pragma unroll
      for (int b = 0; b < blocks; b += 2) {
        const uint4 chunk = quantiseChunk(sums[b], h, inverse);
        const int index = (firstTile<blocks>() + b / 2) * 4 + lane() % 4;
        if (row < segment.numRows)
          __stcg(reinterpret_cast<uint4*>(out.data + tile * kTileBytes + row * kGroup) + (index ^ row % 8), chunk);
      }
      if (lane() % 4 == 0 && (blocks == 4 || group() == 0) && row < segment.numRows)
        out.scales[tile * kTileTokens + row] = magnitude / 448.f;
    }
  }

  /// A token's only row is its y; several are put where combine sums them up.
  template <int blocks>
  __device__ void storeRows(const float (&sums)[blocks][32], const Segment& segment) {
    const int choices = args.shape.choices(), hidden = args.shape.hidden;
    const int firstColumn = segment.rowPair * kItemRows + firstTile<blocks>() * 128;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = firstToken<blocks>() + 8 * h;
      const bool used = row < segment.numRows;
      const int place = used ? shared.plan.pairOf[segment.firstRow + row] : kSeveral;
      const bool only = !(place & kSeveral);
      if (used && !only) {
        float* out = args.workspace.rows + size_t(segment.firstRow + row) * hidden;
#pragma unroll
        for (int b = 0; b < blocks; ++b)
#pragma unroll
          for (int j = 0; j < 8; ++j) {
            const int column = firstColumn + 64 * b + 8 * j + lane() % 4 * 2;
            if (column < hidden)
              storeKept(reinterpret_cast<float2*>(out + column), make_float2(sums[b][4 * j + 2 * h], sums[b][4 * j + 2 * h + 1]));
          }
      }
      if (!__any_sync(~0u, only)) continue;
      const int token = place / choices;
      const float weight = only ? weightOf(args, token, place % choices) : 0.f;
      Bf16* out = args.y + size_t(token) * hidden;
#pragma unroll
      for (int b = 0; b < blocks; ++b)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          uint32_t words[4];
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            const float* pair = sums[b] + 16 * half + 4 * j + 2 * h;  // the same bits as combine has: it adds to 0
            const __nv_bfloat162 word = __floats2bfloat162_rn(fmaf(weight, pair[0], 0.f), fmaf(weight, pair[1], 0.f));
            words[j] = reinterpret_cast<const uint32_t&>(word);
          }
          const uint4 chunk = transposeQuad(words);
          const int column = firstColumn + 64 * b + 32 * half + lane() % 4 * 8;
          if (only && column < hidden) *reinterpret_cast<uint4*>(out + column) = chunk;
        }
    }
  }

  template <int blocks>
  __device__ void runSegment(const Work& work, int index, int p) {
    float sums[blocks][32] = {};
    int numSteps;
    {
      const Segment segment = work.segment(index);
      numSteps = segment.kEnd - segment.kBegin;
      if (segment.kBegin > 0 && segment.rowPair < work.phase.rowPairs) takeOver<blocks>(sums, p);
    }
    float2 tokenScales = awaitTokens<blocks>();
    for (; numSteps > 0; --numSteps) addStep<blocks>(sums, tokenScales, numSteps == 1);
    const Segment segment = work.segment(index);  // again, so that the steps have the registers
    if (segment.rowPair >= work.phase.rowPairs) return;
    if (segment.kEnd < work.phase.kSteps)
      handOver<blocks>(sums, p);
    else if (p == 0)
      activate<blocks>(sums, segment);
    else
      storeRows<blocks>(sums, segment);
    letAnnounce();
    if (segment.kBegin > 0) discardTaken<blocks>(p);
  }

  /// This warp has written all of its segment.
  __device__ void letAnnounce() {
    wait(&shared.announced, announcedParity);  // of the segment before
    announcedParity ^= 1;
    __syncwarp();
    if (kArrivalsPerWarp == 32 || lane() == 0) arrive(&shared.written);
  }

  __device__ void run(const Work& work, int index, int p) {
    if (work.segment(index).numRows > 64)
      runSegment<4>(work, index, p);
    else
      runSegment<2>(work, index, p);
  }
};

}  // namespace rally::expert
