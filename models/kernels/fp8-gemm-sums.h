// The end of a GEMM's block: the parts of K of a row tile meet in shared memory, where the ring was, and become y.
#pragma once

#include "fp8-gemm-tiling.h"
#include "vectors.h"

namespace rally::gemm {

template <int tokens>
__device__ void meetConsumers() {
  asm volatile("bar.sync 1, %0;" ::"n"(Tiling<tokens>::kConsumers) : "memory");
}

__device__ inline float4 operator+(float4 a, float4 b) { return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w}; }

/// In one instruction, which the compiler does not see for itself.
__device__ inline void storeShared(float* place, float2 value) {
  asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(sharedAddress(place)), "f"(value.x), "f"(value.y) : "memory");
}
__device__ inline void storeShared(float* place, float value) { *place = value; }

/// Of a row tile's `splits` blocks, block s finishes the s-th share of the tokens: it receives the others' sums of them.
template <int tokens, int rowTiles, int splits>
class Sums {
 public:
  using Tiles = Tiling<tokens>;
  static constexpr int kMaxShare = (tokens + splits - 1) / splits;
  static constexpr int kBytes = (tokens + (splits - 1) * kMaxShare) * kGroup * int{sizeof(float)};

  __device__ Sums(const Ring<tokens>& ring, const Part& part, const Shape& shape)
      : own(reinterpret_cast<float*>(ring.stages)), received(own + tokens * kGroup), ready(ring.summed), part(part), shape(shape),
        share((shape.numTokens + splits - 1) / splits), firstToken(part.split * share) {}

  /// By one thread, before the cluster meets.
  __device__ void prepare() const {
    initialise(ready, 1);
    arriveExpecting(ready, (splits - 1) * bytesOf(part.split));
  }

  /// By all consumers, when no consumer of this block reads the ring any more. Takes part in one meeting of the cluster.
  __device__ void exchange(const Tiles& product) const {
    product.each(shape.numTokens, [&](int token, int column, auto value) {
      storeShared(own + placeOf(token, column), value);
    });
    if constexpr (splits > 1) fenceForAsync();
    meetConsumers<tokens>();
    if constexpr (splits > 1) {
      meetCluster();  // nobody reads the ring where the sums go
      if (threadIdx.x < splits && threadIdx.x != part.split) send(threadIdx.x);
      wait(ready, 0);
    }
  }

  /// By all consumers: adds the parts in order and writes y. A warp does a token, several at once.
  __device__ void write(const Bf16* addend, Bf16* y) const {
    constexpr int kAtOnce = 4;
    const int end = min(firstToken + share, shape.numTokens);
    const int column = 4 * (threadIdx.x % 32);
    for (int first = firstToken + threadIdx.x / 32; first < end; first += kAtOnce * Tiles::kConsumerWarps) {
      Bf16x4 added[kAtOnce] = {};
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const int token = min(first + i * Tiles::kConsumerWarps, end - 1);
        if (addend != nullptr) added[i] = *reinterpret_cast<const Bf16x4*>(addend + outputOf(token, column));
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const int token = first + i * Tiles::kConsumerWarps;
        if (token >= end) break;
        float4 sum = sumOf(0, token, column);
#pragma unroll
        for (int split = 1; split < splits; ++split) sum = sum + sumOf(split, token, column);
        if (addend != nullptr) sum = sum + widen(added[i]);
        *reinterpret_cast<Bf16x4*>(y + outputOf(token, column)) = narrow(sum);
      }
    }
  }

 private:
  /// Of [token, column] in units of floats, so that what a warp stores or loads at once lies in different banks. A token's row is
  /// contiguous, and looks the same in a share that starts anywhere: only its own number counts.
  __device__ static int placeOf(int token, int column) { return token * kGroup + (column ^ (token % 4 * 8)); }

  __device__ uint32_t bytesOf(int split) const {
    return max(0, min(share, shape.numTokens - split * share)) * kGroup * sizeof(float);
  }

  /// Where the sums of block `from` for block `to` lie there.
  __device__ float* placeFor(int from, int to) const { return received + (from < to ? from : from - 1) * share * kGroup; }

  __device__ void send(int to) const {
    const uint32_t rank = to * rowTiles + clusterRank() % rowTiles;
    const uint32_t numBytes = bytesOf(to);
    if (numBytes == 0) return;
    copyTo(addressAt(sharedAddress(placeFor(part.split, to)), rank), own + to * share * kGroup, numBytes,
           addressAt(sharedAddress(ready), rank));
  }

  __device__ float4 sumOf(int split, int token, int column) const {
    const float* const part0 = split == part.split ? own : placeFor(split, part.split) - firstToken * kGroup;
    return *reinterpret_cast<const float4*>(part0 + placeOf(token, column));
  }
  __device__ int64_t outputOf(int token, int column) const {
    return static_cast<int64_t>(token) * shape.n + part.rowTile * kGroup + column;
  }

  float* const own;       // [tokens, 128]
  float* const received;  // [splits - 1, share, 128]
  Barrier* const ready;
  const Part& part;
  const Shape& shape;
  const int share;
  const int firstToken;
};

}  // namespace rally::gemm
