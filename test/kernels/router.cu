// routeTopK against float64, and its speed. Arguments: `small` (for compute-sanitizer), `check`, `bench`, a seed.
#include "../../models/kernels/kernels.h"

#include <cstring>
#include <numeric>

#include "device-test.h"

using namespace rally;
using namespace rally::test;

namespace {

struct Case {
  int numTokens, hidden, numExperts, topK;
};

struct Routed {
  std::vector<int32_t> ids;
  std::vector<float> weights;
  bool intact;
};

Routed route(const std::vector<Bf16>& x, const std::vector<float>& router, const Case& c) {
  const DeviceArray<Bf16> deviceX(x);
  const DeviceArray<float> deviceRouter(router);
  const DeviceArray<int32_t> ids(size_t(c.numTokens) * c.topK);
  const DeviceArray<float> weights(ids.size());
  CHECK_CUDA(routeTopK(deviceX.data(), deviceRouter.data(), ids.data(), weights.data(), c.numTokens, c.hidden, c.numExperts,
                       c.topK, nullptr));
  CHECK_CUDA(cudaDeviceSynchronize());
  return {ids.host(), weights.host(), ids.guardsIntact() && weights.guardsIntact()};
}

std::vector<double> probabilities(const std::vector<Bf16>& x, const std::vector<float>& router, const Case& c, int token) {
  std::vector<double> p(c.numExperts);
  for (int e = 0; e < c.numExperts; ++e) {
    for (int i = 0; i < c.hidden; ++i) {
      p[e] += double(float(x[size_t(token) * c.hidden + i])) * double(router[size_t(e) * c.hidden + i]);
    }
  }
  const double largest = *std::max_element(p.begin(), p.end());
  double sum = 0;
  for (double& value : p) sum += value = std::exp(value - largest);
  for (double& value : p) value /= sum;
  return p;
}

void check(const Case& c, Random& random) {
  const std::vector<Bf16> x = convert<Bf16>(normals(random, size_t(c.numTokens) * c.hidden));
  const std::vector<float> router = normals(random, size_t(c.numExperts) * c.hidden, 2 / std::sqrt(float(c.hidden)));
  const Routed routed = route(x, router, c);
  double worst = 0;
  bool right = routed.intact;
  for (int token = 0; token < c.numTokens; ++token) {
    const std::vector<double> p = probabilities(x, router, c, token);
    std::vector<double> sorted = p;
    std::sort(sorted.rbegin(), sorted.rend());
    std::vector<bool> seen(c.numExperts);
    for (int rank = 0; rank < c.topK; ++rank) {
      const int32_t id = routed.ids[size_t(token) * c.topK + rank];
      if (id < 0 || id >= c.numExperts || seen[id]) {
        right = false;
        continue;
      }
      seen[id] = true;
      // Two experts closer than f32 can tell may change places.
      right = right && std::abs(p[id] - sorted[rank]) <= 1e-5 * sorted[rank];
      const double error = std::abs(routed.weights[size_t(token) * c.topK + rank] - p[id]) / p[id];
      worst = std::isnan(error) ? error : std::max(worst, error);
    }
  }
  // Alone, a token is routed with the same bits.
  Case alone = c;
  alone.numTokens = 1;
  const Routed last = route(std::vector<Bf16>(x.end() - c.hidden, x.end()), router, alone);
  const bool independent =
      std::memcmp(last.ids.data(), routed.ids.data() + size_t(c.numTokens - 1) * c.topK, c.topK * sizeof(int32_t)) == 0 &&
      std::memcmp(last.weights.data(), routed.weights.data() + size_t(c.numTokens - 1) * c.topK, c.topK * sizeof(float)) == 0;
  report(right && worst < 1e-4 && independent, "router T %3d hidden %5d experts %3d top %d: weights within %.1e%s", c.numTokens,
         c.hidden, c.numExperts, c.topK, worst, independent ? "" : ", depends on the batch");
}

void checkEdges() {
  const Case c{2, 128, 48, 3};
  // All logits the same: the lowest ids, each with weight 1 / 48.
  const std::vector<Bf16> x(size_t(c.numTokens) * c.hidden, Bf16(0.0f));
  const Routed ties = route(x, std::vector<float>(size_t(c.numExperts) * c.hidden, 1.0f), c);
  report(ties.ids == std::vector<int32_t>{0, 1, 2, 0, 1, 2} && std::abs(ties.weights[5] * 48 - 1) < 1e-6,
         "ties go to the lower ids");
  const Routed bad = route(std::vector<Bf16>(x.size(), Bf16(NAN)), std::vector<float>(size_t(c.numExperts) * c.hidden, 1.0f), c);
  report(bad.ids == std::vector<int32_t>{0, 1, 2, 0, 1, 2} && std::isnan(bad.weights[0]),
         "tokens that are not numbers still get valid experts");
  const bool refused = routeTopK(nullptr, nullptr, nullptr, nullptr, 1, 128, 257, 3, nullptr) == cudaErrorInvalidValue &&
                       routeTopK(nullptr, nullptr, nullptr, nullptr, 1, 128, 2, 3, nullptr) == cudaErrorInvalidValue &&
                       routeTopK(nullptr, nullptr, nullptr, nullptr, 1, 127, 8, 3, nullptr) == cudaErrorInvalidValue;
  report(refused, "routers that the kernel does not do are refused");
}

void bench(int numTokens) {
  constexpr int kHidden = 7168, kExperts = 48, kCopies = 64;  // 88 MB of routers
  Random random(1);
  const size_t size = size_t(kExperts) * kHidden;
  const DeviceArray<Bf16> x(convert<Bf16>(normals(random, size_t(numTokens) * kHidden)));
  const DeviceArray<float> one(normals(random, size, 0.02f)), routers(size * kCopies), weights(size_t(numTokens) * 3);
  const DeviceArray<int32_t> ids(size_t(numTokens) * 3);
  for (int i = 0; i < kCopies; ++i) {
    CHECK_CUDA(cudaMemcpy(routers.data() + i * size, one.data(), one.bytes(), cudaMemcpyDeviceToDevice));
  }
  const double time = graphMicroseconds(kCopies, [&](cudaStream_t stream) {
    for (int i = 0; i < kCopies; ++i) {
      CHECK_CUDA(routeTopK(x.data(), routers.data() + i * size, ids.data(), weights.data(), numTokens, kHidden, kExperts, 3,
                           stream));
    }
  });
  std::printf("router T %3d (weights from device memory): %.2f us\n", numTokens, time);
}

}  // namespace

int main(int numArguments, char** arguments) {
  Random random = makeRandom(numArguments, arguments);
  const auto asked = [&](const char* word) {
    return std::any_of(arguments + 1, arguments + numArguments, [&](const char* a) { return std::strcmp(a, word) == 0; });
  };
  if (asked("small")) check({3, 1096, 50, 3}, random);
  if (asked("check")) {
    for (const int numTokens : {1, 7, 8, 127}) {
      check({numTokens, 7168, 48, 3}, random);
      check({numTokens, 64, 8, 2}, random);
      check({numTokens, 1000, 256, 8}, random);
    }
    checkEdges();
  }
  if (asked("bench")) {
    for (const int numTokens : {1, 64, 128, 256}) bench(numTokens);
  }
  return exitCode();
}
