#include "host.h"

namespace rally {

cudaError_t routeTopK(const Bf16* x, const float* router, int32_t* expertIds, float* expertWeights, int numTokens, int hidden,
                      int numExperts, int topK, cudaStream_t) {
  for (int t = 0; t < numTokens; t++) {
    std::vector<double> weights(numExperts);
    double most = -1e30, sum = 0;
    for (int e = 0; e < numExperts; e++) {
      for (int i = 0; i < hidden; i++) {
        weights[e] += static_cast<double>(toFloat(x[static_cast<size_t>(t) * hidden + i])) * router[static_cast<size_t>(e) * hidden + i];
      }
      most = std::max(most, weights[e]);
    }
    for (double& weight : weights) sum += weight = std::exp(weight - most);
    for (int k = 0; k < topK; k++) {
      const int best = static_cast<int>(std::max_element(weights.begin(), weights.end()) - weights.begin());
      expertIds[t * topK + k] = best;
      expertWeights[t * topK + k] = static_cast<float>(weights[best] / sum);
      weights[best] = -1;
    }
  }
  return cudaSuccess;
}

size_t expertWorkspaceBytes(int numTokens, int topK, int, int, int inter) {
  return static_cast<size_t>(numTokens) * (topK + 1) * inter;
}

cudaError_t expertFfn(Activations x, const int32_t* expertIds, const float* expertWeights, const int32_t* localOf,
                      ExpertWeights weights, int numLocal, int sharedLocal, Bf16* y, int numTokens, int topK, int hidden,
                      int inter, void*, cudaStream_t) {
  const auto values = dequantise(x, numTokens, hidden);
  std::vector<float> sums(static_cast<size_t>(numTokens) * hidden);
  for (int local = 0; local < numLocal; local++) {
    const size_t upTiles = static_cast<size_t>(2 * inter / 128) * (hidden / 128);
    const size_t downTiles = static_cast<size_t>(hidden / 128) * (inter / 128);
    const Weights gateUp = {weights.gateUp.tiles + local * upTiles * 16384, weights.gateUp.scales + local * upTiles};
    const Weights down = {weights.down.tiles + local * downTiles * 16384, weights.down.scales + local * downTiles};
    const auto both = multiply(values, gateUp, numTokens, 2 * inter, hidden);
    std::vector<float> middle(static_cast<size_t>(numTokens) * inter);
    for (int t = 0; t < numTokens; t++) {
      for (int i = 0; i < inter; i++) {
        const float* row = both.data() + static_cast<size_t>(t) * 2 * inter + i / 64 * 128 + i % 64;
        middle[static_cast<size_t>(t) * inter + i] = row[0] / (1 + std::exp(-row[0])) * row[64];
      }
    }
    // Between the products the kernel narrows to e4m3, too.
    std::vector<E4m3> narrow(middle.size());
    std::vector<float> narrowScales(middle.size() / kGroup);
    const Activations between = {narrow.data(), narrowScales.data()};
    quantise(middle, between, numTokens, inter);
    const auto result = multiply(dequantise(between, numTokens, inter), down, numTokens, hidden, inter);
    for (int t = 0; t < numTokens; t++) {
      float weight = local == sharedLocal ? 1.0f : 0.0f;
      for (int k = 0; k < topK; k++) {
        const int32_t id = expertIds[t * topK + k];
        if (id >= 0 && localOf[id] == local) weight += expertWeights[t * topK + k];
      }
      for (int i = 0; i < hidden; i++) {
        const size_t at = static_cast<size_t>(t) * hidden + i;
        sums[at] += weight * result[at];
      }
    }
  }
  for (size_t i = 0; i < sums.size(); i++) y[i] = __float2bfloat16(sums[i]);
  return cudaSuccess;
}

}  // namespace rally
