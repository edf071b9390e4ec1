// Programmatic dependent launch: a kernel may start up while the one before it ends, and touches what others write only after
// `awaitPreviousKernel`.
#pragma once

#include <cuda_runtime.h>

namespace rally::mfa {

__device__ inline void allowNextKernel() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }
__device__ inline void awaitPreviousKernel() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

/// For kernels that call awaitPreviousKernel.
template <typename... Parameters, typename... Arguments>
cudaError_t launchEarly(void (*kernel)(Parameters...), dim3 grid, int numThreads, size_t sharedBytes, cudaStream_t stream,
                        Arguments... arguments) {
  cudaLaunchAttribute overlap = {};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t launch = {};
  launch.gridDim = grid;
  launch.blockDim = dim3(numThreads);
  launch.dynamicSmemBytes = sharedBytes;
  launch.stream = stream;
  launch.attrs = &overlap;
  launch.numAttrs = 1;
  return cudaLaunchKernelEx(&launch, kernel, static_cast<Parameters>(arguments)...);
}

}  // namespace rally::mfa
