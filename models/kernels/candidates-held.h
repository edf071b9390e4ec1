// The logits that a thread of topCandidates holds, and the keys that order them.
#pragma once

#include "vectors.h"

namespace rally::candidates {

constexpr int kRun = 8;
constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
constexpr int kRunsPerThread = 4;
constexpr int kSlice = kThreads * kRunsPerThread * kRun;  // logits of a slice, at most
static_assert(kSlice < 65536, "an index within a slice fits half a key");

/// Order-preserving: larger bf16 values have larger bits, both zeros the same. 0 is left for "none" (it would be a NaN).
__device__ inline uint32_t orderedBits(Bf16 value) {
  uint32_t bits = __bfloat16_as_ushort(value);
  if (bits == 0x8000) bits = 0;
  return bits & 0x8000 ? ~bits & 0xffff : bits | 0x8000;
}
__device__ inline float valueOf(uint32_t ordered) {
  return __bfloat162float(__ushort_as_bfloat16(ordered & 0x8000 ? ordered & 0x7fff : ~ordered & 0xffff));
}
__device__ inline uint32_t sliceKey(Bf16 value, int index) { return orderedBits(value) << 16 | (0xffff - index); }

constexpr uint32_t kMinusInfinities = 0xff80ff80;

/// The logits that a thread holds, two in a word; those past the end of the slice are the most negative.
struct Held {
  uint32_t words[kRunsPerThread][kRun / 2];
  int end;  // of the slice, counted from its begin

  __device__ void load(const Bf16* row, int begin, int sliceEnd, bool aligned) {
    end = sliceEnd - begin;
#pragma unroll
    for (int r = 0; r < kRunsPerThread; ++r) {
      const Bf16* const run = row + begin + indexOf(r, 0);
      if (aligned && indexOf(r, kRun) <= end) {
        const uint4 four = *reinterpret_cast<const uint4*>(run);
        words[r][0] = four.x, words[r][1] = four.y, words[r][2] = four.z, words[r][3] = four.w;
        continue;
      }
#pragma unroll
      for (int i = 0; i < kRun / 2; ++i) {
        words[r][i] = kMinusInfinities;
        if (indexOf(r, 2 * i) < end) words[r][i] = (words[r][i] & 0xffff0000) | __bfloat16_as_ushort(run[2 * i]);
        if (indexOf(r, 2 * i + 1) < end) {
          words[r][i] = (words[r][i] & 0xffff) | static_cast<uint32_t>(__bfloat16_as_ushort(run[2 * i + 1])) << 16;
        }
      }
    }
  }
  __device__ static int indexOf(int run, int i) { return run * kThreads * kRun + static_cast<int>(threadIdx.x) * kRun + i; }

  /// Not-a-numbers are passed over.
  __device__ float largest() const {
    __nv_bfloat162 most = pairOf(kMinusInfinities);
#pragma unroll
    for (int r = 0; r < kRunsPerThread; ++r) {
#pragma unroll
      for (int i = 0; i < kRun / 2; ++i) most = __hmax2(most, pairOf(words[r][i]));
    }
    return fmaxf(__low2float(most), __high2float(most));
  }

  /// Of exp(logit - base).
  __device__ float sumOfExponentials(float base) const {
    constexpr float kLog2E = 1.44269504f;
    const float offset = -base * kLog2E;
    float sum = 0;
#pragma unroll
    for (int r = 0; r < kRunsPerThread; ++r) {
#pragma unroll
      for (int i = 0; i < kRun / 2; ++i) {
        const float2 pair = widenPair(words[r][i]);
        sum += exp2f(fmaf(pair.x, kLog2E, offset)) + exp2f(fmaf(pair.y, kLog2E, offset));
      }
    }
    return sum;
  }

  /// Calls with the key of every logit that is at least `bound`.
  template <typename Use>
  __device__ void eachFrom(float bound, Use use) const {
    const __nv_bfloat162 bounds = __float2bfloat162_rn(bound);
#pragma unroll
    for (int r = 0; r < kRunsPerThread; ++r) {
#pragma unroll
      for (int i = 0; i < kRun / 2; ++i) {
        const uint32_t mask = __hge2_mask(pairOf(words[r][i]), bounds);
        if (mask == 0) continue;
        const int index = indexOf(r, 2 * i);
        if (mask & 0xffff && index < end) use(sliceKey(__ushort_as_bfloat16(words[r][i] & 0xffff), index));
        if (mask >> 16 && index + 1 < end) use(sliceKey(__ushort_as_bfloat16(words[r][i] >> 16), index + 1));
      }
    }
  }
  /// Of those below `limit`; 0: none.
  __device__ uint32_t largestKeyBelow(uint32_t limit) const {
    uint32_t most = 0;
    eachFrom(-INFINITY, [&](uint32_t key) { most = key < limit ? max(most, key) : most; });
    return most;
  }

 private:
  __device__ static __nv_bfloat162 pairOf(uint32_t word) { return reinterpret_cast<const __nv_bfloat162&>(word); }
};

}  // namespace rally::candidates
