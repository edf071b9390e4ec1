// Time of the whole attention stage at Step-3's sizes with a KV cache in e4m3: layers one after the other in one graph, each with
// its own weights and cache, so that L2 holds nothing of the next. Arguments: `small` (few short sequences, for compute-sanitizer),
// `copies` (with the copies of the residual that a graph of operators may need), numbers: tokens, then context; a seed.
#include <memory>
#include <numeric>
#include <string>

#include "../../models/kernels/kernels.h"
#include "device-test.h"

using namespace rally;
using namespace rally::test;

namespace {

constexpr int kHidden = 7168, kQueryRank = 2048, kHeads = 64, kHeadDim = 256, kQuery = kHeads * kHeadDim;
constexpr int kLowRank = kQueryRank + 2 * kHeadDim, kExperts = 48, kTopK = 3, kPartials = 2, kLayers = 4;
constexpr float kEpsilon = 1e-5f;

struct Matrix {
  DeviceArray<E4m3> tiles;
  DeviceArray<float> scales;
  Matrix(int n, int k, Random& random)
      : tiles(size_t(n) * k), scales(std::vector<float>(size_t(n) * k / (kGroup * kGroup), 1 / (30 * std::sqrt(float(k))))) {
    fill(tiles, random);
  }
  Weights get() const { return {tiles.data(), scales.data()}; }
};

struct Quantised {
  DeviceArray<E4m3> data;
  DeviceArray<float> scales;
  Quantised(int numTokens, int width) : data(size_t(numTokens) * width), scales(size_t(numTokens) * width / kGroup) {}
  Activations get() const { return {data.data(), scales.data()}; }
};

DeviceArray<Bf16> values(Random& random, size_t count) { return DeviceArray<Bf16>(convert<Bf16>(normals(random, count))); }

/// What a layer has of its own.
struct Layer {
  Layer(int numTokens, int maxPages, Random& random)
      : down(kLowRank, kHidden, random), up(kQuery, kQueryRank, random), out(kHidden, kQuery, random),
        norm(std::vector<Bf16>(kHidden, Bf16(1.0f))), partials(values(random, size_t(kPartials) * numTokens * kHidden)),
        router(normals(random, size_t(kExperts) * kHidden, 1 / std::sqrt(float(kHidden)))),
        pool(size_t(numTokens) * maxPages * kvPageBytes(KvType::kE4m3, kHeadDim)) {
    std::vector<int32_t> pages(size_t(numTokens) * maxPages);
    std::iota(pages.begin(), pages.end(), 0);
    std::shuffle(pages.begin(), pages.end(), random);
    CHECK_CUDA(cudaMalloc(&table, pages.size() * sizeof(int32_t)));
    CHECK_CUDA(cudaMemcpy(table, pages.data(), pages.size() * sizeof(int32_t), cudaMemcpyHostToDevice));
  }
  ~Layer() { cudaFree(table); }
  Layer(const Layer&) = delete;
  KvPool kv() const { return {pool.data(), KvType::kE4m3, kHeadDim}; }

  Matrix down, up, out;
  DeviceArray<Bf16> norm, partials;
  DeviceArray<float> router;
  DeviceArray<uint8_t> pool;
  int32_t* table;
};

struct Stage {
  Stage(int t, int tokens, Random& random)
      : numTokens(t), context(tokens), maxPages((tokens + kPageTokens - 1) / kPageTokens), hidden(t, kHidden), inter(t, kQueryRank),
        attended(t, kQuery), post(t, kHidden), residual(values(random, size_t(t) * kHidden)), spare(size_t(t) * kHidden),
        low(values(random, size_t(t) * kLowRank)), query(values(random, size_t(t) * kQuery)), normed(size_t(t) * kHidden),
        rotated(rotatedBytes(KvType::kE4m3, t, kHeads, kHeadDim)), ids(size_t(t) * kTopK), weights(size_t(t) * kTopK),
        lengths(lengthsOf(t, tokens)), cosSin(angles(tokens)),
        workspace(std::vector<uint8_t>(mfaWorkspaceBytes(t, maxPages, kHeads, kHeadDim))) {
    for (int i = 0; i < kLayers; ++i) layers.push_back(std::make_unique<Layer>(t, maxPages, random));
    for (const auto& layer : layers) {
      for (int length = 1; length <= context; ++length) append(*layer, length, nullptr);
    }
    CHECK_CUDA(cudaDeviceSynchronize());
  }

  /// One row of lengths for each length that all sequences may have.
  static std::vector<int32_t> lengthsOf(int t, int tokens) {
    std::vector<int32_t> all;
    for (int length = 0; length <= tokens; ++length) all.insert(all.end(), t, length);
    return all;
  }
  static std::vector<float> angles(int positions) {
    std::vector<float> turns;
    for (int position = 0; position < positions; ++position) {
      for (int dim = 0; dim < kHeadDim / 2; ++dim) {
        const float angle = position * std::pow(500000.0f, -dim / (kHeadDim / 2.0f));
        turns.push_back(std::cos(angle)), turns.push_back(std::sin(angle));
      }
    }
    return turns;
  }

  Sequences sequences(const Layer& layer, int length) const {
    return {layer.table, lengths.data() + size_t(length) * numTokens, numTokens, maxPages};
  }
  void append(const Layer& layer, int length, cudaStream_t stream) const {
    const Bf16* key = low.data() + kQueryRank;
    CHECK_CUDA(ropeAppend(query.data(), key, key + kHeadDim, kLowRank, reinterpret_cast<const float2*>(cosSin.data()), layer.kv(),
                          sequences(layer, length), rotated.data(), kHeads, stream));
  }

  void copyResidual(cudaStream_t stream) const {
    CHECK_CUDA(cudaMemcpyAsync(spare.data(), residual.data(), residual.bytes(), cudaMemcpyDeviceToDevice, stream));
  }

  void enqueue(const Layer& layer, bool copies, cudaStream_t stream) const {
    const int t = numTokens;
    if (copies && &layer == layers.front().get()) copyResidual(stream);
    CHECK_CUDA(addRmsNormQuantise(residual.data(), layer.partials.data(), kPartials, residual.data(), layer.norm.data(), kEpsilon, hidden.get(),
                                  nullptr, t, kHidden, stream));
    CHECK_CUDA(fp8Gemm(hidden.get(), layer.down.get(), nullptr, low.data(), t, kLowRank, kHidden, nullptr, stream));
    CHECK_CUDA(rmsNormQuantise(low.data(), kLowRank, layer.norm.data(), kEpsilon, inter.get(), t, kQueryRank, stream));
    CHECK_CUDA(fp8Gemm(inter.get(), layer.up.get(), nullptr, query.data(), t, kQuery, kQueryRank, nullptr, stream));
    append(layer, context, stream);
    CHECK_CUDA(mfaDecode(rotated.data(), layer.kv(), sequences(layer, context), attended.get(), kHeads, workspace.data(), stream));
    CHECK_CUDA(fp8Gemm(attended.get(), layer.out.get(), residual.data(), residual.data(), t, kHidden, kQuery, nullptr, stream));
    if (copies && &layer == layers.back().get()) copyResidual(stream);
    CHECK_CUDA(addRmsNormQuantise(residual.data(), nullptr, 0, residual.data(), layer.norm.data(), kEpsilon, post.get(), normed.data(), t, kHidden,
                                  stream));
    CHECK_CUDA(routeTopK(normed.data(), layer.router.data(), ids.data(), weights.data(), t, kHidden, kExperts, kTopK, stream));
  }

  int numTokens, context, maxPages;
  Quantised hidden, inter, attended, post;
  DeviceArray<Bf16> residual, spare, low, query, normed;
  DeviceArray<uint8_t> rotated;
  DeviceArray<int32_t> ids;
  DeviceArray<float> weights;
  DeviceArray<int32_t> lengths;
  DeviceArray<float> cosSin;
  DeviceArray<uint8_t> workspace;
  std::vector<std::unique_ptr<Layer>> layers;
};

}  // namespace

int main(int numArguments, char** arguments) {
  bool isSmall = false, copies = false;
  std::vector<int> numbers;
  for (int i = 1; i < numArguments; ++i) {
    const std::string word = arguments[i];
    if (word == "small") isSmall = true;
    else if (word == "copies") copies = true;
    else numbers.push_back(std::atoi(arguments[i]));
  }
  const int numTokens = numbers.size() > 0 ? numbers[0] : isSmall ? 3 : 128;
  const int context = numbers.size() > 1 ? numbers[1] : isSmall ? 130 : 4096;
  Random random(1);
  const Stage stage(numTokens, context, random);
  const double time = graphMicroseconds(
      kLayers,
      [&](cudaStream_t stream) {
        for (const auto& layer : stage.layers) stage.enqueue(*layer, copies, stream);
      },
      isSmall ? 1 : 40);
  bool isFinite = true;
  for (const float weight : stage.weights.host()) isFinite = isFinite && std::isfinite(weight);
  report(isFinite, "%d tokens after %d in the cache%s: %.2f us a stage", numTokens, context,
         copies ? ", copies of the residual" : "", time);
  return exitCode();
}
