#include "host.h"

namespace rally {

cudaError_t packWeights(const E4m3* rowMajor, E4m3* tiles, int n, int k, cudaStream_t) {
  for (int row = 0; row < n; row++) {
    for (int i = 0; i < k; i++) tiles[tileOffset(row, i, k)] = rowMajor[static_cast<size_t>(row) * k + i];
  }
  return cudaSuccess;
}

namespace {

/// [numTokens, width]
std::vector<float> rmsNorm(const Bf16* x, int stride, const Bf16* weight, float epsilon, int numTokens, int width) {
  std::vector<float> normed(static_cast<size_t>(numTokens) * width);
  for (int t = 0; t < numTokens; t++) {
    const Bf16* row = x + static_cast<size_t>(t) * stride;
    double squares = 0;
    for (int i = 0; i < width; i++) squares += static_cast<double>(toFloat(row[i])) * toFloat(row[i]);
    const double factor = 1 / std::sqrt(squares / width + epsilon);
    for (int i = 0; i < width; i++) {
      normed[static_cast<size_t>(t) * width + i] = static_cast<float>(toFloat(row[i]) * factor * toFloat(weight[i]));
    }
  }
  return normed;
}

}  // namespace

cudaError_t rmsNormQuantise(const Bf16* x, int stride, const Bf16* weight, float epsilon, Activations out, int numTokens,
                            int width, cudaStream_t) {
  quantise(rmsNorm(x, stride, weight, epsilon, numTokens, width), out, numTokens, width);
  return cudaSuccess;
}

cudaError_t addRmsNormQuantise(const Bf16* residual, const Bf16* partials, int numPartials, Bf16* sum, const Bf16* weight,
                               float epsilon, Activations out, Bf16* normed, int numTokens, int width, cudaStream_t) {
  const size_t count = static_cast<size_t>(numTokens) * width;
  for (size_t i = 0; i < count; i++) {
    float value = toFloat(residual[i]);
    for (int p = 0; p < numPartials; p++) value += toFloat(partials[p * count + i]);
    sum[i] = __float2bfloat16(value);
  }
  const auto values = rmsNorm(sum, width, weight, epsilon, numTokens, width);
  if (out.data != nullptr) quantise(values, out, numTokens, width);
  for (size_t i = 0; normed != nullptr && i < count; i++) normed[i] = __float2bfloat16(values[i]);
  return cudaSuccess;
}

size_t gemmWorkspaceBytes(int numTokens, int n, int) { return static_cast<size_t>(numTokens) * n * 4; }

cudaError_t fp8Gemm(Activations x, Weights weights, const Bf16* addend, Bf16* y, int numTokens, int n, int k, void*,
                    cudaStream_t) {
  if (numTokens > 256) return cudaErrorInvalidValue;
  const auto product = multiply(dequantise(x, numTokens, k), weights, numTokens, n, k);
  for (size_t i = 0; i < product.size(); i++) {
    y[i] = __float2bfloat16(product[i] + (addend == nullptr ? 0 : toFloat(addend[i])));
  }
  return cudaSuccess;
}

cudaError_t embed(const int32_t* ids, const Bf16* table, Bf16* out, int numTokens, int vocab, int hidden, cudaStream_t) {
  for (int t = 0; t < numTokens; t++) {
    Bf16* row = out + static_cast<size_t>(t) * hidden;
    if (ids[t] < 0 || ids[t] >= vocab) std::memset(static_cast<void*>(row), 0, hidden * sizeof(Bf16));
    else std::memcpy(static_cast<void*>(row), table + static_cast<size_t>(ids[t]) * hidden, hidden * sizeof(Bf16));
  }
  return cudaSuccess;
}

size_t candidatesWorkspaceBytes(int numTokens, int, int) { return static_cast<size_t>(numTokens) * 16; }

cudaError_t topCandidates(const Bf16* logits, int stride, int32_t* ids, float* values, float* logSum, int numTokens, int vocab,
                          int numCandidates, void*, cudaStream_t) {
  for (int t = 0; t < numTokens; t++) {
    const Bf16* row = logits + static_cast<size_t>(t) * stride;
    std::vector<int> order(vocab);
    for (int i = 0; i < vocab; i++) order[i] = i;
    std::stable_sort(order.begin(), order.end(), [row](int a, int b) { return toFloat(row[a]) > toFloat(row[b]); });
    double sum = 0;
    for (int i = 0; i < vocab; i++) sum += std::exp(static_cast<double>(toFloat(row[i])) - toFloat(row[order[0]]));
    logSum[t] = static_cast<float>(std::log(sum) + toFloat(row[order[0]]));
    for (int c = 0; c < numCandidates; c++) {
      ids[t * numCandidates + c] = order[c];
      values[t * numCandidates + c] = toFloat(row[order[c]]);
    }
  }
  return cudaSuccess;
}

}  // namespace rally
