// The yardstick: cuBLASLt's FP8 product with each scaling mode that it has on Hopper, the fastest of its heuristic's algorithms,
// at the sizes of gemm.cu's benchmark. Needs -lcublasLt.
#include <cublasLt.h>

#include <cstring>

#include "device-test.h"

using namespace rally::test;
using Bf16 = __nv_bfloat16;

namespace {

#define CHECK_LT(call)                                                         \
  do {                                                                         \
    const cublasStatus_t status = (call);                                      \
    if (status != CUBLAS_STATUS_SUCCESS) {                                     \
      std::printf("FAILED %s: %s\n", #call, cublasLtGetStatusString(status)); \
      std::exit(1);                                                            \
    }                                                                          \
  } while (false)

__global__ void fillBytes(uint8_t* bytes, size_t count, uint32_t seed) {
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < count; i += size_t{gridDim.x} * blockDim.x) {
    uint32_t h = static_cast<uint32_t>(i) * 2654435761u + seed;
    h ^= h >> 15, h *= 0x85ebca6bu, h ^= h >> 13;
    bytes[i] = (h & 0x80) | (0x38 + (h >> 8) % 24);  // 1 to 8 and -1 to -8
  }
}

struct Mode {
  const char* name;
  cublasLtMatmulMatrixScale_t weights, activations;
};
const Mode kModes[] = {
    {"per tensor", CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F, CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F},
    {"per row", CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F, CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F},
    {"128x128, 1x128", CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F, CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F},
};

template <typename T>
void set(cublasLtMatmulDesc_t description, cublasLtMatmulDescAttributes_t attribute, T value) {
  CHECK_LT(cublasLtMatmulDescSetAttribute(description, attribute, &value, sizeof value));
}

/// Median microseconds of the fastest algorithm, or infinity where there is none.
double bench(cublasLtHandle_t handle, const Mode& mode, int n, int k, int numTokens) {
  const size_t weightBytes = size_t(n) * k;
  const int numCopies = static_cast<int>(std::max<size_t>(3, (size_t{240} << 20) / weightBytes + 1));
  const DeviceArray<uint8_t> w(weightBytes * numCopies), x(size_t(numTokens) * k), workspace(size_t{64} << 20);
  fillBytes<<<1024, 256>>>(w.data(), w.size(), 1);
  fillBytes<<<1024, 256>>>(x.data(), x.size(), 2);
  const DeviceArray<float> wScales(std::vector<float>(size_t(n) + (n / 128 + 4) * (k / 128 + 4), 0.01f));
  const DeviceArray<float> xScales(std::vector<float>((size_t(numTokens) + 4) * (k / 128 + 4), 0.01f));
  const DeviceArray<Bf16> y(size_t(numTokens) * n);
  cublasLtMatmulDesc_t description;
  CHECK_LT(cublasLtMatmulDescCreate(&description, CUBLAS_COMPUTE_32F, CUDA_R_32F));
  set(description, CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
  set(description, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, mode.weights);
  set(description, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, mode.activations);
  set(description, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, wScales.data());
  set(description, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, xScales.data());
  cublasLtMatrixLayout_t a, b, d;
  CHECK_LT(cublasLtMatrixLayoutCreate(&a, CUDA_R_8F_E4M3, k, n, k));
  CHECK_LT(cublasLtMatrixLayoutCreate(&b, CUDA_R_8F_E4M3, k, numTokens, k));
  CHECK_LT(cublasLtMatrixLayoutCreate(&d, CUDA_R_16BF, n, numTokens, n));
  cublasLtMatmulPreference_t preference;
  CHECK_LT(cublasLtMatmulPreferenceCreate(&preference));
  const size_t workspaceBytes = workspace.bytes();
  CHECK_LT(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspaceBytes,
                                                sizeof workspaceBytes));
  cublasLtMatmulHeuristicResult_t results[16];
  int numResults = 0;
  cublasLtMatmulAlgoGetHeuristic(handle, description, a, b, d, d, preference, 16, results, &numResults);
  const float one = 1, zero = 0;
  double best = INFINITY;
  for (int i = 0; i < numResults; ++i) {
    if (results[i].state != CUBLAS_STATUS_SUCCESS) continue;
    const auto call = [&](int copy, cudaStream_t stream) {
      return cublasLtMatmul(handle, description, &one, w.data() + copy * weightBytes, a, x.data(), b, &zero, y.data(), d,
                            y.data(), d, &results[i].algo, workspace.data(), workspaceBytes, stream);
    };
    if (call(0, nullptr) != CUBLAS_STATUS_SUCCESS) continue;
    CHECK_CUDA(cudaDeviceSynchronize());
    best = std::min(best, graphMicroseconds(
        numCopies, [&](cudaStream_t stream) {
          for (int copy = 0; copy < numCopies; ++copy) CHECK_LT(call(copy, stream));
        }, 9));
  }
  CHECK_LT(cublasLtMatmulPreferenceDestroy(preference));
  CHECK_LT(cublasLtMatrixLayoutDestroy(a));
  CHECK_LT(cublasLtMatrixLayoutDestroy(b));
  CHECK_LT(cublasLtMatrixLayoutDestroy(d));
  CHECK_LT(cublasLtMatmulDescDestroy(description));
  return best;
}

}  // namespace

int main() {
  cublasLtHandle_t handle;
  CHECK_LT(cublasLtCreate(&handle));
  std::printf("cuBLASLt %zu\n", cublasLtGetVersion());
  for (const int numTokens : {16, 64, 128, 192, 256}) {
    for (const Mode& mode : kModes) {
      const double qkv = bench(handle, mode, 2560, 7168, numTokens), qUp = bench(handle, mode, 16384, 2048, numTokens),
                   o = bench(handle, mode, 7168, 16384, numTokens);
      std::printf("cuBLASLt T %3d %-14s: q_down+k+v %7.2f us, q_up %7.2f us, o_proj %7.2f us, all %7.2f us\n", numTokens,
                  mode.name, qkv, qUp, o, qkv + qUp + o);
      std::fflush(stdout);
    }
  }
  CHECK_LT(cublasLtDestroy(handle));
}
