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

/// A row-major matrix and the box of it that one copy brings; what lies outside the matrix reads as zeros.
struct Boxes {
  CUtensorMapDataType type;
  int valueBytes;
  const void* data;  // [numRows, rowLength], rows at multiples of 16 bytes
  int numRows, rowLength;
  int boxRows, boxLength;
  CUtensorMapSwizzle swizzle = CU_TENSOR_MAP_SWIZZLE_NONE;
};
inline cudaError_t mapBoxes(CUtensorMap* map, const Boxes& boxes) {
  const EncodeTiled encode = encodeTiled();
  if (encode == nullptr) return cudaErrorNotSupported;
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(boxes.rowLength), static_cast<cuuint64_t>(boxes.numRows)};
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(boxes.rowLength) * boxes.valueBytes};
  const cuuint32_t box[] = {static_cast<cuuint32_t>(boxes.boxLength), static_cast<cuuint32_t>(boxes.boxRows)};
  const cuuint32_t steps[] = {1, 1};
  const CUresult result = encode(map, boxes.type, 2, const_cast<void*>(boxes.data), sizes, strides, box, steps,
                                 CU_TENSOR_MAP_INTERLEAVE_NONE, boxes.swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                                 CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

/// By one thread: the box whose first value is (row, column).
__device__ inline void copyBox(void* destination, const CUtensorMap* map, int column, int row, Barrier* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
          sharedAddress(destination)),
      "l"(map), "r"(column), "r"(row), "r"(sharedAddress(barrier))
      : "memory");
}

/// As copyBox, to the same place (and barrier) in each block of the cluster whose bit is set.
__device__ inline void copyBoxToMany(void* destination, const CUtensorMap* map, int column, int row, Barrier* barrier,
                                     uint16_t blocks) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%2, "
      "%3}], [%4], %5;" ::"r"(sharedAddress(destination)),
      "l"(map), "r"(column), "r"(row), "r"(sharedAddress(barrier)), "h"(blocks)
      : "memory");
}

}  // namespace rally
