// embed and topCandidates against the CPU, and their speed. Arguments: `small` (for compute-sanitizer), `check`,
// `bench`, a seed.
#include "../../models/kernels/kernels.h"

#include <cstring>
#include <numeric>

#include "device-test.h"

using namespace rally;
using namespace rally::test;

namespace {

constexpr int kVocab = 128815;
constexpr int kPadded = 128896;

void checkEmbed(int numTokens, int hidden, Random& random) {
  const int vocab = 100;
  const std::vector<Bf16> table = convert<Bf16>(normals(random, size_t(vocab) * hidden));
  std::vector<int32_t> ids(numTokens);
  for (int32_t& id : ids) id = static_cast<int32_t>(random() % (vocab + 20)) - 10;
  const DeviceArray<Bf16> deviceTable(table), out(size_t(numTokens) * hidden);
  const DeviceArray<int32_t> deviceIds(ids);
  CHECK_CUDA(embed(deviceIds.data(), deviceTable.data(), out.data(), numTokens, vocab, hidden, nullptr));
  CHECK_CUDA(cudaDeviceSynchronize());
  std::vector<Bf16> expected;
  for (const int32_t id : ids) {
    for (int i = 0; i < hidden; ++i) {
      expected.push_back(id >= 0 && id < vocab ? table[size_t(id) * hidden + i] : Bf16(0.0f));
    }
  }
  report(sameBits(out.host(), expected) && out.guardsIntact(), "embed T %3d hidden %5d, ids in and outside the vocabulary",
         numTokens, hidden);
}

/// Every column past the vocabulary is larger than any logit and must not be seen.
void checkCandidates(const char* kind, int numTokens, int vocab, int stride, int numCandidates,
                     const std::function<float(int)>& logit) {
  std::vector<Bf16> logits(size_t(numTokens) * stride, Bf16(30000.0f));
  for (int token = 0; token < numTokens; ++token) {
    for (int i = 0; i < vocab; ++i) logits[size_t(token) * stride + i] = Bf16(logit(i));
  }
  const DeviceArray<Bf16> device(logits);
  const size_t count = size_t(numTokens) * numCandidates;
  const DeviceArray<int32_t> ids(count);
  const DeviceArray<float> values(count), logSum(numTokens);
  const DeviceArray<uint8_t> workspace(candidatesWorkspaceBytes(numTokens, vocab, numCandidates));
  CHECK_CUDA(topCandidates(device.data(), stride, ids.data(), values.data(), logSum.data(), numTokens, vocab, numCandidates,
                           workspace.data(), nullptr));
  CHECK_CUDA(cudaDeviceSynchronize());
  const std::vector<int32_t> gotIds = ids.host();
  const std::vector<float> gotValues = values.host(), gotSums = logSum.host();
  bool right = ids.guardsIntact() && values.guardsIntact() && logSum.guardsIntact() && workspace.guardsIntact();
  double worst = 0;
  for (int token = 0; token < numTokens; ++token) {
    const Bf16* const row = logits.data() + size_t(token) * stride;
    std::vector<int32_t> order(vocab);
    std::iota(order.begin(), order.end(), 0);
    std::partial_sort(order.begin(), order.begin() + numCandidates, order.end(), [&](int a, int b) {
      return float(row[a]) != float(row[b]) ? float(row[a]) > float(row[b]) : a < b;
    });
    for (int i = 0; i < numCandidates; ++i) {
      const size_t at = size_t(token) * numCandidates + i;
      right = right && gotIds[at] == order[i] && gotValues[at] == float(row[order[i]]);
    }
    double sum = 0;
    const double largest = float(row[order[0]]);
    for (int i = 0; i < vocab; ++i) sum += std::exp(double(float(row[i])) - largest);
    const double error = std::abs(gotSums[token] - (largest + std::log(sum)));
    worst = std::isnan(error) ? error : std::max(worst, error);
  }
  report(right && worst < 1e-4, "candidates T %3d vocabulary %6d of %6d top %2d, %s: log sum within %.1e", numTokens, vocab,
         stride, numCandidates, kind, worst);
}

void checkNotNumbers() {
  constexpr int kNumCandidates = 4;
  std::vector<Bf16> logits(1000, Bf16(NAN));
  logits[500] = Bf16(2.0f);
  const DeviceArray<Bf16> device(logits);
  const DeviceArray<int32_t> ids(kNumCandidates);
  const DeviceArray<float> values(kNumCandidates), logSum(1);
  const DeviceArray<uint8_t> workspace(candidatesWorkspaceBytes(1, 1000, kNumCandidates));
  CHECK_CUDA(topCandidates(device.data(), 1000, ids.data(), values.data(), logSum.data(), 1, 1000, kNumCandidates,
                           workspace.data(), nullptr));
  CHECK_CUDA(cudaDeviceSynchronize());
  report(ids.host() == std::vector<int32_t>{500, -1, -1, -1} && values.host()[0] == 2 && std::isnan(logSum.host()[0]),
         "logits that are not numbers are no candidates");
}

void checkAllCandidates(Random& random) {
  std::normal_distribution<float> normal(0, 3);
  const auto drawn = [&](int) { return normal(random); };
  for (const int numTokens : {1, 7, 33}) {
    checkCandidates("normal", numTokens, kVocab, kPadded, 64, drawn);
    checkCandidates("normal", numTokens, kVocab, kVocab, 20, drawn);
    checkCandidates("normal", numTokens, 260, 264, 1, drawn);
    checkCandidates("normal", numTokens, 64, 64, 64, drawn);
  }
  checkCandidates("all the same", 2, kVocab, kPadded, 64, [](int) { return -1.5f; });
  checkCandidates("rising", 2, kVocab, kPadded, 64, [](int i) { return float(i) / 1000; });
  checkCandidates("falling", 2, kVocab, kPadded, 64, [](int i) { return -float(i) / 1000; });
  checkCandidates("both zeros", 2, 5000, 5000, 64, [](int i) { return i % 2 == 0 ? -0.0f : 0.0f; });
  checkCandidates("many of minus infinity", 2, 20000, 20000, 64, [](int i) { return i % 150 == 7 ? 1.0f : -INFINITY; });
  checkNotNumbers();
  const bool refused =
      topCandidates(nullptr, 10, nullptr, nullptr, nullptr, 1, 10, 11, nullptr, nullptr) == cudaErrorInvalidValue &&
      topCandidates(nullptr, 100, nullptr, nullptr, nullptr, 1, 100, 65, nullptr, nullptr) == cudaErrorInvalidValue &&
      topCandidates(nullptr, 99, nullptr, nullptr, nullptr, 1, 100, 1, nullptr, nullptr) == cudaErrorInvalidValue;
  report(refused, "requests that the kernel does not do are refused");
}

void bench(int numTokens, Random& random) {
  constexpr int kCalls = 4;  // different logits, so that they come from device memory for large batches
  const std::vector<Bf16> row = convert<Bf16>(normals(random, kPadded * 8, 3));
  const DeviceArray<Bf16> logits(size_t(kCalls) * numTokens * kPadded);
  for (size_t at = 0; at + row.size() <= logits.size(); at += row.size()) {
    CHECK_CUDA(cudaMemcpy(logits.data() + at, row.data(), row.size() * sizeof(Bf16), cudaMemcpyHostToDevice));
  }
  const DeviceArray<int32_t> ids(size_t(numTokens) * 64);
  const DeviceArray<float> values(size_t(numTokens) * 64), logSum(numTokens);
  const DeviceArray<uint8_t> workspace(candidatesWorkspaceBytes(numTokens, kVocab, 64));
  const double time = graphMicroseconds(kCalls, [&](cudaStream_t stream) {
    for (int i = 0; i < kCalls; ++i) {
      CHECK_CUDA(topCandidates(logits.data() + size_t(i) * numTokens * kPadded, kPadded, ids.data(), values.data(),
                               logSum.data(), numTokens, kVocab, 64, workspace.data(), stream));
    }
  });
  constexpr int kHidden = 7168;
  const DeviceArray<Bf16> table(size_t(20000) * kHidden), out(size_t(numTokens) * kHidden);
  const DeviceArray<int32_t> tokens(std::vector<int32_t>(numTokens, 777));
  const double embedTime = graphMicroseconds(20, [&](cudaStream_t stream) {
    for (int i = 0; i < 20; ++i) {
      CHECK_CUDA(embed(tokens.data(), table.data(), out.data(), numTokens, 20000, kHidden, stream));
    }
  });
  std::printf("candidates T %3d vocabulary %d top 64: %.2f us (logits %.1f MB); embed %.2f us\n", numTokens, kVocab, time,
              numTokens * kVocab * 2e-6, embedTime);
}

}  // namespace

int main(int numArguments, char** arguments) {
  Random random = makeRandom(numArguments, arguments);
  const auto asked = [&](const char* word) {
    return std::any_of(arguments + 1, arguments + numArguments, [&](const char* a) { return std::strcmp(a, word) == 0; });
  };
  if (asked("small")) {
    std::normal_distribution<float> normal(0, 3);
    checkEmbed(3, 72, random);
    checkCandidates("normal", 1, 20000, 20000, 64, [&](int) { return normal(random); });
  }
  if (asked("check")) {
    for (const int numTokens : {1, 7, 200}) {
      checkEmbed(numTokens, 7168, random);
      checkEmbed(numTokens, 72, random);
    }
    checkAllCandidates(random);
  }
  if (asked("bench")) {
    for (const int numTokens : {8, 64, 128, 256}) bench(numTokens, random);
  }
  return exitCode();
}
