// Tensor maps for bulk copies of boxes (CUDA driver API, "Tensor Map Object Management"), encoded on the host for each launch.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include "copy.h"

namespace rally {

using EncodeTiled = decltype(&cuTensorMapEncodeTiled);

/// Null where the driver has no tensor maps.
inline EncodeTiled encodeTiled() {
  static const EncodeTiled function = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult found;
    const cudaError_t error =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &found);
    return error == cudaSuccess && found == cudaDriverEntryPointSuccess ? reinterpret_cast<EncodeTiled>(entry) : nullptr;
  }();
  return function;
}

/// Boxes of boxRows x 128 bytes of a byte matrix [numRows, rowBytes], 128-byte swizzled; rows past the end read as zeros.
inline cudaError_t mapRows(CUtensorMap* map, const void* data, int numRows, int rowBytes, int boxRows) {
  const EncodeTiled encode = encodeTiled();
  if (encode == nullptr) return cudaErrorNotSupported;
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(rowBytes), static_cast<cuuint64_t>(numRows)};
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(rowBytes)};
  const cuuint32_t box[] = {128, static_cast<cuuint32_t>(boxRows)};
  const cuuint32_t steps[] = {1, 1};
  const CUresult result =
      encode(map, CU_TENSOR_MAP_DATA_TYPE_UINT8, 2, const_cast<void*>(data), sizes, strides, box, steps,
             CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

/// By one thread: the box at (byte, row).
__device__ inline void copyBox(void* destination, const CUtensorMap* map, int byte, int row, Barrier* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
          sharedAddress(destination)),
      "l"(map), "r"(byte), "r"(row), "r"(sharedAddress(barrier))
      : "memory");
}

/// As copyBox, to the same place (and barrier) in each block of the cluster whose bit is set.
__device__ inline void copyBoxToMany(void* destination, const CUtensorMap* map, int byte, int row, Barrier* barrier,
                                     uint16_t blocks) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%2, "
      "%3}], [%4], %5;" ::"r"(sharedAddress(destination)),
      "l"(map), "r"(byte), "r"(row), "r"(sharedAddress(barrier)), "h"(blocks)
      : "memory");
}

}  // namespace rally
