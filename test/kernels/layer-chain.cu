// Two layers and the head, every kernel in its place at Step-3's sizes: replayed as a CUDA graph, in which kernels may start while
// the ones before them end, they leave the same bits everywhere as called one by one, each waited for.
#include <string>
#include <utility>

#include "../../models/kernels/kernels.h"
#include "device-test.h"

using namespace rally;
using namespace rally::test;

namespace {

constexpr int kHidden = 7168, kQueryRank = 2048, kHeads = 64, kHeadDim = 256, kQuery = kHeads * kHeadDim;
constexpr int kLowRank = kQueryRank + 2 * kHeadDim, kInter = 5120, kExperts = 48, kTopK = 3, kLocal = 4;
constexpr int kVocab = 4000, kLogits = 4096, kCandidates = 20, kContext = 320, kMaxPages = kContext / kPageTokens;
constexpr float kEpsilon = 1e-5f;

struct Matrix {
  DeviceArray<E4m3> tiles;
  DeviceArray<float> scales;
  Matrix(int count, int n, int k, Random& random)
      : tiles(size_t(count) * n * k), scales(convert<float>(weightScales(size_t(count) * n * k / 16384, k, random))) {
    fill(tiles, random);
  }
  Weights get() const { return {tiles.data(), scales.data()}; }

  /// Bring sums over k of the tiles' values, about 30 in size, to about one.
  static std::vector<float> weightScales(size_t count, int k, Random& random) {
    std::vector<float> scales = normals(random, count, 0.1f);
    for (float& scale : scales) scale = std::exp(scale) / (30 * std::sqrt(float(k)));
    return scales;
  }
};

struct Quantised {
  DeviceArray<E4m3> data;
  DeviceArray<float> scales;
  Quantised(int numTokens, int width) : data(size_t(numTokens) * width), scales(size_t(numTokens) * width / kGroup) {}
  Activations get() const { return {data.data(), scales.data()}; }
};

struct Workspace : DeviceArray<uint8_t> {
  explicit Workspace(size_t size) : DeviceArray(std::vector<uint8_t>(size)) {}
};

std::vector<int32_t> integers(size_t count, const std::function<int(size_t)>& value) {
  std::vector<int32_t> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = value(i);
  return values;
}

/// What all layers share and no kernel writes.
struct Model {
  explicit Model(Random& random)
      : table(convert<Bf16>(normals(random, 1000 * kHidden))),
        norm(convert<Bf16>(std::vector<float>(kHidden, 1.0f))),
        down(1, kLowRank, kHidden, random),
        query(1, kQuery, kQueryRank, random),
        output(1, kHidden, kQuery, random),
        gateUp(kLocal, 2 * kInter, kHidden, random),
        expertDown(kLocal, kHidden, kInter, random),
        head(1, kLogits, kHidden, random),
        router(normals(random, size_t(kExperts) * kHidden, 0.05f)),
        localOf(integers(kExperts, [](size_t e) { return e % 4 == 0 ? int(e / 4 % 3) : -1; })) {}
  DeviceArray<Bf16> table, norm;
  Matrix down, query, output, gateUp, expertDown, head;
  DeviceArray<float> router;
  DeviceArray<int32_t> localOf;
};

struct Layer {
  explicit Layer(int t)
      : input(t, kHidden), inter(t, kQueryRank), attended(t, kQuery), post(t, kHidden), low(size_t(t) * kLowRank),
        query(size_t(t) * kQuery), normed(size_t(t) * kHidden), experts(size_t(t) * kHidden),
        rotated(rotatedBytes(KvType::kE4m3, t, kHeads, kHeadDim)), ids(size_t(t) * kTopK), weights(size_t(t) * kTopK),
        pool(size_t(t) * kMaxPages * kvPageBytes(KvType::kE4m3, kHeadDim)),
        gemm(gemmWorkspaceBytes(t, kQuery, kHidden) + 16), mfa(mfaWorkspaceBytes(t, kMaxPages, kHeads, kHeadDim)),
        ffn(expertWorkspaceBytes(t, kTopK, kLocal, kHidden, kInter)) {}
  Quantised input, inter, attended, post;
  DeviceArray<Bf16> low, query, normed, experts;
  DeviceArray<uint8_t> rotated;
  DeviceArray<int32_t> ids;
  DeviceArray<float> weights;
  Workspace pool, gemm, mfa, ffn;
};

struct Chain {
  using Step = std::function<cudaError_t(cudaStream_t)>;

  Chain(const Model& m, int t, Random& random)
      : numTokens(t), layers{Layer(t), Layer(t)}, final(t, kHidden), residual(size_t(t) * kHidden), logits(size_t(t) * kLogits),
        values(size_t(t) * kCandidates), logSum(t), candidates(size_t(t) * kCandidates),
        tokens(integers(t, [&](size_t) { return int(random() % 1000); })),
        pageTable(integers(size_t(t) * kMaxPages, [](size_t i) { return int(i); })),
        lengthsOnHost(integers(t, [&](size_t) { return 1 + int(random() % kContext); })), lengths(lengthsOnHost),
        cosSin(normals(random, size_t(kContext) * kHeadDim, 0.7f)),
        work(candidatesWorkspaceBytes(t, kVocab, kCandidates) + 16) {
    Bf16* x = residual.data();
    add([=, this, &m](cudaStream_t s) { return embed(tokens.data(), m.table.data(), x, t, 1000, kHidden, s); });
    for (int i = 0; i < 2; ++i) addLayer(m, layers[i], i == 0 ? nullptr : layers[0].experts.data());
    add([=, this, &m](cudaStream_t s) {
      return addRmsNormQuantise(x, layers[1].experts.data(), 1, x, m.norm.data(), kEpsilon, final.get(), nullptr, t, kHidden, s);
    });
    add([=, this, &m](cudaStream_t s) {
      return fp8Gemm(final.get(), m.head.get(), nullptr, logits.data(), t, kLogits, kHidden, layers[0].gemm.data(), s);
    });
    add([=, this](cudaStream_t s) {
      return topCandidates(logits.data(), kLogits, candidates.data(), values.data(), logSum.data(), t, kVocab, kCandidates,
                           work.data(), s);
    });
  }

  void addLayer(const Model& m, Layer& l, const Bf16* before) {
    Bf16* const x = residual.data();
    const int t = numTokens;
    const Sequences sequences{pageTable.data(), lengths.data(), t, kMaxPages};
    const KvPool pool{l.pool.data(), KvType::kE4m3, kHeadDim};
    add([=, &m, &l](cudaStream_t s) {
      return addRmsNormQuantise(x, before, before == nullptr ? 0 : 1, x, m.norm.data(), kEpsilon, l.input.get(), nullptr, t, kHidden, s);
    });
    add([=, &m, &l](cudaStream_t s) {
      return fp8Gemm(l.input.get(), m.down.get(), nullptr, l.low.data(), t, kLowRank, kHidden, l.gemm.data(), s);
    });
    add([=, &m, &l](cudaStream_t s) {
      return rmsNormQuantise(l.low.data(), kLowRank, m.norm.data(), kEpsilon, l.inter.get(), t, kQueryRank, s);
    });
    add([=, &m, &l](cudaStream_t s) {
      return fp8Gemm(l.inter.get(), m.query.get(), nullptr, l.query.data(), t, kQuery, kQueryRank, l.gemm.data(), s);
    });
    appends.push_back([=, this, &l](cudaStream_t s) {
      return ropeAppend(l.query.data(), l.low.data() + kQueryRank, l.low.data() + kQueryRank + kHeadDim, kLowRank,
                        reinterpret_cast<const float2*>(cosSin.data()), pool, sequences, l.rotated.data(), kHeads, s);
    });
    add(appends.back());
    add([=, &l](cudaStream_t s) {
      return mfaDecode(l.rotated.data(), pool, sequences, l.attended.get(), kHeads, l.mfa.data(), s);
    });
    add([=, &m, &l](cudaStream_t s) {
      return fp8Gemm(l.attended.get(), m.output.get(), x, x, t, kHidden, kQuery, l.gemm.data(), s);
    });
    add([=, &m, &l](cudaStream_t s) {
      return addRmsNormQuantise(x, nullptr, 0, x, m.norm.data(), kEpsilon, l.post.get(), l.normed.data(), t, kHidden, s);
    });
    add([=, &m, &l](cudaStream_t s) {
      return routeTopK(l.normed.data(), m.router.data(), l.ids.data(), l.weights.data(), t, kHidden, kExperts, kTopK, s);
    });
    add([=, &m, &l](cudaStream_t s) {
      return expertFfn(l.post.get(), l.ids.data(), l.weights.data(), m.localOf.data(), {m.gateUp.get(), m.expertDown.get()},
                       kLocal, kLocal - 1, l.experts.data(), t, kTopK, kHidden, kInter, l.ffn.data(), s);
    });
    for (const auto* array : {&l.low, &l.query, &l.normed, &l.experts}) watch(*array);
    for (const auto* x8 : {&l.input, &l.inter, &l.attended, &l.post}) watch(x8->data), watch(x8->scales);
    watch(l.rotated), watch(l.ids), watch(l.weights);
  }

  void add(Step step) { steps.push_back(std::move(step)); }
  template <typename T>
  void watch(const DeviceArray<T>& array) {
    watched.push_back({reinterpret_cast<uint8_t*>(array.data()), array.bytes()});
  }

  /// Fills the caches token by token, with keys and values of what lies in the layers' memory by then.
  void fillCaches() {
    for (int step = 1; step <= kContext; ++step) {
      std::vector<int32_t> growing = lengthsOnHost;
      for (int32_t& length : growing) length = std::min(length, step);
      CHECK_CUDA(cudaMemcpy(lengths.data(), growing.data(), lengths.bytes(), cudaMemcpyHostToDevice));
      for (const Step& append : appends) CHECK_CUDA(append(nullptr));
      CHECK_CUDA(cudaDeviceSynchronize());
    }
  }

  std::vector<uint8_t> state() const {
    size_t size = 0;
    for (const auto& [data, bytes] : watched) size += bytes;
    std::vector<uint8_t> all(size);
    size_t at = 0;
    for (const auto& [data, bytes] : watched) {
      CHECK_CUDA(cudaMemcpy(all.data() + at, data, bytes, cudaMemcpyDeviceToHost));
      at += bytes;
    }
    return all;
  }

  int numTokens;
  Layer layers[2];
  Quantised final;
  DeviceArray<Bf16> residual, logits;
  DeviceArray<float> values, logSum;
  DeviceArray<int32_t> candidates, tokens, pageTable;
  std::vector<int32_t> lengthsOnHost;
  DeviceArray<int32_t> lengths;
  DeviceArray<float> cosSin;
  Workspace work;
  std::vector<Step> steps, appends;
  std::vector<std::pair<uint8_t*, size_t>> watched;
};

void check(const Model& model, int numTokens, int numReplays, Random& random) {
  Chain chain(model, numTokens, random);
  chain.watch(chain.residual), chain.watch(chain.logits), chain.watch(chain.values), chain.watch(chain.logSum);
  chain.watch(chain.candidates), chain.watch(chain.final.data), chain.watch(chain.final.scales);
  const auto oneByOne = [&] {
    for (const auto& step : chain.steps) {
      CHECK_CUDA(step(nullptr));
      CHECK_CUDA(cudaDeviceSynchronize());
    }
  };
  oneByOne();  // for queries, keys and values
  chain.fillCaches();
  oneByOne();
  const auto expected = chain.state();
  for (const Bf16 logit : chain.logits.host()) {
    if (!std::isfinite(static_cast<float>(logit))) return report(false, "%3d tokens: a logit is not finite", numTokens);
  }
  cudaStream_t stream;
  CHECK_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  cudaGraph_t graph;
  cudaGraphExec_t replay;
  CHECK_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  for (const auto& step : chain.steps) CHECK_CUDA(step(stream));
  CHECK_CUDA(cudaStreamEndCapture(stream, &graph));
  CHECK_CUDA(cudaGraphInstantiate(&replay, graph, 0));
  int numDifferent = 0;
  size_t first = 0;
  for (int i = 0; i < numReplays; ++i) {
    for (const auto& [data, bytes] : chain.watched) CHECK_CUDA(cudaMemset(data, 0xFF, bytes));
    CHECK_CUDA(cudaDeviceSynchronize());
    CHECK_CUDA(cudaGraphLaunch(replay, stream));
    CHECK_CUDA(cudaStreamSynchronize(stream));
    const auto found = chain.state();
    if (sameBits(found, expected)) continue;
    if (numDifferent++ == 0) first = std::mismatch(found.begin(), found.end(), expected.begin()).first - found.begin();
  }
  size_t array = 0;
  for (size_t end = chain.watched[0].second; end <= first && array + 1 < chain.watched.size();) end += chain.watched[++array].second;
  report(numDifferent == 0, "%3d tokens: %d of %d replays differ%s", numTokens, numDifferent, numReplays,
         numDifferent == 0 ? "" : (", first in watched array " + std::to_string(array)).c_str());
  CHECK_CUDA(cudaGraphExecDestroy(replay));
  CHECK_CUDA(cudaGraphDestroy(graph));
  CHECK_CUDA(cudaStreamDestroy(stream));
}

}  // namespace

int main(int numArguments, char** arguments) {
  Random random = makeRandom(numArguments, arguments);
  const Model model(random);
  const bool isSmall = numArguments > 1 && std::string(arguments[1]) == "small";
  if (isSmall)
    check(model, 7, 1, random);
  else
    for (int numTokens : {1, 7, 16, 33, 64, 65, 128, 200, 256}) check(model, numTokens, 30, random);
  return exitCode();
}
