// What becomes of the attention of one item: the two warpgroups, which had every other page each, add theirs up, half of the
// dimensions each; complete sequences go out quantised.
#pragma once

#include "mfa-tile.h"

namespace rally::mfa {

/// An item's attention, 128 of the dimensions.
struct Half {
  float maximum[2];
  float sum[2];
  float output[64];
};

/// Of one of a thread's two heads, over the quad.
__device__ inline float largestOfRow(const float (&output)[64], int half) {
  float largest = 0;
#pragma unroll
  for (int j = 0; j < 16; ++j) {
    largest = fmaxf(largest, fmaxf(fabsf(output[4 * j + 2 * half]), fabsf(output[4 * j + 2 * half + 1])));
  }
  return maxOfQuad(largest);
}

/// What each of the two warpgroups gives the other.
struct Exchange {
  float4 words[2][16][128];  // [giver, 4 consecutive accumulators, thread]
  float2 stats[2][kHeads];   // maximum and sum
};

__device__ inline void syncConsumers() { asm volatile("bar.sync 1, 256;" ::: "memory"); }

/// By both warpgroups together.
__device__ inline void addUp(State& state, Half& half, Exchange& exchange, int warpgroup) {
  const int thread = threadIdx.x % 128;
  const int head = thread / 32 * 16 + thread % 32 / 4;
  const bool isFirst = warpgroup == 0;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    state.sum[h] = sumOfQuad(state.sum[h]);
    if (thread % 4 == 0) exchange.stats[warpgroup][head + 8 * h] = {state.maximum[h], state.sum[h]};
  }
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const float(&low)[32] = state.output[i / 8];
    const float(&high)[32] = state.output[2 + i / 8];
    const int j = i % 8 * 4;
    exchange.words[warpgroup][i][thread] = {isFirst ? high[j] : low[j], isFirst ? high[j + 1] : low[j + 1],
                                            isFirst ? high[j + 2] : low[j + 2], isFirst ? high[j + 3] : low[j + 3]};
  }
  syncConsumers();
  float own[2];
  float others[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const float2 other = exchange.stats[1 - warpgroup][head + 8 * h];
    half.maximum[h] = fmaxf(state.maximum[h], other.x);
    own[h] = exp2Fast(state.maximum[h] - half.maximum[h]);
    others[h] = exp2Fast(other.x - half.maximum[h]);
    half.sum[h] = state.sum[h] * own[h] + other.y * others[h];
  }
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const float(&low)[32] = state.output[i / 8];
    const float(&high)[32] = state.output[2 + i / 8];
    const int j = i % 8 * 4;
    const float4 other = exchange.words[1 - warpgroup][i][thread];
    half.output[4 * i] = (isFirst ? low[j] : high[j]) * own[0] + other.x * others[0];
    half.output[4 * i + 1] = (isFirst ? low[j + 1] : high[j + 1]) * own[0] + other.y * others[0];
    half.output[4 * i + 2] = (isFirst ? low[j + 2] : high[j + 2]) * own[1] + other.z * others[1];
    half.output[4 * i + 3] = (isFirst ? low[j + 3] : high[j + 3]) * own[1] + other.w * others[1];
  }
  syncConsumers();  // the exchange is free again
}

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

/// A whole sequence's attention.
__device__ inline void storeQuantised(const Half& attention, int warpgroup, int sequence, int numSequences, Activations out) {
  const int warp = threadIdx.x % 128 / 32;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int head = 16 * warp + threadIdx.x % 32 / 4 + 8 * half;
    const float inverse = attention.sum[half] > 0 ? 1 / attention.sum[half] : 0;
    const float largest = largestOfRow(attention.output, half) * inverse;
    const float factor = e4m3Factor(largest) * inverse;
    uint32_t pairs[8];
#pragma unroll
    for (int j = 0; j < 16; ++j) {
      const uint32_t pair =
          packE4m3(attention.output[4 * j + 2 * half] * factor, attention.output[4 * j + 2 * half + 1] * factor);
      pairs[j / 2] = j % 2 ? pairs[j / 2] | pair << 16 : pair;
    }
    storeRow(pairs, out.data + (static_cast<size_t>(sequence) * kHeads + head) * kHeadDim + kGroup * warpgroup);
    if (threadIdx.x % 4 == 0) out.scales[(2 * head + warpgroup) * numSequences + sequence] = largest / kMaxE4m3;
  }
}

}  // namespace rally::mfa
