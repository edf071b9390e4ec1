// How the work of the expert feed-forward kernel is cut. Tokens of one expert are put into tiles of up to 128. The two blocks of a
// cluster work side by side on an item: either the same 256 weight rows for two token tiles, or one token tile for two times 256
// weight rows; what they have in common is fetched once. Items run along K in steps of 128. All steps of a phase in one line are
// dealt to the clusters in equal ranges, so an item may be cut: the cluster that holds its first part begins with it and hands its
// sums over; the one that holds the rest does it last and goes on from those sums. So the sums of a token run along K in one order
// wherever the cut is, and nobody waits in vain.
#pragma once

#include "kernels.h"

namespace rally::expert {

constexpr int kTileTokens = 128;
constexpr int kPartsPerRow = 2;  // of a token's way into its tile
constexpr int kItemRows = 256;  // weight rows of one block
constexpr int kMaxLocal = 64;
constexpr int kMaxRows = 4608;
constexpr int kMaxBlocks = 132;
constexpr int kTileBytes = 128 * 128;
constexpr uint16_t kNoRow = 0xffff;
constexpr uint16_t kSeveral = 0x8000;
static_assert(kMaxRows <= kSeveral);

/// One matrix product of all experts.
struct Phase {
  int numLocal;
  int rowPairs;  // 256 weight rows each, of one expert
  int kSteps;
  __host__ __device__ int sideBySide(int numTiles) const { return numTiles / 2 * rowPairs; }
  __host__ __device__ int alone(int numTiles) const { return numTiles % 2 * ((rowPairs + 1) / 2); }
  __host__ __device__ int items(int numTiles) const { return sideBySide(numTiles) + alone(numTiles); }
};

/// The part of an item that one block does: rows 256 * rowPair.. of the weights of `expert` times token tile `tile`, steps kBegin to
/// kEnd.
struct Segment {
  int expert;
  int tile;
  int firstRow;
  int numRows;  // tokens of the tile, 1 to 128
  int rowPair;
  int kBegin;
  int kEnd;
  int firstStep;    // which step of K is done first: others elsewhere, so that not all read the same memory at once
  bool sideBySide;  // the cluster's blocks have the weights in common, otherwise the tokens
};

/// What one cluster does in one phase, in order.
struct Range {
  int firstWhole;
  int endWhole;
  int headSteps;  // first steps of item endWhole, done first
  int tailBegin;  // from this step on of item firstWhole - 1, done last; 0: none
  int numSegments;
};

/// What is brought before the plan is there.
struct Guess {
  int tileBase[kMaxLocal + 1];
  int numStages;
  Segment first;
};

/// Rows are (token, choice) pairs with a local expert, in ascending order of expert, then token.
struct Plan {
  int rowBase[kMaxLocal + 1];
  int tileBase[kMaxLocal + 1];
  Range ranges[2];     // of this block's cluster in gate/up and down
  int numWrongStages;  // of weights that were guessed
  bool combines;    // a token has several rows, or none
  uint16_t pairOf[kMaxRows];  // token * choices + choice, and kSeveral where the token has other rows too
};

__host__ __device__ inline Range rangeOf(const int* tileBase, const Phase& phase, int cluster, int numClusters) {
  int numItems = 0;
  for (int e = 0; e < phase.numLocal; ++e) numItems += phase.items(tileBase[e + 1] - tileBase[e]);
  const int workers = numItems < numClusters ? numItems : numClusters;  // no range is shorter than an item
  if (cluster >= workers) return {0, 0, 0, 0, 0};
  const uint32_t numSteps = numItems * phase.kSteps, each = numSteps / workers, rest = numSteps % workers;
  const auto share = [&](uint32_t n) { return static_cast<int>(n * each + n * rest / workers); };
  const int begin = share(cluster), end = share(cluster + 1);
  Range range{(begin + phase.kSteps - 1) / phase.kSteps, end / phase.kSteps, end % phase.kSteps, begin % phase.kSteps, 0};
  range.numSegments = range.endWhole - range.firstWhole + (range.headSteps > 0) + (range.tailBegin > 0);
  return range;
}

/// rank: which block of the cluster. The second block may have nothing to do: rowPair is then phase.rowPairs.
__host__ __device__ inline Segment segmentOf(const int* tileBase, const int* rowBase, const Phase& phase, const Range& range,
                                             int index, int rank) {
  const int head = range.headSteps > 0;
  const bool isHead = head && index == 0;
  int item = isHead ? range.endWhole
             : index - head < range.endWhole - range.firstWhole ? range.firstWhole + index - head
                                                                : range.firstWhole - 1;
  Segment segment;
  segment.kBegin = item < range.firstWhole ? range.tailBegin : 0;
  segment.kEnd = isHead ? range.headSteps : phase.kSteps;
  int expert = 0, numTiles = 0, sideBySide = 0;
  for (;; ++expert) {
    numTiles = tileBase[expert + 1] - tileBase[expert];
    sideBySide = phase.sideBySide(numTiles);
    const int numItems = phase.items(numTiles);
    if (item < numItems) break;
    item -= numItems;
  }
  segment.expert = expert;
  segment.sideBySide = item < sideBySide;
  const int pairs = numTiles / 2;
  const int tile = segment.sideBySide ? item % pairs * 2 + rank : numTiles - 1;
  segment.rowPair = segment.sideBySide ? item / pairs : (item - sideBySide) * 2 + rank;
  segment.firstStep = segment.rowPair / 2 * phase.kSteps / ((phase.rowPairs + 1) / 2);
  segment.tile = tileBase[expert] + tile;
  segment.firstRow = rowBase[expert] + tile * kTileTokens;
  const int rest = rowBase[expert + 1] - segment.firstRow;
  segment.numRows = rest < kTileTokens ? rest : kTileTokens;
  return segment;
}

}  // namespace rally::expert
