// Launches kernels so that one may start while the one before it in the stream still ends (programmatic dependent launch). What
// a kernel does before `waitForPrevious` must touch only what no earlier kernel of the stream writes, such as weights; what it
// writes comes after. Every kernel launched this way calls `waitForPrevious`, so a chain of them keeps the stream's order.
#pragma once

#include <cuda_runtime.h>

namespace rally {

/// Until the earlier kernels of the stream are over and what they wrote is visible.
__device__ inline void waitForPrevious() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
/// The next kernel may start once every block has said so.
__device__ inline void letNextStart() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }

struct LaunchShape {
  dim3 blocks;
  dim3 threads;
  size_t sharedBytes = 0;
  unsigned clusterBlocks = 1;  // along x
};

template <typename... Parameters, typename... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), const LaunchShape& shape, cudaStream_t stream, Arguments... arguments) {
  cudaLaunchAttribute attributes[3];
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  // The same for all: a multiprocessor must be empty to divide its memory otherwise.
  attributes[1].id = cudaLaunchAttributePreferredSharedMemoryCarveout;
  attributes[1].val.sharedMemCarveout = cudaSharedmemCarveoutMaxShared;
  attributes[2].id = cudaLaunchAttributeClusterDimension;
  attributes[2].val.clusterDim = {shape.clusterBlocks, 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = shape.blocks;
  config.blockDim = shape.threads;
  config.dynamicSmemBytes = shape.sharedBytes;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = shape.clusterBlocks > 1 ? 3 : 2;
  return cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...);
}

}  // namespace rally
