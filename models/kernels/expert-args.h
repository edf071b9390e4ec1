// What the expert feed-forward kernel gets, and how its workspace is laid out.
#pragma once

#include "expert-plan.h"

namespace rally::expert {

struct Shape {
  int numTokens;
  int topK;
  int numLocal;
  int sharedLocal;  // -1: none
  int hidden;
  int inter;
  /// Of a token: topK, and the shared expert after them.
  __host__ __device__ int choices() const { return topK + (sharedLocal >= 0 || topK == 0); }
  __host__ __device__ int numPairs() const { return numTokens * choices(); }
  __host__ __device__ int maxTiles() const { return numLocal + numPairs() / kTileTokens; }
  __host__ __device__ int hiddenGroups() const { return hidden / kGroup; }
  __host__ __device__ int interGroups() const { return inter / kGroup; }
  __host__ __device__ int hiddenPairs() const { return (hidden + kItemRows - 1) / kItemRows; }
  __host__ __device__ int numCounters() const { return maxTiles() * (1 + interGroups()) + 2 * kMaxBlocks + hiddenPairs(); }
  /// 0: gate and up, 1: down.
  __host__ __device__ Phase phase(int p) const {
    return p == 0 ? Phase{numLocal, interGroups(), hiddenGroups()} : Phase{numLocal, hiddenPairs(), interGroups()};
  }
};

/// Activations per token tile, as bulk copies want them; unused rows are never written nor looked at.
struct PackedActivations {
  E4m3* data;     // [maxTiles, K / 128, 128, 128], swizzled as Weights::tiles
  float* scales;  // [maxTiles, K / 128, 128]
};

/// Progress of one call; zero at its start.
struct Progress {
  int* packed;      // [maxTiles] parts of rows of the tile that lie in `input`, kPartsPerRow each
  int* activated;   // [maxTiles, inter / 128] 1: that group of `middle` is there
  int* handedOver;  // [2, kMaxBlocks] 1: the block's sums of that phase are there
  int* down;        // [hidden / 256] token tiles whose rows of `rows` are there
};

/// First in every workspace, whatever the shapes of its calls. Zeroed once by its owner. A call counts in one set and clears the
/// other for the next call.
struct Counters {
  static constexpr int kInts = 16384;
  int numCalls;
  int numStarted;  // blocks of the call that begins
  alignas(128) int sets[2][kInts];
};

struct Workspace {
  Counters* counters;
  PackedActivations input;   // K = hidden
  PackedActivations middle;  // K = inter
  float* rows;               // [numPairs, hidden] not yet weighted; of tokens with several
  float* sums;               // [2, kMaxBlocks, 256 x 128]
  size_t bytes;
};

__device__ inline Progress progressIn(const Workspace& workspace, const Shape& shape, int set) {
  int* first = workspace.counters->sets[set];
  int* activated = first + shape.maxTiles();
  int* handedOver = activated + shape.maxTiles() * shape.interGroups();
  return {first, activated, handedOver, handedOver + 2 * kMaxBlocks};
}

inline Workspace workspaceAt(void* base, const Shape& shape) {
  char* next = static_cast<char*>(base);
  const auto take = [&next](size_t bytes) {
    char* at = next;
    next += (bytes + 1023) / 1024 * 1024;
    return at;
  };
  const size_t tiles = shape.maxTiles();
  Workspace w;
  w.counters = reinterpret_cast<Counters*>(take(sizeof(Counters)));
  w.input.data = reinterpret_cast<E4m3*>(take(tiles * shape.hiddenGroups() * kTileBytes));
  w.input.scales = reinterpret_cast<float*>(take(tiles * shape.hiddenGroups() * kTileTokens * 4));
  w.middle.data = reinterpret_cast<E4m3*>(take(tiles * shape.interGroups() * kTileBytes));
  w.middle.scales = reinterpret_cast<float*>(take(tiles * shape.interGroups() * kTileTokens * 4));
  w.rows = reinterpret_cast<float*>(take(size_t(shape.numPairs()) * shape.hidden * 4));
  w.sums = reinterpret_cast<float*>(take(size_t{2} * kMaxBlocks * kItemRows * kTileTokens * 4));
  w.bytes = next - static_cast<char*>(base);
  return w;
}

struct Args {
  Shape shape;
  Activations x;
  const int32_t* expertIds;    // [numTokens, topK]
  const float* expertWeights;  // [numTokens, topK]
  const int32_t* localOf;
  ExpertWeights weights;
  Bf16* y;
  Workspace workspace;
};

}  // namespace rally::expert
