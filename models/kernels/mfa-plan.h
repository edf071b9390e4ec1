// How the pages of all sequences are divided over the blocks of one launch, from the lengths on the device alone. Block b does
// everything between the places b and b + 1 in the order of sequences and pages. A place near a sequence's border moves onto it, and
// as many blocks are used as split the fewest sequences: the card's memory is busy with some blocks fewer, but a split sequence's
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
constexpr int kSequenceCost = 2;
/// The least that is worth a block.
constexpr int kMinBlockCost = 6;
/// Block counts considered.
constexpr int kNumCandidates = 36;

struct PlanStorage {
  int costBefore[kMaxSequences + 1];  // [numSequences + 1] cost of the sequences before
  int warpCosts[kMaxSequences / 32];
  int best;
  Place places[2];
};

struct Plan {
  Place begin;
  Place end;
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
  if (thread == 0) {
    storage.costBefore[0] = 0;
    storage.best = 0x7fffffff;
    storage.places[0] = storage.places[1] = {numSequences, 0};
  }
  __syncthreads();
  for (int w = 0; w < warp; ++w) sum += storage.warpCosts[w];
  storage.costBefore[thread + 1] = sum;
  __syncthreads();
  const int total = storage.costBefore[numSequences];

  const int maxBlocks = max(1, min(static_cast<int>(gridDim.x), total / kMinBlockCost));
  for (int candidate = warp; candidate < kNumCandidates; candidate += kMaxSequences / 32) {
    const int numBlocks = maxBlocks - candidate;
    if (numBlocks < 1 || numBlocks * 4 < maxBlocks * 3) break;
    const float blockCost = static_cast<float>(total) / numBlocks;
    const float slack = (2 + blockCost / 32) / blockCost;
    int aligned = 0;
    for (int first = 1; first < numSequences; first += 32) {
      const float place = storage.costBefore[min(first + lane, numSequences)] / blockCost;
      aligned += __popc(__ballot_sync(~0u, first + lane < numSequences && fabsf(place - rintf(place)) <= slack));
    }
    const int score = 2 * max(0, numBlocks - 1 - aligned) + candidate;
    if (lane == 0) atomicMin(&storage.best, score * 64 + candidate);
  }
  __syncthreads();

  const int numBlocks = maxBlocks - storage.best % 64;
  const int slack = 2 + total / numBlocks / 32;
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
  return {storage.places[0], storage.places[1]};
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
