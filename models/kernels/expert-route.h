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

constexpr int8_t kElsewhere = -1;

/// Shared memory that makePlan needs for a while.
struct PlanScratch {
  int8_t expertOf[kMaxRows];
  int counts[12][kMaxLocal];
};

/// The first part of makePlan, which waits for memory.
__device__ inline void lookUpExperts(const Args& args, PlanScratch& scratch) {
#pragma unroll 2
  for (int pair = threadIdx.x; pair < args.shape.numPairs(); pair += 384) scratch.expertOf[pair] = expertOfPair(args, pair);
}

/// Fills the plan; by all threads of the block, 12 warps, after lookUpExperts.
__device__ inline void makePlan(const Args& args, Plan& plan, PlanScratch& scratch) {
  constexpr int numThreads = 384, numWarps = numThreads / 32;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int numPairs = args.shape.numPairs(), numLocal = args.shape.numLocal;
  for (int i = threadIdx.x; i < numWarps * kMaxLocal; i += numThreads) scratch.counts[0][i] = 0;
  __syncthreads();
  const int perWarp = (numPairs + numThreads - 1) / numThreads * 32;
  const int begin = warp * perWarp, end = min(numPairs, begin + perWarp);
  int* counts = scratch.counts[warp];
  for (int first = begin; first < end; first += 32) {  // rows of this warp's pairs, counted from 0 for each expert
    const int pair = first + lane;
    const int expert = pair < end ? scratch.expertOf[pair] : kElsewhere;
    const unsigned same = __match_any_sync(~0u, expert);
    const int before = expert == kElsewhere ? 0 : counts[expert];
    __syncwarp();
    if (expert != kElsewhere) {
      plan.rowOf[pair] = before + __popc(same & ((1u << lane) - 1));
      if (lane == __ffs(same) - 1) counts[expert] = before + __popc(same);
    }
    __syncwarp();
  }
  __syncthreads();
  if (warp == 0) {  // counts become first rows of each warp
    int firstRow = 0, firstTile = 0;
    for (int base = 0; base < numLocal; base += 32) {
      const int expert = base + lane;
      int count = 0;
      if (expert < numLocal)
        for (int w = 0; w < numWarps; ++w) count += scratch.counts[w][expert];
      const int tiles = (count + kTileTokens - 1) / kTileTokens;
      int row = count, tile = tiles;  // sums over the lanes up to this one
      for (int distance = 1; distance < 32; distance *= 2) {
        const int earlierRow = __shfl_up_sync(~0u, row, distance), earlierTile = __shfl_up_sync(~0u, tile, distance);
        if (lane >= distance) {
          row += earlierRow;
          tile += earlierTile;
        }
      }
      if (expert < numLocal) {
        int next = firstRow + row - count;
        plan.rowBase[expert] = next;
        plan.tileBase[expert] = firstTile + tile - tiles;
        for (int w = 0; w < numWarps; ++w) {
          const int ofWarp = scratch.counts[w][expert];
          scratch.counts[w][expert] = next;
          next += ofWarp;
        }
      }
      firstRow += __shfl_sync(~0u, row, 31);
      firstTile += __shfl_sync(~0u, tile, 31);
    }
    if (lane == 0) {
      plan.rowBase[numLocal] = firstRow;
      plan.tileBase[numLocal] = firstTile;
    }
  }
  __syncthreads();
  for (int pair = begin + lane; pair < end; pair += 32) {
    const int expert = scratch.expertOf[pair];
    plan.rowOf[pair] = expert == kElsewhere ? kNoRow : plan.rowOf[pair] + counts[expert];
  }
  fenceForAsync();  // bulk copies write over the scratch
  __syncthreads();
}

/// The token of one pair on its way into its tile; by one warp. Loaded before the plan is made, because loads that start with the
/// weights' copies wait for those.
struct Gather {
  static constexpr int kChunks = 14;  // of 16 bytes per lane: 7,168 bytes in flight
  uint4 chunks[kChunks];
  float scales[2];

  __device__ void load(const Args& args, int pair) {
    const Shape& shape = args.shape;
    if (pair >= shape.numPairs()) return;
    const int lane = threadIdx.x % 32, token = pair / (shape.topK + 1), groups = shape.hiddenGroups();
    const uint4* source = reinterpret_cast<const uint4*>(args.x.data + size_t(token) * shape.hidden);
#pragma unroll
    for (int i = 0; i < kChunks; ++i)
      if (lane + 32 * i < groups * 8) chunks[i] = source[lane + 32 * i];
#pragma unroll
    for (int i = 0; i < 2; ++i)
      if (lane + 32 * i < groups) scales[i] = args.x.scales[size_t(lane + 32 * i) * shape.numTokens + token];
  }

  __device__ void store(const Args& args, const Plan& plan, int pair) const {
    const Shape& shape = args.shape;
    if (pair >= shape.numPairs() || plan.rowOf[pair] == kNoRow) return;
    const int lane = threadIdx.x % 32, token = pair / (shape.topK + 1), groups = shape.hiddenGroups();
    const int row = plan.rowOf[pair];
    int expert = 0;
    while (plan.rowBase[expert + 1] <= row) ++expert;
    const int position = row - plan.rowBase[expert];
    const int tile = plan.tileBase[expert] + position / kTileTokens, slot = position % kTileTokens;
    uint4* target = reinterpret_cast<uint4*>(args.workspace.input.data + size_t(tile) * groups * kTileBytes);
    const auto put = [&](int chunk, uint4 value) {
      target[(chunk / 8 * 128 + slot) * 8 + (chunk % 8 ^ slot % 8)] = value;
    };
    float* targetScales = args.workspace.input.scales + size_t(tile) * groups * kTileTokens + slot;
#pragma unroll
    for (int i = 0; i < kChunks; ++i)
      if (lane + 32 * i < groups * 8) put(lane + 32 * i, chunks[i]);
#pragma unroll
    for (int i = 0; i < 2; ++i)
      if (lane + 32 * i < groups) targetScales[(lane + 32 * i) * kTileTokens] = scales[i];
    const uint4* source = reinterpret_cast<const uint4*>(args.x.data + size_t(token) * shape.hidden);
    for (int chunk = lane + 32 * kChunks; chunk < groups * 8; chunk += 32) put(chunk, source[chunk]);
    for (int group = lane + 64; group < groups; group += 32)
      targetScales[group * kTileTokens] = args.x.scales[size_t(group) * shape.numTokens + token];
    __syncwarp();
    if (lane == 0) announce(args.workspace.progress.packed + tile);
  }
};

/// y of 256 columns of one token per turn: its rows, weighted, in ascending order of expert; by one warp.
__device__ inline void combine(const Args& args, const Plan& plan, int first, int stride) {
  constexpr int kAtOnce = 4;
  const int lane = threadIdx.x % 32;
  const Shape& shape = args.shape;
  const int choices = shape.topK + 1, blocks = shape.hiddenPairs();
  for (int unit = first; unit < blocks * shape.numTokens; unit += stride) {
    const int token = unit % shape.numTokens, block = unit / shape.numTokens;
    const int column = block * kItemRows + lane * 8;
    float sum[8] = {};
    int last = -1;
    bool waited = false;
    do {
      float weight[kAtOnce];
      const float4* values[kAtOnce];
      float4 low[kAtOnce], high[kAtOnce];
#pragma unroll
      for (int n = 0; n < kAtOnce; ++n) {
        int row = kNoRow, choice = 0;  // the next row in ascending order
        for (int c = 0; c < choices; ++c) {
          const int candidate = plan.rowOf[token * choices + c];
          if (candidate > last && candidate < row) {
            row = candidate;
            choice = c;
          }
        }
        last = row;
        weight[n] = row == kNoRow             ? 0.f
                    : choice == shape.topK ? 1.f
                                           : __ldg(args.expertWeights + token * shape.topK + choice);
        values[n] = row == kNoRow || column >= shape.hidden
                        ? nullptr
                        : reinterpret_cast<const float4*>(args.workspace.rows + size_t(row) * shape.hidden + column);
      }
      if (!waited) waitAtLeast(args.workspace.progress.down + block, plan.tileBase[shape.numLocal]);
      waited = true;
#pragma unroll
      for (int n = 0; n < kAtOnce; ++n) {
        low[n] = values[n] ? __ldcg(values[n]) : float4{};
        high[n] = values[n] ? __ldcg(values[n] + 1) : float4{};
      }
#pragma unroll
      for (int n = 0; n < kAtOnce; ++n) {
        sum[0] += weight[n] * low[n].x;
        sum[1] += weight[n] * low[n].y;
        sum[2] += weight[n] * low[n].z;
        sum[3] += weight[n] * low[n].w;
        sum[4] += weight[n] * high[n].x;
        sum[5] += weight[n] * high[n].y;
        sum[6] += weight[n] * high[n].z;
        sum[7] += weight[n] * high[n].w;
      }
    } while (last != kNoRow && choices > kAtOnce);
    if (column >= shape.hidden) continue;
    __nv_bfloat162 out[4];
    for (int i = 0; i < 4; ++i) out[i] = __floats2bfloat162_rn(sum[2 * i], sum[2 * i + 1]);
    *reinterpret_cast<uint4*>(args.y + size_t(token) * shape.hidden + column) = *reinterpret_cast<uint4*>(out);
    __syncwarp(__activemask());
    if (lane % 4 > 0) continue;  // four lanes share a line
    for (int c = 0; c < choices; ++c)
      if (const int row = plan.rowOf[token * choices + c]; row != kNoRow)
        discardLine(args.workspace.rows + size_t(row) * shape.hidden + column);
  }
}

}  // namespace rally::expert
