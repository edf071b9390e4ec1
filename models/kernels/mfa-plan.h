// How the pages of all sequences are divided over the blocks of one launch, from the lengths on the device alone. Block b does
// everything between the places b and b + 1 in the order of sequences and pages. A place near a sequence's border moves onto it,
// and a few blocks are left out where that spares many splits: fewer blocks keep the card's memory busy too, but a split sequence's
// parts must be written and read again.
#pragma once

#include "kernels.h"

namespace rally::mfa {

struct Place {
  int sequence;
  int page;
};

constexpr int kMaxSequences = 384;
/// What a sequence costs besides its pages, in pages.
constexpr int kSequenceCost = 4;
/// So many splits are worth a block more.
constexpr int kBlockWorth = 4;
/// The least that is worth a block.
constexpr int kMinBlockCost = 8;

struct PlanStorage {
  int costBefore[kMaxSequences + 1];  // [numSequences + 1] cost of the sequences before
  int warpCosts[kMaxSequences / 32];
  int aligned[32];  // borders between sequences at places, per candidate
  Place places[2];
};

struct Plan {
  Place begin;
  Place end;
  int totalCost;
  int numBlocks;
  int slack;  // in pages
};

__device__ inline int numPages(int length, int maxPages) {
  return min((max(length, 0) + kPageTokens - 1) / kPageTokens, maxPages);
}

/// By all threads of a block of kMaxSequences threads.
__device__ inline Plan makePlan(PlanStorage& storage, Sequences sequences) {
  const int thread = threadIdx.x;
  const int lane = thread % 32;
  const int warp = thread / 32;
  const int numSequences = sequences.numSequences;
  const int cost =
      thread < numSequences ? numPages(sequences.lengths[thread], sequences.maxPages) + kSequenceCost : 0;
  int sum = cost;
  for (int step = 1; step < 32; step *= 2) {
    const int before = __shfl_up_sync(~0u, sum, step);
    if (lane >= step) sum += before;
  }
  if (lane == 31) storage.warpCosts[warp] = sum;
  if (warp == 0) storage.aligned[lane] = 0;
  if (thread == 0) {
    storage.costBefore[0] = 0;
    storage.places[0] = storage.places[1] = {numSequences, 0};
  }
  __syncthreads();
#pragma unroll
  for (int w = 0; w < kMaxSequences / 32; ++w) sum += w < warp ? storage.warpCosts[w] : 0;
  storage.costBefore[thread + 1] = sum;
  __syncthreads();
  const int total = storage.costBefore[numSequences];

  // lane = candidate; the warps share the borders between sequences
  const int maxBlocks = max(1, min(static_cast<int>(gridDim.x), total / kMinBlockCost));
  const int candidate = maxBlocks - lane;
  const float perCost = static_cast<float>(candidate) / total;
  const float nearby = perCost + 1.0f / 64;
  int aligned = 0;
#pragma unroll 4
  for (int border = 1 + warp; border < numSequences; border += kMaxSequences / 32) {
    const float place = storage.costBefore[border] * perCost;
    aligned += fabsf(place - rintf(place)) <= nearby;
  }
  atomicAdd(&storage.aligned[lane], aligned);
  __syncthreads();
  int score = max(0, candidate - 1 - storage.aligned[lane]) + kBlockWorth * lane;
  if (candidate < 1) score = 0x3ffffff;
  const int best = __reduce_min_sync(~0u, score * 32 + lane) % 32;

  const int numBlocks = maxBlocks - best;
  const int slack = 1 + total / numBlocks / 64;
  for (int side = 0; side < 2; ++side) {
    const int block = blockIdx.x + side;
    if (block >= numBlocks || thread >= numSequences) break;
    const int before = storage.costBefore[thread];
    const int offset = block * total / numBlocks - before;
    if (offset < 0 || offset >= cost) continue;
    const int pages = cost - kSequenceCost;
    const int page = min(max(offset - kSequenceCost / 2, 0), pages);
    if (block == 0 || page <= slack) {
      storage.places[side] = {thread, 0};
    } else if (pages - page <= slack) {
      storage.places[side] = {thread + 1, 0};
    } else {
      storage.places[side] = {thread, page};
    }
  }
  __syncthreads();
  return {storage.places[0], storage.places[1], total, numBlocks, slack};
}

/// The blocks that have parts of a sequence, one after another.
struct Sharing {
  int firstBlock;
  int numBlocks;
};

/// From makePlan's rule which places come to lie within the sequence's pages.
__device__ inline Sharing sharingOf(const Plan& plan, const PlanStorage& storage, int sequence) {
  const int before = storage.costBefore[sequence];
  const int pages = storage.costBefore[sequence + 1] - before - kSequenceCost;
  auto firstFrom = [&](int cost) { return (cost * plan.numBlocks + plan.totalCost - 1) / plan.totalCost; };
  const int firstWithin = firstFrom(before + kSequenceCost / 2 + plan.slack + 1);
  const int firstBeyond = firstFrom(before + kSequenceCost / 2 + pages - plan.slack);
  return {firstWithin - 1, firstBeyond - firstWithin + 1};
}

/// The pages [from, to) of one sequence that a block does.
struct Item {
  int sequence;
  int from;
  int to;
  int pages;  // of the whole sequence
  __device__ bool isWhole() const { return from == 0 && to == pages; }
};

/// Calls visit(Item) for each item of a block, in order.
template <typename Visit>
__device__ void forEachItem(const Plan& plan, const PlanStorage& storage, int numSequences, Visit visit) {
  const int last = plan.end.page > 0 ? plan.end.sequence : plan.end.sequence - 1;
  for (int sequence = plan.begin.sequence; sequence <= last && sequence < numSequences; ++sequence) {
    const int pages = storage.costBefore[sequence + 1] - storage.costBefore[sequence] - kSequenceCost;
    visit(Item{sequence, sequence == plan.begin.sequence ? plan.begin.page : 0,
               sequence == plan.end.sequence ? plan.end.page : pages, pages});
  }
}

}  // namespace rally::mfa
