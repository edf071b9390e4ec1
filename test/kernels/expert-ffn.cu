// Checks expertFfn against the float64 reference. `expert-ffn small` runs small shapes only (for compute-sanitizer).
#include <cstring>

#include "expert-reference.h"

using namespace rally;
using namespace rally::test;

namespace {

/// The matrix unit keeps about 14 bits of a sum, so now and then an intermediate value is rounded to the neighbouring e4m3 value (up to
/// 6 % of it) than in float64. That weighs more the fewer intermediate values there are.
double tolerance(const Dimensions& d) { return d.inter >= 4096 ? 6e-3 : 4e-2; }
int failures = 0;
int repetitions = 10;  // of every case, for the same bits

void report(const char* name, bool passed, double error) {
  std::printf("%-58s error %.2e  %s\n", name, error, passed ? "ok" : "FAILED");
  std::fflush(stdout);
  failures += !passed;
}

std::vector<int> sample(int numTokens, int most, uint64_t seed) {
  std::vector<int> tokens(numTokens);
  for (int t = 0; t < numTokens; ++t) tokens[t] = t;
  if (numTokens <= most) return tokens;
  std::mt19937_64 random(seed);
  std::shuffle(tokens.begin(), tokens.end(), random);
  tokens.resize(most);
  return tokens;
}

void check(const char* name, const Dimensions& d, const ExpertSet& set, int numTokens, const std::vector<int>& counts,
           int mostTokens, uint64_t seed) {
  const Batch batch(d, routeCounts(d, numTokens, counts, seed), localTable(d), seed);
  const std::vector<Bf16> y = runOnce(d, set, batch);
  const double error = relativeError(d, set, batch, y, sample(numTokens, mostTokens, seed));
  int numDifferent = 0;
  for (int i = 0; i < repetitions; ++i) {
    const std::vector<Bf16> again = runOnce(d, set, batch);
    numDifferent += std::memcmp(y.data(), again.data(), y.size() * sizeof(Bf16)) != 0;
  }
  char label[160];
  std::snprintf(label, sizeof label, "%s%s", name, numDifferent == 0 ? "" : " (NOT REPRODUCIBLE)");
  report(label, error < tolerance(d) && numDifferent == 0, error);
}

/// A token's result must not depend on who else is in the batch.
void checkIndependence(const Dimensions& d, const ExpertSet& set, int many, uint64_t seed) {
  std::vector<int> counts(d.numLocal - (d.sharedLocal >= 0), many / 2);
  const auto route = routeCounts(d, many, counts, seed);
  const Batch whole(d, route, localTable(d), seed);
  const std::vector<Bf16> expected = runOnce(d, set, whole);
  for (const int few : {1, 3, 17, 100}) {
    if (few > many) continue;
    Batch part(d, {route.begin(), route.begin() + few}, localTable(d), seed);
    std::copy_n(whole.x.host.begin(), part.x.host.size(), part.x.host.begin());
    std::copy_n(whole.weights.host.begin(), part.weights.host.size(), part.weights.host.begin());
    for (int g = 0; g < d.hidden / kGroup; ++g)
      std::copy_n(whole.scales.host.begin() + size_t(g) * many, few, part.scales.host.begin() + size_t(g) * few);
    part.upload();
    const std::vector<Bf16> y = runOnce(d, set, part);
    char label[80];
    std::snprintf(label, sizeof label, "first %d of %d tokens alone, bit for bit", few, many);
    report(label, std::memcmp(y.data(), expected.data(), y.size() * sizeof(Bf16)) == 0, 0);
  }
}

/// Replays one captured launch with another routing in the same buffers.
void checkReplay(const Dimensions& d, const ExpertSet& set, uint64_t seed) {
  const int numTokens = 40;
  Batch batch(d, routeCounts(d, numTokens, {40, 3, 0}, seed), localTable(d), seed);
  Buffer<Bf16> y(size_t(numTokens) * d.hidden);
  Buffer<uint8_t> workspace(expertWorkspaceBytes(numTokens, d.topK, d.numLocal, d.hidden, d.inter));
  zeroWorkspace(workspace);
  cudaStream_t stream;
  CHECK(cudaStreamCreate(&stream));
  CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  CHECK(expertFfn({reinterpret_cast<E4m3*>(batch.x.device), batch.scales.device}, batch.ids.device, batch.weights.device,
                  batch.localOf.device, set.view(), d.numLocal, d.sharedLocal, y.device, numTokens, d.topK, d.hidden, d.inter,
                  workspace.device, stream));
  cudaGraph_t graph;
  cudaGraphExec_t instance;
  CHECK(cudaStreamEndCapture(stream, &graph));
  CHECK(cudaGraphInstantiate(&instance, graph));
  const std::vector<std::vector<int>> routings = {{40, 3, 0}, {0, 0, 0}, {1, 39, 40}, {7, 7, 7}};
  for (const std::vector<int>& counts : routings) {
    const auto route = routeCounts(d, numTokens, counts, ++seed);
    for (int t = 0; t < numTokens; ++t) std::copy(route[t].begin(), route[t].end(), batch.ids.host.begin() + t * d.topK);
    batch.upload();
    y.poison();
    poisonWorkspace(workspace);
    CHECK(cudaDeviceSynchronize());
    for (int i = 0; i < 3; ++i) CHECK(cudaGraphLaunch(instance, stream));
    CHECK(cudaStreamSynchronize(stream));
    y.download();
    const double error = relativeError(d, set, batch, y.host, sample(numTokens, numTokens, seed));
    report("graph replay with another routing", error < tolerance(d), error);
  }
  CHECK(cudaGraphExecDestroy(instance));
  CHECK(cudaGraphDestroy(graph));
  CHECK(cudaStreamDestroy(stream));
}

/// Calls of unlike shapes leave one workspace as the next one wants it.
void checkSharedWorkspace(const Dimensions& d, const ExpertSet& set, uint64_t seed) {
  const Buffer<uint8_t> workspace(expertWorkspaceBytes(300, d.topK, d.numLocal, d.hidden, d.inter));
  zeroWorkspace(workspace);
  bool same = true;
  for (const int numTokens : {300, 1, 130, 20, 300, 64}) {
    const Batch batch(d, routeCounts(d, numTokens, {numTokens, numTokens / 2, 1}, ++seed), localTable(d), seed);
    const std::vector<Bf16> expected = runOnce(d, set, batch), y = runIn(workspace, d, set, batch);
    same = same && std::memcmp(y.data(), expected.data(), y.size() * sizeof(Bf16)) == 0;
  }
  report("one workspace for unlike calls, bit for bit", same, 0);
}

void checkRefusals(const Dimensions& d, const ExpertSet& set) {
  const auto call = [&](int numTokens, int topK, int hidden, int inter, int numLocal, int sharedLocal) {
    return expertFfn({nullptr, nullptr}, nullptr, nullptr, nullptr, set.view(), numLocal, sharedLocal, nullptr, numTokens, topK,
                     hidden, inter, nullptr, nullptr);
  };
  const bool refused = call(4, 2, d.hidden + 64, d.inter, 4, 3) == cudaErrorInvalidValue &&
                       call(4, 2, d.hidden, 100, 4, 3) == cudaErrorInvalidValue &&
                       call(-1, 2, d.hidden, d.inter, 4, 3) == cudaErrorInvalidValue &&
                       call(4, 2, d.hidden, d.inter, 4, 4) == cudaErrorInvalidValue &&
                       call(4000, 3, d.hidden, d.inter, 4, 3) == cudaErrorInvalidValue;
  report("shapes that it does not do are refused", refused, 0);
  report("no tokens", call(0, 2, d.hidden, d.inter, 4, 3) == cudaSuccess, 0);
}

void small(uint64_t seed, bool sanitizer) {
  const Dimensions d{384, 256, 4, 12, 3, 3};
  const ExpertSet set(d, seed);
  check("small: 1 token, shared only", d, set, 1, {0, 0, 0}, 64, ++seed);
  check("small: 1 token, three experts", d, set, 1, {1, 1, 1}, 64, ++seed);
  check("small: 37 tokens, 5/0/37", d, set, 37, {5, 0, 37}, 64, ++seed);
  check("small: 140 tokens, 129/64/1", d, set, 140, {129, 64, 1}, sanitizer ? 20 : 512, ++seed);
  const Dimensions single{384, 256, 4, 12, 1, -1};
  check("small: 200 tokens of one expert each, 129/64/1/5", single, set, 200, {129, 64, 1, 5}, sanitizer ? 20 : 512, ++seed);
  if (sanitizer) return;
  checkSharedWorkspace(d, set, ++seed);
  check("small: 512 tokens, 512/300/128", d, set, 512, {512, 300, 128}, 512, ++seed);
  check("small: 300 tokens, 127/128/129", d, set, 300, {127, 128, 129}, 512, ++seed);
  checkIndependence(d, set, 200, ++seed);
  checkReplay(d, set, ++seed);
  checkRefusals(d, set);
  const Dimensions none{256, 384, 5, 20, 3, -1};
  const ExpertSet others(none, ++seed);
  check("no shared expert: 0 local choices", none, others, 9, {0, 0, 0, 0, 0}, 64, ++seed);
  check("no shared expert: all on one", none, others, 257, {0, 0, 257, 0, 0}, 512, ++seed);
  check("no shared expert: 0/1/5/64/300", none, others, 300, {0, 1, 5, 64, 300}, 512, ++seed);
  check("no shared expert: 127/128/129/17/16", none, others, 200, {127, 128, 129, 17, 16}, 512, ++seed);
  const Dimensions alone{384, 256, 4, 12, 0, -1};
  check("no choices at all", alone, set, 5, {}, 64, ++seed);
  const Dimensions wide{128, 128, 20, 64, 8, 19};
  const ExpertSet many(wide, ++seed);
  check("20 experts, top 8", wide, many, 64, {60, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 64, 17, 16, 15, 0, 0, 33, 64}, 64, ++seed);
}

void large(uint64_t seed) {
  const Dimensions d{7168, 5120, 4, 48, 3, 3};
  const ExpertSet set(d, seed);
  check("Step-3: 128 tokens, 128/128/128", d, set, 128, {128, 128, 128}, 16, ++seed);
  check("Step-3: 5 tokens, 1/5/0", d, set, 5, {1, 5, 0}, 16, ++seed);
  check("Step-3: 300 tokens, 300/127/65", d, set, 300, {300, 127, 65}, 16, ++seed);
  check("Step-3: 512 tokens, 512/0/0", d, set, 512, {512, 0, 0}, 16, ++seed);
  checkIndependence(d, set, 200, ++seed);
  const Dimensions stage{7168, 5120, 4, 48, 1, -1};
  check("Step-3: 512 tokens of one expert each, 128 each", stage, set, 512, {128, 128, 128, 128}, 16, ++seed);
  check("Step-3: 512 tokens of one expert each, 256/96/32/128", stage, set, 512, {256, 96, 32, 128}, 16, ++seed);
}

}  // namespace

int main(int argc, char** argv) {
  const bool sanitizer = argc > 1 && std::strcmp(argv[1], "small") == 0;
  const uint64_t seed = std::random_device{}();
  std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
  if (sanitizer) repetitions = 1;
  small(seed, sanitizer);
  if (!sanitizer) large(seed + 100);
  std::printf("%s\n", failures == 0 ? "all passed" : "FAILED");
  return failures == 0 ? 0 : 1;
}
