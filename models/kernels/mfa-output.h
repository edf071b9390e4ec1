// What a warpgroup does with the attention of one item: quantised output for a whole sequence, else an unnormalised part for the
// kernel that joins parts.
#pragma once

#include "mfa-plan.h"
#include "mfa-tile.h"

namespace rally::mfa {

/// One block's share of a split sequence, in the order of the accumulators.
struct Part {
  float4 output[16][256];  // [4 consecutive accumulators, thread of the two warpgroups]
  float2 stats[kHeads];    // maximum and sum, per head
};
/// A block does the end of one split sequence (or its middle) and the beginning of another.
__device__ inline int partIndex(int block, bool isBeginning) { return 2 * block + isBeginning; }

/// 16 pairs of e4m3 (columns 8 j + 2 (t % 4) and that + 1 of a row of 128) of each thread of a quad, two per word, as 128 bytes in
/// order: thread t % 4 writes its quarter.
__device__ inline void storeRow(const uint32_t (&pairs)[8], E4m3* row) {
  const int quad = threadIdx.x % 4;
  uint32_t near[2][4];  // [thread of the quad / 2, word] after the first exchange
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const bool upper = quad & 2;
    const uint32_t keep = upper ? pairs[4 + i] : pairs[i];
    const uint32_t got = __shfl_xor_sync(~0u, upper ? pairs[i] : pairs[4 + i], 2);
    near[0][i] = upper ? got : keep;
    near[1][i] = upper ? keep : got;
  }
  uint32_t words[4][2];  // [thread of the quad, word]
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      const bool odd = quad & 1;
      const uint32_t keep = odd ? near[side][2 + i] : near[side][i];
      const uint32_t got = __shfl_xor_sync(~0u, odd ? near[side][i] : near[side][2 + i], 1);
      words[2 * side][i] = odd ? got : keep;
      words[2 * side + 1][i] = odd ? keep : got;
    }
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const uint4 bytes = {__byte_perm(words[0][i], words[1][i], 0x5410), __byte_perm(words[2][i], words[3][i], 0x5410),
                         __byte_perm(words[0][i], words[1][i], 0x7632), __byte_perm(words[2][i], words[3][i], 0x7632)};
    *reinterpret_cast<uint4*>(row + 32 * quad + 16 * i) = bytes;
  }
}

/// A whole sequence's attention, from sums that are complete over the quad.
__device__ inline void storeQuantised(const State& state, int warpgroup, int sequence, int numSequences, Activations out) {
  const int warp = threadIdx.x % 128 / 32;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int head = 16 * warp + threadIdx.x % 32 / 4 + 8 * half;
    const float inverse = state.sum[half] > 0 ? 1 / state.sum[half] : 0;
    float largest = 0;
#pragma unroll
    for (int j = 0; j < 16; ++j) {
      largest = fmaxf(largest, fmaxf(fabsf(state.output[4 * j + 2 * half]), fabsf(state.output[4 * j + 2 * half + 1])));
    }
    largest = maxOfQuad(largest) * inverse;
    const float factor = largest > 0 ? kMaxE4m3 / largest * inverse : 0;
    uint32_t pairs[8];
#pragma unroll
    for (int j = 0; j < 16; ++j) {
      const uint32_t pair =
          packE4m3(state.output[4 * j + 2 * half] * factor, state.output[4 * j + 2 * half + 1] * factor);
      pairs[j / 2] = j % 2 ? pairs[j / 2] | pair << 16 : pair;
    }
    storeRow(pairs, out.data + (static_cast<size_t>(sequence) * kHeads + head) * kHeadDim + kGroup * warpgroup);
    if (threadIdx.x % 4 == 0) out.scales[(2 * head + warpgroup) * numSequences + sequence] = largest / kMaxE4m3;
  }
}

__device__ inline void storePart(const State& state, int warpgroup, Part& part) {
  const int thread = 128 * warpgroup + threadIdx.x % 128;
#pragma unroll
  for (int j = 0; j < 16; ++j) {
    part.output[j][thread] = {state.output[4 * j], state.output[4 * j + 1], state.output[4 * j + 2], state.output[4 * j + 3]};
  }
  if (warpgroup == 0 && threadIdx.x % 4 == 0) {
    const int head = 16 * (thread / 32) + thread % 32 / 4;
    part.stats[head] = {state.maximum[0], state.sum[0]};
    part.stats[head + 8] = {state.maximum[1], state.sum[1]};
  }
}

}  // namespace rally::mfa
