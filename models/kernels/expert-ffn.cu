// expertFfn as one persistent cooperative launch: every block plans the same routing for itself, gathers its share of the tokens,
// works off its share of gate/up, then of down, and sums its share of the tokens' rows. Weights stream through a ring of their own
// that runs ahead over all waits of the activations, so that the device memory never idles between the phases.
#include "expert-route.h"
#include "expert-tile.h"

namespace rally {
namespace expert {
namespace {

constexpr int kThreads = 384;  // two warpgroups of consumers, one with the producing and announcing warps
static_assert(sizeof(Shared) + 1024 <= 232448);

/// One warp. At most kStagesInFlight stages are asked for and not there yet: more would only queue up in front of everybody else's
/// accesses to memory.
__device__ void produceWeights(const Args& args, Shared& shared) {
  const int lane = threadIdx.x % 32;
  Turn<kWeightStages> turn, arrived;
  int numInFlight = 0;
  for (int p = 0; p < 2; ++p) {
    const Work work(args.shape, shared.plan, p);
    const Weights& weights = p == 0 ? args.weights.gateUp : args.weights.down;
    const int rowTiles = p == 0 ? 2 * args.shape.interGroups() : args.shape.hiddenGroups(), kSteps = work.phase.kSteps;
    for (int s = 0; s < work.numSegments(); ++s) {
      const Segment segment = work.segment(s);
      const int numTiles = max(0, min(2, rowTiles - 2 * segment.rowPair));
      const int maxInFlight = segment.sideBySide ? 2 * kStagesInFlight : kStagesInFlight;  // of which the other block asks for half
      const size_t firstTile = (size_t(segment.expert) * rowTiles + 2 * segment.rowPair) * kSteps;
      float scales[2], nextScales[2];  // lane n: of step 32 * i + n; [0] and [1]: of the two tiles
      const auto loadScales = [&](int step) {
        const int at = (step + lane + segment.firstStep) % kSteps;
        for (int t = 0; t < 2; ++t) nextScales[t] = t < numTiles ? __ldg(weights.scales + firstTile + t * kSteps + at) : 0;
      };
      loadScales(segment.kBegin);
      for (int k = segment.kBegin; k < segment.kEnd; ++k) {
        const int within = (k - segment.kBegin) % 32;
        if (within == 0) {
          scales[0] = nextScales[0];
          scales[1] = nextScales[1];
          loadScales(k + 32);
        }
        const float first = __shfl_sync(~0u, scales[0], within), second = __shfl_sync(~0u, scales[1], within);
        if (lane == 0) {
          for (; numInFlight >= maxInFlight; --numInFlight) {
            wait(&shared.fullWeights[arrived.stage], arrived.parity);
            arrived.next();
          }
          ++numInFlight;
          Barrier* full = &shared.fullWeights[turn.stage];
          wait(&shared.emptyWeights[turn.stage], turn.parity ^ 1);
          shared.weightScales[turn.stage][0] = first;
          shared.weightScales[turn.stage][1] = second;
          arriveExpecting(full, numTiles * kTileBytes);
          const int step = (k + segment.firstStep) % kSteps;
          for (int t = 0; t < numTiles; ++t) {
            const E4m3* source = weights.tiles + (firstTile + t * kSteps + step) * kTileBytes;
            uint8_t* target = shared.weights[turn.stage] + t * kTileBytes;
            if (!segment.sideBySide)
              copyOnce(target, source, kTileBytes, full);
            else if (t == work.rank())
              copyOnceToBoth(target, source, kTileBytes, full);
          }
        }
        __syncwarp();
        turn.next();
      }
    }
  }
}

/// One warp.
__device__ void produceActivations(const Args& args, Shared& shared) {
  const int lane = threadIdx.x % 32;
  const Progress& progress = args.workspace.progress;
  Turn<kActivationStages> turn;
  for (int p = 0; p < 2; ++p) {
    const Work work(args.shape, shared.plan, p);
    const int kSteps = work.phase.kSteps;
    const PackedActivations& source = p == 0 ? args.workspace.input : args.workspace.middle;
    for (int s = 0; s < work.numSegments(); ++s) {
      const Segment segment = work.segment(s);
      const int tokens = fetchedTokens(segment.numRows);
      const int share = segment.sideBySide ? tokens : tokens / 2;  // what this block fetches
      const int first = segment.sideBySide ? 0 : work.rank() * share;
      if (p == 0) {
        waitAtLeast(progress.packed + segment.tile, segment.numRows);
        fenceGlobalForAsync();
      }
      int ready = p == 0 ? segment.kEnd : segment.kBegin;  // steps before it are there
      for (int k = segment.kBegin; k < segment.kEnd; ++k) {
        while (ready <= k) {
          const int step = (k + lane + segment.firstStep) % kSteps;
          const bool there = loadAcquire(progress.activated + size_t(segment.tile) * kSteps + step) > 0;
          const unsigned missing = ~__ballot_sync(~0u, there);
          ready = k + (missing == 0 ? 32 : __ffs(missing) - 1);
          fenceGlobalForAsync();
        }
        if (lane == 0) {
          Barrier* full = &shared.fullActivations[turn.stage];
          const size_t tile = size_t(segment.tile) * kSteps + (k + segment.firstStep) % kSteps;
          const E4m3* data = source.data + tile * kTileBytes + first * kGroup;
          const float* scales = source.scales + tile * kTileTokens + first;
          uint8_t* dataTarget = shared.activations[turn.stage] + first * kGroup;
          float* scalesTarget = shared.scales[turn.stage] + first;
          wait(&shared.emptyActivations[turn.stage], turn.parity ^ 1);
          arriveExpecting(full, tokens * (kGroup + 4));
          if (segment.sideBySide) {
            copy(dataTarget, data, share * kGroup, full);
            copy(scalesTarget, scales, share * 4, full);
          } else {
            copyToBoth(dataTarget, data, share * kGroup, full);
            copyToBoth(scalesTarget, scales, share * 4, full);
          }
        }
        __syncwarp();
        turn.next();
      }
    }
  }
}

/// One warp. Tells other blocks what the consumers have written, so that those need not wait until it is visible.
__device__ void announceSegments(const Args& args, Shared& shared) {
  const Progress& progress = args.workspace.progress;
  uint32_t parity = 0;
  for (int p = 0; p < 2; ++p) {
    const Work work(args.shape, shared.plan, p);
    for (int s = 0; s < work.numSegments(); ++s) {
      const Segment segment = work.segment(s);
      if (segment.rowPair >= work.phase.rowPairs) continue;
      int* counter = segment.kEnd < work.phase.kSteps ? progress.handedOver + p * kMaxBlocks + blockIdx.x
                     : p == 0 ? progress.activated + size_t(segment.tile) * work.phase.rowPairs + segment.rowPair
                              : progress.down + segment.rowPair;
      wait(&shared.written, parity);
      parity ^= 1;
      if (threadIdx.x % 32 == 0) {
        announce(counter);
        arrive(&shared.announced);
      }
      __syncwarp();
    }
  }
}

__device__ void consume(const Args& args, Shared& shared, Gather& gather) {
  const int thread = threadIdx.x, warp = thread / 32;
  const int numWarps = gridDim.x * (kConsumers / 32), warpId = warp * gridDim.x + blockIdx.x;
  gather.store(args, shared.plan, warpId);
  for (int pair = warpId + numWarps; pair < args.shape.numPairs(); pair += numWarps) {
    gather.load(args, pair);
    gather.store(args, shared.plan, pair);
  }
  if (warp >= 4) asm volatile("bar.arrive 2, 256;" ::: "memory");  // the first warpgroup begins, see awaitTurn
  Consumer consumer{args, shared, thread, warp / 4, warp % 4, thread % 32, {}, {}};
  for (int p = 0; p < 2; ++p) {
    const Work work(args.shape, shared.plan, p);
    for (int s = 0; s < work.numSegments(); ++s) consumer.run(work, s, p);
  }
  combine(args, shared.plan, warpId, numWarps);
}

__global__ void __cluster_dims__(2) __launch_bounds__(kThreads, 1) ffnKernel(const __grid_constant__ Args args) {
  extern __shared__ uint8_t raw[];
  Shared& shared = *reinterpret_cast<Shared*>(raw + (1024 - sharedAddress(raw) % 1024) % 1024);
  if (threadIdx.x == 0) {
    for (int i = 0; i < kWeightStages; ++i) {
      initialise(&shared.fullWeights[i], 1);
      initialise(&shared.emptyWeights[i], 2 * kConsumers / 32 * kArrivalsPerWarp);
    }
    for (int i = 0; i < kActivationStages; ++i) {
      initialise(&shared.fullActivations[i], 1);
      initialise(&shared.emptyActivations[i], 2 * kConsumers / 32 * kArrivalsPerWarp);
    }
    initialise(&shared.written, kConsumers / 32 * kArrivalsPerWarp);
    initialise(&shared.announced, 1);
    fenceBarriers();
  }
  PlanScratch& scratch = *reinterpret_cast<PlanScratch*>(shared.weights);
  lookUpExperts(args, scratch);
  Gather gather;
  if (threadIdx.x < kConsumers) gather.load(args, threadIdx.x / 32 * gridDim.x + blockIdx.x);
  makePlan(args, shared.plan, scratch);
  if (threadIdx.x < 2)
    shared.plan.ranges[threadIdx.x] =
        rangeOf(shared.plan.tileBase, args.shape.phase(threadIdx.x), blockIdx.x / 2, gridDim.x / 2);
  clusterBarrier();
  if (threadIdx.x < kConsumers) {
    growRegisters<232>();
    consume(args, shared, gather);
  } else {
    shrinkRegisters<40>();
    if (threadIdx.x / 32 == kConsumers / 32) produceWeights(args, shared);
    if (threadIdx.x / 32 == kConsumers / 32 + 1) produceActivations(args, shared);
    if (threadIdx.x / 32 == kConsumers / 32 + 2) announceSegments(args, shared);
    __syncwarp();
  }
  clusterBarrier();  // the other block may still write here
}

bool supported(const Shape& shape) {
  return shape.numTokens >= 0 && shape.topK >= 0 && shape.numPairs() <= kMaxRows && shape.numLocal > 0 &&
         shape.numLocal <= kMaxLocal && shape.sharedLocal >= -1 && shape.sharedLocal < shape.numLocal && shape.hidden > 0 &&
         shape.hidden % kGroup == 0 && shape.inter > 0 && shape.inter % kGroup == 0;
}

}  // namespace
}  // namespace expert

size_t expertWorkspaceBytes(int numTokens, int topK, int numLocal, int hidden, int inter) {
  return expert::workspaceAt(nullptr, {numTokens, topK, numLocal, -1, hidden, inter}).bytes;
}

cudaError_t expertFfn(Activations x, const int32_t* expertIds, const float* expertWeights, const int32_t* localOf,
                      ExpertWeights weights, int numLocal, int sharedLocal, Bf16* y, int numTokens, int topK, int hidden,
                      int inter, void* workspace, cudaStream_t stream) {
  const expert::Shape shape{numTokens, topK, numLocal, sharedLocal, hidden, inter};
  if (!expert::supported(shape)) return cudaErrorInvalidValue;
  if (numTokens == 0) return cudaSuccess;
  const expert::Args args{shape, x, expertIds, expertWeights, localOf, weights, y, expert::workspaceAt(workspace, shape)};
  const int sharedBytes = sizeof(expert::Shared) + 1024;
  int device = 0, numSms = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&numSms, cudaDevAttrMultiProcessorCount, device);
  if (error == cudaSuccess)
    error = cudaFuncSetAttribute(expert::ffnKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, sharedBytes);
  if (error == cudaSuccess)
    error = cudaMemsetAsync(args.workspace.progress.packed, 0, args.workspace.progressBytes, stream);
  if (error != cudaSuccess) return error;
  cudaLaunchAttribute cooperative{};  // blocks wait for one another, so all must be resident
  cooperative.id = cudaLaunchAttributeCooperative;
  cooperative.val.cooperative = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = (numSms < expert::kMaxBlocks ? numSms : expert::kMaxBlocks) / 2 * 2;
  config.blockDim = expert::kThreads;
  config.dynamicSmemBytes = sharedBytes;
  config.stream = stream;
  config.attrs = &cooperative;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, expert::ffnKernel, args);
}

}  // namespace rally
