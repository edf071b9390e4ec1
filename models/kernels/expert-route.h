// Before and after the matrix products: which row each (token, choice) pair gets, gathering tokens into tiles, and summing a token's
// rows.
#pragma once

#include "expert-args.h"
#include "expert-sync.h"

namespace rally::expert {

/// Local expert of a pair, or -1.
__device__ inline int expertOfPair(const Args& args, int pair) {
  const Shape& shape = args.shape;
  const int token = pair / (shape.topK + 1);
  const int choice = pair % (shape.topK + 1);
  if (choice == shape.topK) return shape.sharedLocal;
  const int id = args.expertIds[token * shape.topK + choice];
  const int local = id < 0 ? -1 : args.localOf[id];
  return local < shape.numLocal ? local : -1;
}

/// Fills the plan; by all threads of the block (numWarps warps). counts: [numWarps, kMaxLocal] scratch.
template <int numWarps>
__device__ void makePlan(const Args& args, Plan& plan, int (*counts)[kMaxLocal]) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int numPairs = args.shape.numPairs(), numLocal = args.shape.numLocal;
  for (int i = threadIdx.x; i < numWarps * kMaxLocal; i += numWarps * 32) counts[0][i] = 0;
  __syncthreads();
  const int perWarp = (numPairs + numWarps * 32 - 1) / (numWarps * 32) * 32;
  const int begin = warp * perWarp, end = min(numPairs, begin + perWarp);
  for (int first = begin; first < end; first += 32) {
    const int pair = first + lane;
    const int expert = pair < end ? expertOfPair(args, pair) : -1;
    const unsigned same = __match_any_sync(~0u, expert);
    const int before = expert < 0 ? 0 : counts[warp][expert];
    __syncwarp();
    if (pair < end) {
      plan.rowOf[pair] = expert < 0 ? kNoRow : before + __popc(same & ((1u << lane) - 1));
      if (expert >= 0 && lane == __ffs(same) - 1) counts[warp][expert] = before + __popc(same);
    }
    __syncwarp();
  }
  __syncthreads();
  if (threadIdx.x < numLocal) {  // counts become the rows of earlier warps
    int sum = 0;
    for (int w = 0; w < numWarps; ++w) {
      const int count = counts[w][threadIdx.x];
      counts[w][threadIdx.x] = sum;
      sum += count;
    }
    plan.rowBase[threadIdx.x] = sum;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    int row = 0, tile = 0;
    for (int e = 0; e < numLocal; ++e) {
      const int count = plan.rowBase[e];
      plan.rowBase[e] = row;
      plan.tileBase[e] = tile;
      row += count;
      tile += (count + kTileTokens - 1) / kTileTokens;
    }
    plan.rowBase[numLocal] = row;
    plan.tileBase[numLocal] = tile;
  }
  __syncthreads();
  for (int pair = begin + lane; pair < end; pair += 32) {
    if (plan.rowOf[pair] == kNoRow) continue;
    const int expert = expertOfPair(args, pair);
    plan.rowOf[pair] += plan.rowBase[expert] + counts[warp][expert];
  }
  __syncthreads();
}

/// Copies the tokens of pairs `first`, `first + stride`, … into their tiles; by one warp.
__device__ inline void gather(const Args& args, const Plan& plan, int first, int stride) {
  const int lane = threadIdx.x % 32;
  const Shape& shape = args.shape;
  const int groups = shape.hiddenGroups();
  for (int pair = first; pair < shape.numPairs(); pair += stride) {
    const int row = plan.rowOf[pair];
    if (row == kNoRow) continue;
    const int token = pair / (shape.topK + 1);
    int expert = 0;
    while (plan.rowBase[expert + 1] <= row) ++expert;
    const int position = row - plan.rowBase[expert];
    const int tile = plan.tileBase[expert] + position / kTileTokens, slot = position % kTileTokens;
    const uint4* source = reinterpret_cast<const uint4*>(args.x.data + size_t(token) * shape.hidden);
    uint4* target = reinterpret_cast<uint4*>(args.workspace.input.data + size_t(tile) * groups * kTileBytes);
#pragma unroll 8
    for (int chunk = lane; chunk < groups * 8; chunk += 32)
      target[(chunk / 8 * 128 + slot) * 8 + (chunk % 8 ^ slot % 8)] = source[chunk];
    for (int group = lane; group < groups; group += 32)
      args.workspace.input.scales[(tile * groups + group) * kTileTokens + slot] =
          args.x.scales[size_t(group) * shape.numTokens + token];
    fenceGlobalForAsync();
    __threadfence();
    __syncwarp();
    if (lane == 0) announce(args.workspace.progress.packed + tile);
  }
}

/// y of 256 columns of one token per turn: its rows, weighted, in ascending order of expert; by one warp.
__device__ inline void combine(const Args& args, const Plan& plan, int first, int stride) {
  const int lane = threadIdx.x % 32;
  const Shape& shape = args.shape;
  const int choices = shape.topK + 1, blocks = shape.hiddenPairs();
  const int numTiles = plan.tileBase[shape.numLocal];
  for (int unit = first; unit < blocks * shape.numTokens; unit += stride) {
    const int block = unit % blocks, token = unit / blocks;
    const int column = block * kItemRows + lane * 8;
    waitAtLeast(args.workspace.progress.down + block, numTiles);
    if (column >= shape.hidden) continue;
    float sum[8] = {};
    int last = -1;
    for (int n = 0; n < choices; ++n) {
      int row = kNoRow, choice = 0;  // the next row in ascending order
      for (int c = 0; c < choices; ++c) {
        const int candidate = plan.rowOf[token * choices + c];
        if (candidate > last && candidate < row) {
          row = candidate;
          choice = c;
        }
      }
      if (row == kNoRow) break;
      last = row;
      const float weight = choice == shape.topK ? 1.f : args.expertWeights[token * shape.topK + choice];
      const float4* values = reinterpret_cast<const float4*>(args.workspace.rows + size_t(row) * shape.hidden + column);
      const float4 low = __ldcg(values), high = __ldcg(values + 1);
      sum[0] += weight * low.x;
      sum[1] += weight * low.y;
      sum[2] += weight * low.z;
      sum[3] += weight * low.w;
      sum[4] += weight * high.x;
      sum[5] += weight * high.y;
      sum[6] += weight * high.z;
      sum[7] += weight * high.w;
    }
    __nv_bfloat162 out[4];
    for (int i = 0; i < 4; ++i) out[i] = __floats2bfloat162_rn(sum[2 * i], sum[2 * i + 1]);
    *reinterpret_cast<uint4*>(args.y + size_t(token) * shape.hidden + column) = *reinterpret_cast<uint4*>(out);
  }
}

}  // namespace rally::expert
