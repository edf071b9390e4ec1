// Progress counters between the blocks of one launch.
#pragma once

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
  __threadfence();
  asm volatile("red.release.gpu.global.add.s32 [%0], 1;" ::"l"(counter) : "memory");
}
/// Orders ordinary accesses to device memory, seen or made by this thread, with bulk copies.
__device__ inline void fenceGlobalForAsync() { asm volatile("fence.proxy.async.global;" ::: "memory"); }

constexpr int kConsumers = 256;
__device__ inline void consumerBarrier() { asm volatile("bar.sync 1, 256;" ::: "memory"); }

}  // namespace rally::expert
