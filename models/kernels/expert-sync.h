// Progress counters between the blocks of one launch, and what the two blocks of a cluster share.
#pragma once

#include "cluster.h"

namespace rally::expert {

__device__ inline int loadAcquire(const int* counter) {
  int value;
  asm volatile("ld.acquire.gpu.global.b32 %0, [%1];" : "=r"(value) : "l"(counter) : "memory");
  return value;
}
__device__ inline void waitAtLeast(const int* counter, int value) {
  while (loadAcquire(counter) < value) {
  }
}
/// By one thread, after a barrier with those whose writes it announces.
__device__ inline void announce(int* counter) {
  asm volatile("red.release.gpu.global.add.s32 [%0], 1;" ::"l"(counter) : "memory");
}
__device__ inline int addAcquireRelease(int* counter, int value) {
  int before;
  asm volatile("atom.acq_rel.gpu.global.add.s32 %0, [%1], %2;" : "=r"(before) : "l"(counter), "r"(value) : "memory");
  return before;
}
/// Orders ordinary accesses to device memory, seen or made by this thread, with bulk copies.
__device__ inline void fenceGlobalForAsync() { asm volatile("fence.proxy.async.global;" ::: "memory"); }

/// Stores that L2 keeps when weights stream through it.
__device__ inline void storeKept(float4* target, float4 value) {
  constexpr uint64_t kEvictLast = 0x14f0000000000000;
  asm volatile("st.global.L2::cache_hint.v4.f32 [%0], {%1, %2, %3, %4}, %5;" ::"l"(target), "f"(value.x), "f"(value.y),
               "f"(value.z), "f"(value.w), "l"(kEvictLast)
               : "memory");
}
__device__ inline void storeKept(float2* target, float2 value) {
  constexpr uint64_t kEvictLast = 0x14f0000000000000;
  asm volatile("st.global.L2::cache_hint.v2.f32 [%0], {%1, %2}, %3;" ::"l"(target), "f"(value.x), "f"(value.y),
               "l"(kEvictLast)
               : "memory");
}

/// Spares the 128 bytes at `line`, which nobody reads any more, their way from L2 to the device memory.
__device__ inline void discardLine(const void* line) { asm volatile("discard.global.L2 [%0], 128;" ::"l"(line) : "memory"); }

constexpr int kConsumers = 256;
__device__ inline void consumerBarrier() { asm volatile("bar.sync 1, 256;" ::: "memory"); }

/// As copy, into the shared memory of both blocks, each of which has its own barrier told.
__device__ inline void copyToBoth(void* destination, const void* source, uint32_t numBytes, Barrier* barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1], %2, [%3], %4;" ::"r"(
          sharedAddress(destination)),
      "l"(source), "r"(numBytes), "r"(sharedAddress(barrier)), "h"(uint16_t{3})
      : "memory");
}
__device__ inline void copyOnceToBoth(void* destination, const void* source, uint32_t numBytes, Barrier* barrier) {
  constexpr uint64_t kEvictFirst = 0x12f0000000000000;
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster.L2::cache_hint [%0], [%1], %2, [%3], "
      "%4, %5;" ::"r"(sharedAddress(destination)),
      "l"(source), "r"(numBytes), "r"(sharedAddress(barrier)), "h"(uint16_t{3}), "l"(kEvictFirst)
      : "memory");
}

}  // namespace rally::expert
