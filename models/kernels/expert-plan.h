// How the work of the expert feed-forward kernel is cut. Tokens of one expert are put into tiles of up to 128; an item is 256 weight
// rows times one token tile, worked off along K in steps of 128. All steps of a phase in one line are dealt to the blocks in
// equal ranges, so an item may be cut: the block that holds its first part begins with it and hands its sums over; the block that
// holds the rest does it last and goes on from those sums. So the sums of a token run along K in one order wherever the cut is, and
// nobody waits in vain.
#pragma once

#include "kernels.h"

namespace rally::expert {

constexpr int kTileTokens = 128;
constexpr int kItemRows = 256;
constexpr int kMaxLocal = 64;
constexpr int kMaxRows = 4608;
constexpr int kMaxBlocks = 132;
constexpr int kTileBytes = 128 * 128;
constexpr uint16_t kNoRow = 0xffff;

/// Rows are (token, choice) pairs with a local expert, in ascending order of expert, then token.
struct Plan {
  int rowBase[kMaxLocal + 1];
  int tileBase[kMaxLocal + 1];
  uint16_t rowOf[kMaxRows];  // [numTokens, topK + 1] row, kNoRow: expert elsewhere; the last choice is the shared expert
};

/// Part of an item: rows 256 * rowPair.. of the weights of `expert` times token tile `tile`, steps kBegin to kEnd.
struct Segment {
  int expert;
  int tile;
  int firstRow;
  int numRows;  // tokens of the tile, 1 to 128
  int rowPair;
  int kBegin;
  int kEnd;
  bool shared;  // other tiles use the same weights
};

/// What one block does in one phase, in order.
struct Range {
  int kSteps;
  int rowPairs;
  int firstWhole;
  int endWhole;
  int headSteps;  // first steps of item endWhole, done first
  int tailBegin;  // from this step on of item firstWhole - 1, done last; 0: none
  int numSegments;
};

__host__ __device__ inline Range rangeOf(int block, int numBlocks, int numTiles, int rowPairs, int kSteps) {
  const int numItems = numTiles * rowPairs;
  const int numWorkers = numItems < numBlocks ? numItems : numBlocks;  // a range is never shorter than an item
  Range range{kSteps, rowPairs, 0, 0, 0, 0, 0};
  if (block >= numWorkers) return range;
  const int begin = static_cast<int>(int64_t{numItems} * kSteps * block / numWorkers);
  const int end = static_cast<int>(int64_t{numItems} * kSteps * (block + 1) / numWorkers);
  range.firstWhole = (begin + kSteps - 1) / kSteps;
  range.endWhole = end / kSteps;
  range.headSteps = end % kSteps;
  range.tailBegin = begin % kSteps;
  range.numSegments = range.endWhole - range.firstWhole + (range.headSteps > 0) + (range.tailBegin > 0);
  return range;
}

__device__ inline Segment segmentOf(const Plan& plan, const Range& range, int index) {
  const int head = range.headSteps > 0;
  const bool isHead = head && index == 0;
  const int item = isHead ? range.endWhole
                   : index - head < range.endWhole - range.firstWhole ? range.firstWhole + index - head
                                                                      : range.firstWhole - 1;
  Segment segment;
  segment.kBegin = item < range.firstWhole ? range.tailBegin : 0;
  segment.kEnd = isHead ? range.headSteps : range.kSteps;
  int expert = 0;
  while (plan.tileBase[expert + 1] * range.rowPairs <= item) ++expert;
  const int numTiles = plan.tileBase[expert + 1] - plan.tileBase[expert];
  const int within = item - plan.tileBase[expert] * range.rowPairs;
  const int tile = within % numTiles;
  segment.expert = expert;
  segment.rowPair = within / numTiles;
  segment.tile = plan.tileBase[expert] + tile;
  segment.firstRow = plan.rowBase[expert] + tile * kTileTokens;
  segment.numRows = min(kTileTokens, plan.rowBase[expert + 1] - segment.firstRow);
  segment.shared = numTiles > 1;
  return segment;
}

}  // namespace rally::expert
