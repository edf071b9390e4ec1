// Blocks of one cluster: ranks, barriers and each other's shared memory (PTX ISA, "mapa", "barrier.cluster").
#pragma once

#include <cstdint>

#include "copy.h"

namespace rally {

__device__ inline uint32_t clusterRank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

/// All threads of all blocks; what was written before is visible after.
__device__ inline void syncCluster() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

/// As syncCluster, but orders no writes (that takes a release, about a microsecond): for initialised barriers, after
/// `fenceBarriers`, and to keep a block alive while others read its shared memory.
__device__ inline void meetCluster() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

/// Where another block of the cluster has what lies at this shared address here.
__device__ inline uint32_t addressAt(uint32_t sharedAddress, uint32_t rank) {
  uint32_t address;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(sharedAddress), "r"(rank));
  return address;
}

__device__ inline float4 loadFrom(uint32_t clusterAddress) {
  float4 value;
  asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(value.x), "=f"(value.y), "=f"(value.z), "=f"(value.w)
               : "r"(clusterAddress)
               : "memory");
  return value;
}

__device__ inline float loadFloatFrom(uint32_t clusterAddress) {
  float value;
  asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(value) : "r"(clusterAddress) : "memory");
  return value;
}

/// Arrives on the barrier of another block of the cluster (or of this one), to say that what lay here has been read. It orders no
/// writes for the other block: a release at the cluster's scope waits for all memory, about a microsecond.
__device__ inline void arriveAt(Barrier* barrier, uint32_t rank) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(addressAt(sharedAddress(barrier), rank)) : "memory");
}

/// 16 bytes to shared memory of the cluster, counted by a barrier there once they have come; both addresses as of `addressAt`.
__device__ inline void storeAt(uint32_t address, float4 value, uint32_t barrier) {
  asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(address),
               "f"(value.x), "f"(value.y), "f"(value.z), "f"(value.w), "r"(barrier)
               : "memory");
}

}  // namespace rally
