// Checks f32-attention.cu against f64 on the host: fresh random inputs, odd sizes, scattered pages, poisoned memory. `f32-attention small`
// does a few sizes only, for compute-sanitizer.
#include "f32/f32-attention.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

using namespace rally;

namespace {

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::printf("%s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}

template <typename T>
struct Device {
  explicit Device(const std::vector<T>& from) : count(from.size()) {
    check(cudaMalloc(&data, count * sizeof(T)), "cudaMalloc");
    check(cudaMemcpy(data, from.data(), count * sizeof(T), cudaMemcpyHostToDevice), "copy");
  }
  ~Device() { cudaFree(data); }
  Device(const Device&) = delete;
  std::vector<T> read() const {
    std::vector<T> to(count);
    check(cudaMemcpy(to.data(), data, count * sizeof(T), cudaMemcpyDeviceToHost), "copy");
    return to;
  }
  T* data = nullptr;
  size_t count;
};

struct Case {
  int headDim, numHeads;
  /// Tokens in each row's cache, the new one counted; 0 is padding.
  std::vector<int> lengths;
};

std::mt19937 generator(std::random_device{}());

std::vector<float> normal(size_t count) {
  std::normal_distribution<float> distribution;
  std::vector<float> values(count);
  for (float& value : values) value = distribution(generator);
  return values;
}

double largestDifference(const float* found, const std::vector<double>& expected) {
  double most = 0;
  for (size_t i = 0; i < expected.size(); i++) {
    const double difference = std::fabs(found[i] - expected[i]);
    if (!(difference <= most)) most = difference;
  }
  return most;
}

/// The largest difference from f64; NaN if anything was left unwritten.
bool run(const Case& c) {
  const int numTokens = static_cast<int>(c.lengths.size()), longest = *std::max_element(c.lengths.begin(), c.lengths.end());
  const int maxPages = longest / kPageTokens + 2, numPages = numTokens * maxPages + 3, stride = 2 * c.headDim + 6;
  const size_t pageFloats = 2 * kPageTokens * c.headDim, width = static_cast<size_t>(c.numHeads) * c.headDim;
  std::vector<int32_t> pages(numPages);
  std::iota(pages.begin(), pages.end(), 0);
  std::shuffle(pages.begin(), pages.end(), generator);
  // Rows after the end of a sequence, and pages of nobody, are poison.
  std::vector<float> pool(numPages * pageFloats, NAN), query = normal(numTokens * width), keyValue = normal(numTokens * stride);
  std::vector<int32_t> table(static_cast<size_t>(numTokens) * maxPages, 1 << 20);
  for (int t = 0; t < numTokens; t++) {
    for (int page = 0; page * kPageTokens < c.lengths[t]; page++) table[t * maxPages + page] = pages[t * maxPages + page];
    for (int p = 0; p + 1 < c.lengths[t]; p++) {
      float* key = pool.data() + table[t * maxPages + p / kPageTokens] * pageFloats + p % kPageTokens * c.headDim;
      for (float* to : {key, key + kPageTokens * c.headDim}) {
        const auto values = normal(c.headDim);
        std::copy(values.begin(), values.end(), to);
      }
    }
  }
  std::vector<float2> cosSin(static_cast<size_t>(longest + 1) * c.headDim / 2);
  for (size_t i = 0; i < cosSin.size(); i++) cosSin[i] = {std::cos(0.37f * i), std::sin(0.37f * i)};

  Device<float> deviceQuery(query), deviceKeyValue(keyValue), devicePool(pool);
  Device<float> rotated(std::vector<float>(numTokens * width, NAN)), out(std::vector<float>(numTokens * width, NAN));
  Device<float2> deviceCosSin(cosSin);
  Device<int32_t> deviceTable(table), lengths(std::vector<int32_t>(c.lengths.begin(), c.lengths.end()));
  const F32Pool f32Pool{devicePool.data, c.headDim};
  const Sequences sequences{deviceTable.data, lengths.data, numTokens, maxPages};
  check(ropeAppendF32(deviceQuery.data, deviceKeyValue.data, stride, deviceCosSin.data, f32Pool, sequences, rotated.data, c.numHeads, 0), "append");
  check(mfaDecodeF32(rotated.data, f32Pool, sequences, out.data, c.numHeads, 0), "decode");
  check(cudaDeviceSynchronize(), "kernels");

  const auto rotate = [&](const float* from, int position) {
    std::vector<double> to(c.headDim);
    const int half = c.headDim / 2;
    for (int i = 0; i < half; i++) {
      const auto [cosine, sine] = cosSin[static_cast<size_t>(position) * half + i];
      to[i] = static_cast<double>(from[i]) * cosine - static_cast<double>(from[half + i]) * sine;
      to[half + i] = static_cast<double>(from[half + i]) * cosine + static_cast<double>(from[i]) * sine;
    }
    return to;
  };
  std::vector<float> expectedPool = pool;
  std::vector<double> expected(numTokens * width);
  for (int t = 0; t < numTokens; t++) {
    const int position = c.lengths[t] - 1;
    if (position < 0) continue;
    float* key = expectedPool.data() + table[t * maxPages + position / kPageTokens] * pageFloats + position % kPageTokens * c.headDim;
    const auto turnedKey = rotate(keyValue.data() + static_cast<size_t>(t) * stride, position);
    for (int i = 0; i < c.headDim; i++) {
      key[i] = static_cast<float>(turnedKey[i]);
      key[kPageTokens * c.headDim + i] = keyValue[static_cast<size_t>(t) * stride + c.headDim + i];
    }
    for (int head = 0; head < c.numHeads; head++) {
      const auto q = rotate(query.data() + t * width + head * c.headDim, position);
      std::vector<double> shares(c.lengths[t]);
      double most = -INFINITY, sum = 0;
      const auto keysOf = [&](int p) {
        return expectedPool.data() + table[t * maxPages + p / kPageTokens] * pageFloats + p % kPageTokens * c.headDim;
      };
      for (int p = 0; p < c.lengths[t]; p++) {
        for (int i = 0; i < c.headDim; i++) shares[p] += q[i] * keysOf(p)[i] / std::sqrt(c.headDim);
        most = std::max(most, shares[p]);
      }
      for (double& share : shares) sum += share = std::exp(share - most);
      for (int p = 0; p < c.lengths[t]; p++) {
        for (int i = 0; i < c.headDim; i++) expected[t * width + head * c.headDim + i] += shares[p] / sum * keysOf(p)[kPageTokens * c.headDim + i];
      }
    }
  }
  const auto foundPool = devicePool.read();
  const bool isPoolRight = std::memcmp(foundPool.data(), expectedPool.data(), foundPool.size() * sizeof(float)) == 0;
  const double difference = largestDifference(out.read().data(), expected);

  // A row alone gives the same bits.
  bool isAlike = true;
  const auto together = out.read();
  for (int t = 0; t < numTokens; t += 3) {
    Device<float> alone(std::vector<float>(width, NAN));
    const Sequences one{deviceTable.data + static_cast<size_t>(t) * maxPages, lengths.data + t, 1, maxPages};
    check(mfaDecodeF32(rotated.data + t * width, f32Pool, one, alone.data, c.numHeads, 0), "decode alone");
    isAlike = isAlike && std::memcmp(alone.read().data(), together.data() + t * width, width * sizeof(float)) == 0;
  }
  const bool isRight = isPoolRight && isAlike && difference < 2e-5;
  std::printf("%s  head_dim %3d  heads %2d  tokens %3d  longest %5d  largest difference %.1e  pool %s  alone %s\n", isRight ? "ok  " : "FAIL",
              c.headDim, c.numHeads, numTokens, longest, difference, isPoolRight ? "same bits" : "DIFFERS", isAlike ? "same bits" : "DIFFERS");
  return isRight;
}

}  // namespace

int main(int argc, char** argv) {
  const bool isSmall = argc > 1 && std::strcmp(argv[1], "small") == 0;
  std::vector<Case> cases = {
      {64, 12, {1}}, {64, 12, {0, 1, 64, 65, 127, 128}}, {2, 1, {3, 0}}, {256, 64, {1, 63, 100}}, {98, 9, {65, 7}},
  };
  if (!isSmall) {
    std::uniform_int_distribution<int> length(0, 1024);
    std::vector<int> many(64);
    for (int& each : many) each = length(generator);
    cases.push_back({64, 12, many});
    cases.push_back({256, 64, {4096, 1, 4095, 0, 2049}});
    cases.push_back({256, 64, {32768}});
  }
  bool areRight = true;
  for (const Case& c : cases) areRight = run(c) && areRight;
  // Shapes that it does not do are refused, not done wrong.
  const Sequences one{nullptr, nullptr, 1, 1};
  for (int headDim : {0, 3, 258}) {
    if (mfaDecodeF32(nullptr, {nullptr, headDim}, one, nullptr, 1, 0) != cudaErrorInvalidValue) areRight = false;
  }
  std::printf("%s\n", areRight ? "all right" : "FAILED");
  return areRight ? 0 : 1;
}
