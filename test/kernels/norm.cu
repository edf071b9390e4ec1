// addRmsNormQuantise and rmsNormQuantise against float64, and their speed. Arguments: `small` (for
// compute-sanitizer), `check`, `bench`, a seed.
#include "../../models/kernels/kernels.h"

#include <cstring>

#include "device-test.h"

using namespace rally;
using namespace rally::test;

namespace {

constexpr float kEpsilon = 1e-5f;

/// Outputs of a kernel, poisoned.
struct Out {
  DeviceArray<E4m3> data;
  DeviceArray<float> scales;
  DeviceArray<Bf16> normed;
  Out(int numTokens, int width)
      : data(size_t(numTokens) * width), scales(size_t(numTokens) * (width / kGroup)), normed(size_t(numTokens) * width) {}
  Activations activations() const { return {data.data(), scales.data()}; }
  bool guardsIntact() const { return data.guardsIntact() && scales.guardsIntact() && normed.guardsIntact(); }
};

/// RMSNorm(x) * weight in float64, of x as stored.
std::vector<double> normOf(const std::vector<Bf16>& x, int stride, const std::vector<Bf16>& weight, int numTokens) {
  const size_t width = weight.size();
  std::vector<double> out(numTokens * width);
  for (int token = 0; token < numTokens; ++token) {
    double squares = 0;
    for (size_t i = 0; i < width; ++i) squares += std::pow(double(float(x[size_t(token) * stride + i])), 2);
    const double inverse = 1 / std::sqrt(squares / width + double(kEpsilon));
    for (size_t i = 0; i < width; ++i) {
      out[token * width + i] = double(float(x[size_t(token) * stride + i])) * inverse * double(float(weight[i]));
    }
  }
  return out;
}

/// Every scale is its group's largest value / 448, and every quantised value within half an e4m3 step of the exact one.
bool quantisedRight(const Out& out, const std::vector<double>& expected, int numTokens, int width) {
  const std::vector<E4m3> data = out.data.host();
  const std::vector<float> scales = out.scales.host();
  for (int token = 0; token < numTokens; ++token) {
    for (int group = 0; group < width / kGroup; ++group) {
      const size_t first = size_t(token) * width + group * kGroup;
      double largest = 0;
      for (int i = 0; i < kGroup; ++i) largest = std::max(largest, std::abs(expected[first + i]));
      const double scale = scales[size_t(group) * numTokens + token];
      if (!(std::abs(scale - largest / 448) <= 1e-5 * largest / 448 + 1e-32)) return false;
      for (int i = 0; i < kGroup; ++i) {
        const double exact = expected[first + i] / scale;
        const double step = std::max(std::exp2(std::floor(std::log2(std::max(std::abs(exact), 1e-9))) - 3), std::exp2(-9.0));
        if (!(std::abs(double(float(data[first + i])) - exact) <= 0.5001 * step + 1e-3 * step)) return false;
      }
    }
  }
  return true;
}

void checkAdd(int numTokens, int width, int numPartials, bool inPlace, Random& random) {
  const std::vector<Bf16> x = convert<Bf16>(normals(random, size_t(numTokens) * width, 3));
  const std::vector<Bf16> partials = convert<Bf16>(normals(random, size_t(numPartials) * numTokens * width, 2));
  std::vector<float> weightValues = normals(random, width, 0.3f);
  for (float& value : weightValues) value += 1;
  const std::vector<Bf16> weight = convert<Bf16>(weightValues);
  const DeviceArray<Bf16> residual(x), devicePartials(partials), deviceWeight(weight);
  const DeviceArray<Bf16> elsewhere(x.size());
  const DeviceArray<Bf16>& sum = inPlace ? residual : elsewhere;
  const Out out(numTokens, width);
  CHECK_CUDA(addRmsNormQuantise(residual.data(), devicePartials.data(), numPartials, sum.data(), deviceWeight.data(), kEpsilon,
                                out.activations(), out.normed.data(), numTokens, width, nullptr));
  CHECK_CUDA(cudaDeviceSynchronize());
  const std::vector<Bf16> stored = sum.host();
  const bool untouched = inPlace || sameBits(residual.host(), x);
  std::vector<double> sums(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    sums[i] = float(x[i]);
    for (int partial = 0; partial < numPartials; ++partial) sums[i] += float(partials[partial * x.size() + i]);
  }
  const double sumError = relativeError(stored, sums);
  const std::vector<double> expected = normOf(stored, width, weight, numTokens);
  const double normError = relativeError(out.normed.host(), expected);
  const bool quantised = quantisedRight(out, expected, numTokens, width);
  // Rounding to bf16 is within 2^-8 of a value, and about 1.7e-3 on average.
  const double tolerance = x.size() < 1000 ? 0x1p-8 : 2e-3;
  report(sumError < tolerance && normError < tolerance && quantised && untouched && out.guardsIntact() && sum.guardsIntact(),
         "add + norm T %3d width %5d partials %d: sum %.1e, norm %.1e%s", numTokens, width, numPartials, sumError, normError,
         quantised ? "" : ", wrongly quantised");
}

void checkPlain(int numTokens, int width, int stride, int offset, Random& random) {
  const std::vector<Bf16> x = convert<Bf16>(normals(random, size_t(numTokens) * stride, 3));
  const std::vector<Bf16> weight = convert<Bf16>(normals(random, width));
  const DeviceArray<Bf16> deviceX(x), deviceWeight(weight);
  const Out out(numTokens, width);
  CHECK_CUDA(rmsNormQuantise(deviceX.data() + offset, stride, deviceWeight.data(), kEpsilon, out.activations(), numTokens,
                             width, nullptr));
  CHECK_CUDA(cudaDeviceSynchronize());
  const std::vector<Bf16> columns(x.begin() + offset, x.end());
  const bool quantised = quantisedRight(out, normOf(columns, stride, weight, numTokens), numTokens, width);
  report(quantised && out.guardsIntact(), "norm T %3d width %5d of %5d from %d", numTokens, width, stride, offset);
}

void checkEdges() {
  const int width = 256;
  const DeviceArray<Bf16> zeros(std::vector<Bf16>(width, Bf16(0.0f))), weight(std::vector<Bf16>(width, Bf16(1.0f)));
  const Out out(1, width);
  CHECK_CUDA(rmsNormQuantise(zeros.data(), width, weight.data(), 0.0f, out.activations(), 1, width, nullptr));
  CHECK_CUDA(cudaDeviceSynchronize());
  // 0 / sqrt(0): without epsilon a row of zeros has no norm, and says so.
  report(std::isnan(float(out.data.host()[0])), "zeros without epsilon are not numbers");
  CHECK_CUDA(rmsNormQuantise(zeros.data(), width, weight.data(), kEpsilon, out.activations(), 1, width, nullptr));
  CHECK_CUDA(cudaDeviceSynchronize());
  bool zero = true;
  for (const E4m3 value : out.data.host()) zero = zero && float(value) == 0;
  for (const float scale : out.scales.host()) zero = zero && std::isfinite(scale);
  report(zero, "zeros stay zeros, with finite scales");
  const bool refused =
      rmsNormQuantise(zeros.data(), 100, weight.data(), 0, out.activations(), 1, 100, nullptr) == cudaErrorInvalidValue &&
      rmsNormQuantise(zeros.data() + 1, 256, weight.data(), 0, out.activations(), 1, 128, nullptr) == cudaErrorInvalidValue &&
      rmsNormQuantise(zeros.data(), 128, weight.data(), 0, out.activations(), 1, 256, nullptr) == cudaErrorInvalidValue;
  report(refused, "widths and strides that the kernel does not do are refused");
}

void bench(int numTokens) {
  constexpr int kHidden = 7168, kCalls = 40;
  Random random(1);
  const size_t count = size_t(numTokens) * kHidden;
  const DeviceArray<Bf16> residual(convert<Bf16>(normals(random, count))), weight(convert<Bf16>(normals(random, kHidden)));
  const DeviceArray<Bf16> partials(convert<Bf16>(normals(random, 2 * count)));
  const Out out(numTokens, kHidden);
  const auto add = [&](int numPartials) {
    return graphMicroseconds(kCalls, [&](cudaStream_t stream) {
      for (int i = 0; i < kCalls; ++i) {
        CHECK_CUDA(addRmsNormQuantise(residual.data(), partials.data(), numPartials, residual.data(), weight.data(), kEpsilon,
                                      out.activations(), out.normed.data(), numTokens, kHidden, stream));
      }
    });
  };
  const double inter = graphMicroseconds(kCalls, [&](cudaStream_t stream) {
    for (int i = 0; i < kCalls; ++i) {
      CHECK_CUDA(rmsNormQuantise(residual.data(), 2560, weight.data(), kEpsilon, out.activations(), numTokens, 2048, stream));
    }
  });
  std::printf("norm T %3d (inputs in L2): add 0 partials %.2f us, 1 %.2f us, 2 %.2f us; inter_norm 2048 of 2560 %.2f us\n",
              numTokens, add(0), add(1), add(2), inter);
}

}  // namespace

int main(int numArguments, char** arguments) {
  Random random = makeRandom(numArguments, arguments);
  const auto asked = [&](const char* word) {
    return std::any_of(arguments + 1, arguments + numArguments, [&](const char* a) { return std::strcmp(a, word) == 0; });
  };
  if (asked("small")) {
    for (const bool inPlace : {true, false}) checkAdd(2, 384, 2, inPlace, random);
    checkPlain(2, 128, 400, 264, random);
  }
  if (asked("check")) {
    for (const int numTokens : {1, 7, 127}) {
      for (const int width : {128, 384, 2048, 7168, 14336}) {
        if (width == 14336 && numTokens > 7) continue;
        for (const int numPartials : {0, 1, 3}) {
          for (const bool inPlace : {true, false}) checkAdd(numTokens, width, numPartials, inPlace, random);
        }
      }
      checkPlain(numTokens, 2048, 2560, 0, random);
      checkPlain(numTokens, 128, 400, 264, random);
    }
    checkEdges();
  }
  if (asked("bench")) {
    for (const int numTokens : {1, 64, 128, 256}) bench(numTokens);
  }
  return exitCode();
}
