// Cuts a weight matrix into the swizzled tiles that bulk copies bring to wgmma.
#include "kernels.h"

namespace rally {
namespace {

constexpr int kChunk = 16;                      // bytes that move together
constexpr int kChunksPerRow = kGroup / kChunk;  // of a tile

/// One block per tile, one thread per chunk.
__global__ void packKernel(const uint4* rowMajor, uint4* tiles, int numSteps) {
  const int row = threadIdx.x / kChunksPerRow;
  const int chunk = threadIdx.x % kChunksPerRow;
  const int64_t tileRow = blockIdx.y;
  const int64_t step = blockIdx.x;
  const uint4 value = rowMajor[((tileRow * kGroup + row) * numSteps + step) * kChunksPerRow + chunk];
  tiles[((tileRow * numSteps + step) * kGroup + row) * kChunksPerRow + (chunk ^ (row % 8))] = value;
}

}  // namespace

cudaError_t packWeights(const E4m3* rowMajor, E4m3* tiles, int n, int k, cudaStream_t stream) {
  if (n <= 0 || k <= 0 || n % kGroup != 0 || k % kGroup != 0 || n / kGroup > 65535) return cudaErrorInvalidValue;
  const dim3 numTiles(k / kGroup, n / kGroup);
  packKernel<<<numTiles, kGroup * kChunksPerRow, 0, stream>>>(reinterpret_cast<const uint4*>(rowMajor),
                                                              reinterpret_cast<uint4*>(tiles), k / kGroup);
  return cudaGetLastError();
}

}  // namespace rally
