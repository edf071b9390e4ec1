// Before and after the matrix products: which row each (token, choice) pair gets, packing tokens into tiles, and summing the rows of a token that has several.
#pragma once

#include "expert-weights.h"

namespace rally::expert {

constexpr int8_t kElsewhere = -1;
constexpr int kSharedId = -2;

/// The expert of a (token, choice) pair.
__device__ inline int idOfPair(const Args& args, int pair) {
  const int topK = args.shape.topK, choices = args.shape.choices(), token = pair / choices, choice = pair % choices;
  if (choice == topK) return kSharedId;
  return max(args.expertIds[token * topK + choice], int{kElsewhere});
}
/// Local expert, or kElsewhere.
__device__ inline int localOfId(const Args& args, int id) {
  if (id == kSharedId) return args.shape.sharedLocal;
  const int local = id < 0 ? kElsewhere : args.localOf[id];
  return local < args.shape.numLocal ? local : kElsewhere;
}

/// Shared memory that makePlan needs for a while.
struct PlanScratch {
  int8_t expertOf[kMaxRows];
  uint16_t before[kMaxRows];  // pairs of the same expert in the same warp that come first
  int counts[12][kMaxLocal];
};

/// The first part of makePlan, which waits for memory.
__device__ inline void lookUpExperts(const Args& args, PlanScratch& scratch) {
  constexpr int kAtOnce = 4, numThreads = 384;
  for (int first = threadIdx.x; first < args.shape.numPairs(); first += kAtOnce * numThreads) {
    int expert[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i)
      expert[i] = first + i * numThreads < args.shape.numPairs() ? idOfPair(args, first + i * numThreads) : kElsewhere;
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) expert[i] = localOfId(args, expert[i]);
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i)
      if (first + i * numThreads < args.shape.numPairs()) scratch.expertOf[first + i * numThreads] = expert[i];
  }
}

__device__ inline void planRange(const Args& args, Shared& shared, int p) {
  Plan& plan = shared.plan;
  plan.ranges[p] = rangeOf(plan.tileBase, args.shape.phase(p), blockIdx.x / 2, gridDim.x / 2);
  if (p > 0) return;
  const Work work(args.shape, plan, 0);
  plan.numWrongStages = work.numSegments() == 0 ? shared.guess.numStages : numWrongStages(shared.guess, work.segment(0));
}

/// Fills the plan; by all threads of the block, 12 warps, after lookUpExperts.
__device__ inline void makePlan(const Args& args, Shared& shared, PlanScratch& scratch) {
  Plan& plan = shared.plan;
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
      scratch.before[pair] = before + __popc(same & ((1u << lane) - 1));
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
  if (warp == numWarps - 1 && lane < 2)  // it has the fewest pairs
    planRange(args, shared, lane);
  const int choices = args.shape.choices();
  bool combines = false;
  for (int pair = begin + lane; pair < end; pair += 32) {
    const int8_t* ofToken = scratch.expertOf + pair / choices * choices;
    int numRows = 0;
    for (int c = 0; c < choices; ++c) numRows += ofToken[c] != kElsewhere;
    combines |= numRows != 1;
    const int expert = scratch.expertOf[pair];
    if (expert != kElsewhere) plan.pairOf[scratch.before[pair] + counts[expert]] = pair | (numRows > 1 ? kSeveral : 0);
  }
  combines = __syncthreads_or(combines);
  if (threadIdx.x == 0) plan.combines = combines;
  __syncthreads();
  fenceForAsync();
  meetCluster();  // bulk copies write over the scratch, the other block's too
}

/// Part of a token's way into its tile; by one warp.
__device__ inline void packPart(const Args& args, const Shared& shared, int row, int part) {
  constexpr int kAtOnce = 7;  // of 16 bytes per lane
  const Shape& shape = args.shape;
  const Plan& plan = shared.plan;
  const int lane = threadIdx.x % 32, token = tokenOfRow(shape, plan, row), groups = shape.hiddenGroups();
  int expert = 0;
  while (plan.rowBase[expert + 1] <= row) ++expert;
  const int position = row - plan.rowBase[expert];
  const int tile = plan.tileBase[expert] + position / kTileTokens, slot = position % kTileTokens;
  const uint4* source = reinterpret_cast<const uint4*>(args.x.data + size_t(token) * shape.hidden);
  uint4* target = reinterpret_cast<uint4*>(args.workspace.input.data + size_t(tile) * groups * kTileBytes);
  float* targetScales = args.workspace.input.scales + size_t(tile) * groups * kTileTokens + slot;
  const int perPart = (groups + kPartsPerRow - 1) / kPartsPerRow;
  const int end = min(groups, (part + 1) * perPart);
  for (int first = part * perPart; first < end; first += 4 * kAtOnce) {  // groups
    const int group = first + lane;
    const bool scaled = lane < 4 * kAtOnce && group < end;
    const float scale = scaled ? args.x.scales[size_t(group) * shape.numTokens + token] : 0;
    uint4 chunks[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i)
      if (const int chunk = first * 8 + lane + 32 * i; chunk < end * 8) chunks[i] = source[chunk];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i)
      if (const int chunk = first * 8 + lane + 32 * i; chunk < end * 8)
        target[(chunk / 8 * 128 + slot) * 8 + (chunk % 8 ^ slot % 8)] = chunks[i];
    if (scaled) targetScales[group * kTileTokens] = scale;
  }
  __syncwarp();
  if (lane == 0) announce(shared.progress.packed + tile);
}

/// rowOf [numTokens, choices]: kNoRow where the expert is elsewhere. By all consumers.
__device__ inline void findRows(const Args& args, const Plan& plan, uint16_t* rowOf) {
  for (int pair = threadIdx.x; pair < args.shape.numPairs(); pair += kConsumers) rowOf[pair] = kNoRow;
  consumerBarrier();
  for (int row = threadIdx.x; row < plan.rowBase[args.shape.numLocal]; row += kConsumers)
    rowOf[plan.pairOf[row] & ~kSeveral] = row;
  consumerBarrier();
}

/// y of 256 columns of one token per turn: its rows, weighted, in ascending order of expert; by one warp. A token with one row has
/// its y already.
__device__ inline void combine(const Args& args, const Shared& shared, const uint16_t* rowOf, int first, int stride) {
  constexpr int kAtOnce = 4;
  const int lane = threadIdx.x % 32;
  const Shape& shape = args.shape;
  const int choices = shape.choices(), blocks = shape.hiddenPairs();
  for (int unit = first; unit < blocks * shape.numTokens; unit += stride) {
    const int token = unit % shape.numTokens, block = unit / shape.numTokens;
    const int column = block * kItemRows + lane * 8;
    const uint16_t* rows = rowOf + token * choices;
    int numRows = 0;
    for (int c = 0; c < choices; ++c) numRows += rows[c] != kNoRow;
    if (numRows == 1) continue;
    if (numRows > 0) waitAtLeast(shared.progress.down + block, shared.plan.tileBase[shape.numLocal]);
    float sum[8] = {};
    int last = -1;
    do {
      float weight[kAtOnce];
      const float4* values[kAtOnce];
      float4 low[kAtOnce], high[kAtOnce];
#pragma unroll
      for (int n = 0; n < kAtOnce; ++n) {
        int row = kNoRow, choice = 0;  // the next row in ascending order
        for (int c = 0; c < choices; ++c) {
          const int candidate = rows[c];
          if (candidate > last && candidate < row) {
            row = candidate;
            choice = c;
          }
        }
        last = row;
        weight[n] = row == kNoRow ? 0.f : weightOf(args, token, choice);
        values[n] = row == kNoRow || column >= shape.hidden
                        ? nullptr
                        : reinterpret_cast<const float4*>(args.workspace.rows + size_t(row) * shape.hidden + column);
      }
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
      if (rows[c] != kNoRow) discardLine(args.workspace.rows + size_t(rows[c]) * shape.hidden + column);
  }
}

}  // namespace rally::expert
