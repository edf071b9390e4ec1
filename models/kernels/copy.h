// Bulk copies into shared memory that complete on an mbarrier (PTX ISA, "cp.async.bulk" and "mbarrier"), for rings of stages between
// a producing thread and consuming warps.
#pragma once

#include <cstdint>

namespace rally {

using Barrier = uint64_t;  // in shared memory, 8-byte aligned

/// How often a warp that needs a stage no more arrives on its barrier.
#ifdef RALLY_RACECHECK  // for racecheck, which does not see that __syncwarp puts all lanes' reads before the arrival of one of them
constexpr int kArrivalsPerWarp = 32;
#else
constexpr int kArrivalsPerWarp = 1;
#endif

__device__ inline uint32_t sharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

/// By one thread, before anyone uses it; a `fenceBarriers` and a block barrier follow.
__device__ inline void initialise(Barrier* barrier, uint32_t numArrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(sharedAddress(barrier)), "r"(numArrivals) : "memory");
}
__device__ inline void fenceBarriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

/// Arrives, and says that `numBytes` of bulk copies come before the phase is over.
__device__ inline void arriveExpecting(Barrier* barrier, uint32_t numBytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(sharedAddress(barrier)), "r"(numBytes)
               : "memory");
}
__device__ inline void arrive(Barrier* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(sharedAddress(barrier)) : "memory");
}

/// Waits for the end of the phase of this parity; phases are 0, 1, 0, … from the start, and the one before the first counts as over.
__device__ inline void wait(Barrier* barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}" ::"r"(sharedAddress(barrier)),
      "r"(parity)
      : "memory");
}

/// numBytes (a multiple of 16) from device to shared memory, both 16-byte aligned; data that is read once leaves L2 first.
__device__ inline void copyOnce(void* destination, const void* source, uint32_t numBytes, Barrier* barrier) {
  constexpr uint64_t kEvictFirst = 0x12f0000000000000;
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(
          sharedAddress(destination)),
      "l"(source), "r"(numBytes), "r"(sharedAddress(barrier)), "l"(kEvictFirst)
      : "memory");
}

/// As copyOnce, for data that others read too.
__device__ inline void copy(void* destination, const void* source, uint32_t numBytes, Barrier* barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   sharedAddress(destination)),
               "l"(source), "r"(numBytes), "r"(sharedAddress(barrier))
               : "memory");
}

/// Makes ordinary stores to shared memory visible to wgmma and bulk copies; by each writing thread, before the barrier.
__device__ inline void fenceForAsync() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

template <int numRegisters>
__device__ inline void growRegisters() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(numRegisters));
}
template <int numRegisters>
__device__ inline void shrinkRegisters() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(numRegisters));
}

}  // namespace rally
