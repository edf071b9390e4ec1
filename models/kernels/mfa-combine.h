// Joins the parts of split sequences. A block does the share of one warp of the decode kernel: 16 heads (rows) by 128 dimensions of
// one sequence; its threads hold the accumulators of that warp's lanes.
#pragma once

#include "mfa-launch.h"
#include "mfa-output.h"

namespace rally::mfa {

constexpr int kCombineThreads = 256;

__global__ void __launch_bounds__(kCombineThreads)
    combineKernel(const Place* places, const Part* parts, int numBlocks, int numSequences, Activations out) {
  __shared__ int firstBlock;
  __shared__ int lastBlock;
  __shared__ float largest[kCombineThreads / 32][16];
  const int sequence = blockIdx.x;
  const int tile = blockIdx.y;  // 4 * warpgroup + warp
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int row = lane / 4;
  if (threadIdx.x == 0) {
    firstBlock = numBlocks;
    lastBlock = -1;
  }
  awaitPreviousKernel();
  allowNextKernel();
  __syncthreads();
  for (int block = threadIdx.x; block < numBlocks; block += kCombineThreads) {
    const Place place = places[block];
    if (place.sequence == sequence && place.page > 0) {
      atomicMin(&firstBlock, block);
      atomicMax(&lastBlock, block);
    }
  }
  __syncthreads();
  if (lastBlock < 0) return;

  float maximum[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0, 0};
  float output[8] = {};
#pragma unroll 4
  for (int block = firstBlock - 1; block <= lastBlock; ++block) {
    const Part& part = parts[partIndex(block, block == firstBlock - 1)];
    const float4 share[2] = {part.output[2 * warp][32 * tile + lane], part.output[2 * warp + 1][32 * tile + lane]};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float2 stats = part.stats[tile % 4 * 16 + row + 8 * half];
      const float common = fmaxf(maximum[half], stats.x);
      const float old = exp2Fast(maximum[half] - common);
      const float added = exp2Fast(stats.x - common);
      maximum[half] = common;
      sum[half] = sum[half] * old + stats.y * added;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        output[4 * i + 2 * half] = output[4 * i + 2 * half] * old + (half == 0 ? share[i].x : share[i].z) * added;
        output[4 * i + 2 * half + 1] = output[4 * i + 2 * half + 1] * old + (half == 0 ? share[i].y : share[i].w) * added;
      }
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float mine = 0;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      output[4 * i + 2 * half] /= sum[half];
      output[4 * i + 2 * half + 1] /= sum[half];
      mine = fmaxf(mine, fmaxf(fabsf(output[4 * i + 2 * half]), fabsf(output[4 * i + 2 * half + 1])));
    }
    mine = maxOfQuad(mine);
    if (lane % 4 == 0) largest[warp][row + 8 * half] = mine;
  }
  __syncthreads();
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float ofRow = 0;
#pragma unroll
    for (int w = 0; w < kCombineThreads / 32; ++w) ofRow = fmaxf(ofRow, largest[w][row + 8 * half]);
    const float factor = ofRow > 0 ? kMaxE4m3 / ofRow : 0;
    const int head = tile % 4 * 16 + row + 8 * half;
    const int group = 2 * head + tile / 4;
    E4m3* to = out.data + static_cast<size_t>(sequence) * kHeads * kHeadDim + group * kGroup;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t pair = packE4m3(output[4 * i + 2 * half] * factor, output[4 * i + 2 * half + 1] * factor);
      *reinterpret_cast<uint16_t*>(to + 8 * (2 * warp + i) + 2 * (lane % 4)) = static_cast<uint16_t>(pair);
    }
    if (warp == 0 && lane % 4 == 0) out.scales[group * numSequences + sequence] = ofRow / kMaxE4m3;
  }
}

}  // namespace rally::mfa
