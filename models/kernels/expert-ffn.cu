// expertFfn as one persistent cooperative launch: every block plans the same routing for itself, packs its share of the tokens, works
// off its share of gate/up, then of down, and sums its share of the tokens' rows. Weights and activations come through rings of their
// own.
#include "expert-activations.h"
#include "expert-route.h"
#include "expert-tile.h"
#include "expert-weights.h"
#include "launch.h"

namespace rally {
namespace expert {
namespace {

constexpr int kThreads = 384;  // two warpgroups of consumers, one with the producing and announcing warps
static_assert(sizeof(Shared) <= 232448);

/// One warp. Tells other blocks what the consumers have written, so that those need not wait until it is visible.
__device__ void announceSegments(const Args& args, Shared& shared) {
  const Progress& progress = shared.progress;
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

/// One warp. The counters of the next call, and which of them those are once every block knows its own.
__device__ void prepareNextCall(const Args& args, Shared& shared) {
  Counters& counters = *args.workspace.counters;
  int* next = counters.sets[(shared.numCalls + 1) % 2];
  for (int i = blockIdx.x * 32 + threadIdx.x % 32; i < Counters::kInts; i += gridDim.x * 32) next[i] = 0;
  if (threadIdx.x % 32 == 0 && addAcquireRelease(&counters.numStarted, 1) == gridDim.x - 1) {
    counters.numStarted = 0;
    counters.numCalls = shared.numCalls + 1;
  }
}

__device__ void consume(const Args& args, Shared& shared) {
  const int thread = threadIdx.x, warp = thread / 32;
  const int numWarps = gridDim.x * (kConsumers / 32), warpId = warp * gridDim.x + blockIdx.x;
  for (int i = warpId; i < shared.plan.rowBase[args.shape.numLocal] * kPartsPerRow; i += numWarps)
    packPart(args, shared, i / kPartsPerRow, i % kPartsPerRow);
  asm volatile("bar.arrive 4, 288;" ::: "memory");  // weights may flow now
  Consumer consumer{args, shared, {}, {}};
  consumer.passOver(shared.plan.numWrongStages);
  for (int p = 0; p < 2; ++p) {
    const Work work(args.shape, shared.plan, p);
    for (int s = 0; s < work.numSegments(); ++s) consumer.run(work, s, p);
  }
  if (!shared.plan.combines) return;
  consumerBarrier();  // the ring is at rest
  uint16_t* rowOf = reinterpret_cast<uint16_t*>(shared.weights);
  findRows(args, shared.plan, rowOf);
  combine(args, shared, rowOf, warpId, numWarps);
}

__global__ void __cluster_dims__(2) __launch_bounds__(kThreads, 1) ffnKernel(const __grid_constant__ Args args) {
  extern __shared__ __align__(1024) uint8_t raw[];
  Shared& shared = *reinterpret_cast<Shared*>(raw);
  if (threadIdx.x == 0) {
    for (int i = 0; i < kWeightStages; ++i) {
      initialise(&shared.fullWeights[i], 2);
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
  meetCluster();
  if (threadIdx.x / 32 == kThreads / 32 - 1) bringGuessedWeights(args, shared);
  waitForPrevious();
  letNextStart();
  if (threadIdx.x == 0) {
    shared.numCalls = loadAcquire(&args.workspace.counters->numCalls);
    shared.progress = progressIn(args.workspace, args.shape, shared.numCalls % 2);
  }
  PlanScratch& scratch = *reinterpret_cast<PlanScratch*>(shared.activations);
  static_assert(sizeof(PlanScratch) <= sizeof(shared.activations));
  lookUpExperts(args, scratch);
  makePlan(args, shared, scratch);
  if (threadIdx.x < kConsumers) {
    growRegisters<232>();
    consume(args, shared);
    __syncwarp();
  } else {
    shrinkRegisters<40>();
    if (threadIdx.x / 32 == kConsumers / 32) produceWeights(args, shared);
    if (threadIdx.x / 32 == kConsumers / 32 + 1) produceActivations(args, shared);
    if (threadIdx.x / 32 == kConsumers / 32 + 2) announceSegments(args, shared);
    if (threadIdx.x / 32 == kConsumers / 32 + 3) prepareNextCall(args, shared);
    __syncwarp();
  }
  meetCluster();  // the other block may still write here
}

bool supported(const Shape& shape) {
  return shape.numTokens >= 0 && shape.topK >= 0 && shape.numPairs() <= kMaxRows && shape.numLocal > 0 &&
         shape.numLocal <= kMaxLocal && shape.sharedLocal >= -1 && shape.sharedLocal < shape.numLocal && shape.hidden > 0 &&
         shape.hidden % kGroup == 0 && shape.inter > 0 && shape.inter % kGroup == 0 && shape.numCounters() <= Counters::kInts;
}

}  // namespace
}  // namespace expert

size_t expertWorkspaceBytes(int numTokens, int topK, int numLocal, int hidden, int inter) {
  return expert::workspaceAt(nullptr, {numTokens, topK, numLocal, 0, hidden, inter}).bytes;
}

cudaError_t expertFfn(Activations x, const int32_t* expertIds, const float* expertWeights, const int32_t* localOf,
                      ExpertWeights weights, int numLocal, int sharedLocal, Bf16* y, int numTokens, int topK, int hidden,
                      int inter, void* workspace, cudaStream_t stream) {
  const expert::Shape shape{numTokens, topK, numLocal, sharedLocal, hidden, inter};
  if (!expert::supported(shape)) return cudaErrorInvalidValue;
  if (numTokens == 0) return cudaSuccess;
  const expert::Args args{shape, x, expertIds, expertWeights, localOf, weights, y, expert::workspaceAt(workspace, shape)};
  const int sharedBytes = sizeof(expert::Shared);
  int device = 0, numSms = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&numSms, cudaDevAttrMultiProcessorCount, device);
  if (error == cudaSuccess)
    error = cudaFuncSetAttribute(expert::ffnKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, sharedBytes);
  if (error != cudaSuccess) return error;
  cudaLaunchAttribute attributes[2]{};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeCooperative;  // blocks wait for one another, so all must be resident
  attributes[1].val.cooperative = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = (numSms < expert::kMaxBlocks ? numSms : expert::kMaxBlocks) / 2 * 2;
  config.blockDim = expert::kThreads;
  config.dynamicSmemBytes = sharedBytes;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = 2;
  return cudaLaunchKernelEx(&config, expert::ffnKernel, args);
}

}  // namespace rally
