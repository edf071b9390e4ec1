// MFA's decode attention: one persistent block per multiprocessor streams its share of all pages (mfa-plan.h) through rings in shared
// memory; two warpgroups take every other page (mfa-tile.h) and add up at the end of each sequence (mfa-output.h).
#include "copy.h"
#include "kernels.h"
#include "launch.h"
#include "mfa-join.h"
#include "mfa-output.h"
#include "mfa-page.h"
#include "mfa-plan.h"
#include "mfa-tile.h"

namespace rally {
namespace mfa {

constexpr int kThreads = kMaxSequences;
constexpr int kConsumerWarps = 8;

/// A ring for each of the two warpgroups, since each skips the other's pages and a barrier's parity tells only neighbouring phases
/// apart. Its units hold keys (with their scales) and values of the pages, alternately. More units do worse: what is in flight beyond
/// 64 to 128 KB only queues.
template <KvType type>
struct alignas(1024) Shared {
  static constexpr int kNumUnits = 2;
  static constexpr int kUnitBytes = (Layout<type>::kValueStart + 1023) / 1024 * 1024;
  uint8_t units[2][kNumUnits][kUnitBytes];
  uint8_t query[Layout<type>::kQueryBytes];
  Exchange exchange;
  Barrier full[2][kNumUnits];
  Barrier empty[2][kNumUnits];
  Barrier queryFull;
  Barrier queryEmpty;
  PlanStorage plan;
};

/// A place in the ring; the phase's parity flips with each turn.
template <int numUnits>
struct Cursor {
  int unit = 0;
  uint32_t parity = 0;
  __device__ void advance() {
    if (++unit == numUnits) {
      unit = 0;
      parity ^= 1;
    }
  }
};

/// Fills the ring of one warpgroup: by one warp.
template <KvType type>
__device__ void producePages(Shared<type>& shared, int warpgroup, const Plan& plan, const uint8_t* pages, Sequences sequences) {
  Cursor<Shared<type>::kNumUnits> cursor;
  const int lane = threadIdx.x % 32;
  int turn = 0;
  forEachItem(plan, shared.plan, sequences.numSequences, [&](Item item) {
    if (item.from == item.to) return;
    const int32_t* table = sequences.pageTable + static_cast<size_t>(item.sequence) * sequences.maxPages;
    int nextIds = item.from + lane < item.to ? table[item.from + lane] : 0;
    for (int first = item.from; first < item.to; first += 32) {
      const int ids = nextIds;
      nextIds = first + 32 + lane < item.to ? table[first + 32 + lane] : 0;
      for (int i = 0; i < min(32, item.to - first); ++i, turn ^= 1) {
        const uint8_t* page = pages + static_cast<size_t>(__shfl_sync(~0u, ids, i)) * Layout<type>::kPageBytes;
        if (turn != warpgroup) continue;
        for (int part = 0; part < 2; ++part) {
          if (lane == 0) {
            Barrier* full = &shared.full[warpgroup][cursor.unit];
            const int numBytes = part == 0 ? Layout<type>::kValueStart : Layout<type>::kValueBytes;
            wait(&shared.empty[warpgroup][cursor.unit], cursor.parity ^ 1);
            arriveExpecting(full, numBytes);
            copyOnce(shared.units[warpgroup][cursor.unit], page + part * Layout<type>::kValueStart, numBytes, full);
          }
          cursor.advance();
        }
      }
    }
  });
}

template <KvType type>
__device__ void produceQueries(Shared<type>& shared, const Plan& plan, const uint8_t* rotated, int numSequences) {
  uint32_t parity = 1;
  forEachItem(plan, shared.plan, numSequences, [&](Item item) {
    if (item.from == item.to) return;
    wait(&shared.queryEmpty, parity);
    parity ^= 1;
    arriveExpecting(&shared.queryFull, Layout<type>::kQueryBytes);
    copyOnce(shared.query, rotated + static_cast<size_t>(item.sequence) * Layout<type>::kQueryBytes,
             Layout<type>::kQueryBytes, &shared.queryFull);
  });
}

template <KvType type>
__device__ void consume(Shared<type>& shared, const Plan& plan, Sequences sequences, Activations out, Workspace workspace) {
  const int warpgroup = threadIdx.x / 128;
  Cursor<Shared<type>::kNumUnits> cursor;
  uint32_t queryParity = 0;
  int turn = 0;
  auto awaitUnit = [&] { wait(&shared.full[warpgroup][cursor.unit], cursor.parity); };
  auto release = [&] {
    arrive(&shared.empty[warpgroup][cursor.unit]);
    cursor.advance();
  };
  forEachItem(plan, shared.plan, sequences.numSequences, [&](Item item) {
    Half half = {};
    if (item.from < item.to) {
      State state = {{-INFINITY, -INFINITY}, {0, 0}, {}};
      const int length = sequences.lengths[item.sequence];
      float queryScales[2] = {1, 1};
      wait(&shared.queryFull, queryParity);
      queryParity ^= 1;
      if constexpr (type == KvType::kE4m3) {
        const float* scales = reinterpret_cast<const float*>(shared.query + kHeads * kHeadDim);
        const int head = threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
        queryScales[0] = scales[head];
        queryScales[1] = scales[head + 8];
      }
      for (int page = item.from; page < item.to; ++page, turn ^= 1) {
        if (turn != warpgroup) continue;
        float scores[32];
        float shrink[2];
        uint32_t packed[Layout<type>::kIsFp8 ? 2 : 4][4];
        const uint8_t* keys = shared.units[warpgroup][cursor.unit];
        awaitUnit();
        scorePage<type>(scores, shared.query, keys);
        if (!Layout<type>::kIsFp8) release();
        softmaxPage<type>(scores, state, shrink, queryScales, reinterpret_cast<const float*>(keys + Layout<type>::kKeyBytes),
                          length - page * kPageTokens);
        if (Layout<type>::kIsFp8) release();  // the scales are read
        packProbabilities<type>(scores, packed);
        awaitUnit();
        addValues<type>(state, scores, packed, shrink, shared.units[warpgroup][cursor.unit]);
        release();
      }
      arrive(&shared.queryEmpty);
      if (!Layout<type>::kIsFp8) {
        state.maximum[0] *= kLogitScale;
        state.maximum[1] *= kLogitScale;
      }

      addUp(state, half, shared.exchange, warpgroup);
    }
    if (item.isWhole() || join(half, workspace, sharingOf(plan, shared.plan, item.sequence))) {
      storeQuantised(half, warpgroup, item.sequence, sequences.numSequences, out);
    }
  });
}

template <KvType type>
__global__ void __launch_bounds__(kThreads, 1)
    decodeKernel(const uint8_t* rotated, const uint8_t* pages, Sequences sequences, Activations out, Workspace workspace) {
  extern __shared__ __align__(1024) uint8_t memory[];
  Shared<type>& shared = *reinterpret_cast<Shared<type>*>(memory);
  letNextStart();
  if (threadIdx.x == 0) {
    for (int warpgroup = 0; warpgroup < 2; ++warpgroup) {
      for (int unit = 0; unit < Shared<type>::kNumUnits; ++unit) {
        initialise(&shared.full[warpgroup][unit], 1);
        initialise(&shared.empty[warpgroup][unit], 128);
      }
    }
    initialise(&shared.queryFull, 1);
    initialise(&shared.queryEmpty, 32 * kConsumerWarps);
    fenceBarriers();
  }
  // Of the lengths, which ropeAppend has read too, and it starts this kernel only once all before it is over. The plan's barriers
  // cover the initialisation.
  const Plan plan = makePlan(shared.plan, sequences);
  waitForPrevious();

  if (threadIdx.x >= 32 * kConsumerWarps) {
    shrinkRegisters<40>();
    const int warp = threadIdx.x / 32 - kConsumerWarps;
    if (warp < 2) {
      producePages<type>(shared, warp, plan, pages, sequences);
    } else if (threadIdx.x == 32 * (kConsumerWarps + 2)) {
      produceQueries<type>(shared, plan, rotated, sequences.numSequences);
    }
  } else {
    growRegisters<232>();
    consume<type>(shared, plan, sequences, out, workspace);
  }
}

static int numMultiprocessors() {
  int device = 0;
  int count = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 0;
  if (cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) != cudaSuccess) return 0;
  return count;
}

static size_t countersBytes(int numBlocks) { return kJoinLevels * 2 * numBlocks * sizeof(Counters); }

template <KvType type>
static cudaError_t decode(const void* rotated, const void* pages, Sequences sequences, Activations out, void* workspace,
                          cudaStream_t stream) {
  const int numBlocks = numMultiprocessors();
  const cudaError_t error =
      cudaFuncSetAttribute(decodeKernel<type>, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(Shared<type>));
  if (error != cudaSuccess) return error;
  const Workspace divided = {static_cast<Counters*>(workspace),
                             reinterpret_cast<Part*>(static_cast<uint8_t*>(workspace) + countersBytes(numBlocks)), 2 * numBlocks};
  return launch(decodeKernel<type>, {dim3(numBlocks), dim3(kThreads), sizeof(Shared<type>)}, stream,
                static_cast<const uint8_t*>(rotated), static_cast<const uint8_t*>(pages), sequences, out, divided);
}

}  // namespace mfa

cudaError_t mfaDecode(const void* rotated, KvPool pool, Sequences sequences, Activations out, int numHeads, void* workspace,
                      cudaStream_t stream) {
  if (numHeads != mfa::kHeads || pool.headDim != mfa::kHeadDim || sequences.numSequences < 1 ||
      sequences.numSequences > mfa::kMaxSequences) {
    return cudaErrorInvalidValue;
  }
  switch (pool.type) {
    case KvType::kE4m3:
      return mfa::decode<KvType::kE4m3>(rotated, pool.pages, sequences, out, workspace, stream);
    case KvType::kBf16:
      return mfa::decode<KvType::kBf16>(rotated, pool.pages, sequences, out, workspace, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

size_t mfaWorkspaceBytes(int, int, int, int) {
  const int numBlocks = mfa::numMultiprocessors();
  return mfa::countersBytes(numBlocks) + 2 * numBlocks * sizeof(mfa::Part);
}

}  // namespace rally
