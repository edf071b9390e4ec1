// fp8Gemm and packWeights against float64, and their speed. Arguments: `small` (few small cases, for compute-sanitizer), `check`,
// `bench`, `quick` (part of it), `plans` (other plans), `profile` (few launches, for ncu), a seed.
#include "../../models/kernels/fp8-gemm.h"

#include <cstring>

#include "device-test.h"

using namespace rally;
using namespace rally::test;

namespace {

struct Shape {
  int n, k;
};
constexpr Shape kStep3[] = {{2560, 7168}, {16384, 2048}, {7168, 16384}};

/// y in float64 from row-major weights; one thread per value.
__global__ void reference(const E4m3* x, const float* xScales, const E4m3* w, const float* wScales, const Bf16* addend,
                          double* y, int numTokens, int n, int k) {
  const int row = blockIdx.x * blockDim.x + threadIdx.x;
  const int token = blockIdx.y;
  if (row >= n) return;
  double sum = addend == nullptr ? 0 : static_cast<double>(static_cast<float>(addend[size_t(token) * n + row]));
  for (int group = 0; group < k / kGroup; ++group) {
    double part = 0;
    for (int i = group * kGroup; i < (group + 1) * kGroup; ++i) {
      part += static_cast<double>(static_cast<float>(x[size_t(token) * k + i])) *
              static_cast<double>(static_cast<float>(w[size_t(row) * k + i]));
    }
    sum += part * xScales[group * numTokens + token] * wScales[row / kGroup * (k / kGroup) + group];
  }
  y[size_t(token) * n + row] = sum;
}

/// The first numTokens tokens of a batch of `batch` tokens: their scales in order.
std::vector<float> scalesOfFirst(const std::vector<float>& scales, int batch, int numTokens) {
  std::vector<float> first;
  for (size_t group = 0; group < scales.size() / batch; ++group) {
    first.insert(first.end(), scales.begin() + group * batch, scales.begin() + group * batch + numTokens);
  }
  return first;
}

struct Problem {
  Shape shape;
  int batch;
  DeviceArray<E4m3> x, rowMajor, tiles;
  std::vector<float> hostScales;
  DeviceArray<float> wScales;
  DeviceArray<Bf16> addend;
  void* const workspace = nullptr;

  Problem(Shape s, int b, Random& random)
      : shape(s), batch(b), x(size_t(b) * s.k), rowMajor(size_t(s.n) * s.k), tiles(size_t(s.n) * s.k),
        hostScales(positive(random, size_t(s.k) / kGroup * b)), wScales(positive(random, size_t(s.n / kGroup) * (s.k / kGroup))),
        addend(convert<Bf16>(normals(random, size_t(b) * s.n, 100))) {
    fill(x, random);
    fill(rowMajor, random);
    CHECK_CUDA(packWeights(rowMajor.data(), tiles.data(), s.n, s.k, nullptr));
  }

  /// In place of the addend where that is asked for.
  std::vector<Bf16> run(int numTokens, bool withAddend, bool inPlace, bool& intact, const GemmPlan* plan) const {
    const DeviceArray<float> xScales(scalesOfFirst(hostScales, batch, numTokens));
    const size_t count = size_t(numTokens) * shape.n;
    const DeviceArray<Bf16> y(count);
    if (inPlace) CHECK_CUDA(cudaMemcpy(y.data(), addend.data(), y.bytes(), cudaMemcpyDeviceToDevice));
    const Bf16* added = withAddend ? inPlace ? y.data() : addend.data() : nullptr;
    const Weights weights{tiles.data(), wScales.data()};
    const Activations input{x.data(), xScales.data()};
    CHECK_CUDA(plan == nullptr
                   ? fp8Gemm(input, weights, added, y.data(), numTokens, shape.n, shape.k, workspace, nullptr)
                   : runGemm(*plan, input, weights, added, y.data(), numTokens, shape.n, shape.k, nullptr));
    CHECK_CUDA(cudaDeviceSynchronize());
    intact = y.guardsIntact();
    return y.host();
  }

  std::vector<double> expected(int numTokens, bool withAddend) const {
    const DeviceArray<float> xScales(scalesOfFirst(hostScales, batch, numTokens));
    const DeviceArray<double> y(size_t(numTokens) * shape.n);
    reference<<<dim3((shape.n + 127) / 128, numTokens), 128>>>(x.data(), xScales.data(), rowMajor.data(), wScales.data(),
                                                               withAddend ? addend.data() : nullptr, y.data(), numTokens,
                                                               shape.n, shape.k);
    CHECK_CUDA(cudaDeviceSynchronize());
    return y.host();
  }

  /// The same on the CPU, for a few values: a check of the reference itself.
  double expectedOnCpu(int token, int row, int numTokens) const {
    const std::vector<E4m3> hostX = x.host(), hostW = rowMajor.host();
    const std::vector<float> xs = scalesOfFirst(hostScales, batch, numTokens), ws = wScales.host();
    double sum = 0;
    for (int i = 0; i < shape.k; ++i) {
      sum += double(float(hostX[size_t(token) * shape.k + i])) * double(float(hostW[size_t(row) * shape.k + i])) *
             double(xs[i / kGroup * numTokens + token]) * double(ws[row / kGroup * (shape.k / kGroup) + i / kGroup]);
    }
    return sum;
  }
};

void check(const Problem& problem, int numTokens, const GemmPlan* plan, const std::vector<Bf16>* wholeBatch) {
  const auto [n, k] = problem.shape;
  const GemmPlan used = plan == nullptr ? planGemm(n, k) : *plan;
  bool intact[3];
  const std::vector<Bf16> plain = problem.run(numTokens, false, false, intact[0], plan);
  const std::vector<Bf16> added = problem.run(numTokens, true, false, intact[1], plan);
  const std::vector<Bf16> again = problem.run(numTokens, true, true, intact[2], plan);
  const double error = relativeError(plain, problem.expected(numTokens, false));
  const double errorAdded = relativeError(added, problem.expected(numTokens, true));
  const bool repeatable = sameBits(added, again);
  // A token's result must not depend on how many others there are.
  const bool independent =
      wholeBatch == nullptr || std::memcmp(plain.data(), wholeBatch->data(), plain.size() * sizeof(Bf16)) == 0;
  report(error < 2e-3 && errorAdded < 2e-3 && repeatable && independent && intact[0] && intact[1] && intact[2],
         "gemm T %3d N %5d K %5d plan %dx%d: error %.2e, with addend %.2e%s%s", numTokens, n, k, used.rowTiles, used.splits,
         error, errorAdded, repeatable ? "" : ", differs when repeated", independent ? "" : ", depends on the batch");
}

void checkShape(Shape shape, const std::vector<int>& tokenCounts, int batch, Random& random, const GemmPlan* plan = nullptr) {
  const Problem problem(shape, batch, random);
  bool intact;
  const std::vector<Bf16> wholeBatch = problem.run(batch, false, false, intact, plan);
  for (const int numTokens : tokenCounts) check(problem, numTokens, plan, &wholeBatch);
}

void checkReference(Random& random) {
  const Problem problem({256, 384}, 5, random);
  const std::vector<double> all = problem.expected(5, false);
  double worst = 0;
  for (const int token : {0, 4}) {
    for (const int row : {0, 129, 255}) {
      const double onCpu = problem.expectedOnCpu(token, row, 5);
      worst = std::max(worst, std::abs(all[size_t(token) * 256 + row] - onCpu) / std::abs(onCpu));
    }
  }
  report(worst < 1e-6, "reference on the device against the CPU: %.1e", worst);
}

void checkRefusals() {
  const Activations x{};
  const Weights w{};
  const bool refused = fp8Gemm(x, w, nullptr, nullptr, 0, 128, 128, nullptr, nullptr) == cudaErrorInvalidValue &&
                       fp8Gemm(x, w, nullptr, nullptr, 257, 128, 128, nullptr, nullptr) == cudaErrorInvalidValue &&
                       fp8Gemm(x, w, nullptr, nullptr, 1, 130, 128, nullptr, nullptr) == cudaErrorInvalidValue &&
                       fp8Gemm(x, w, nullptr, nullptr, 1, 128, 0, nullptr, nullptr) == cudaErrorInvalidValue &&
                       packWeights(nullptr, nullptr, 128, 100, nullptr) == cudaErrorInvalidValue;
  report(refused, "shapes that the kernels do not do are refused");
}

double bench(Shape shape, int numTokens, GemmPlan plan, bool withAddend, double bandwidth, Random& random) {
  const size_t weightBytes = size_t(shape.n) * shape.k;
  const int numCopies = static_cast<int>(std::max<size_t>(3, (size_t{240} << 20) / weightBytes + 1));
  const DeviceArray<E4m3> tiles(weightBytes * numCopies), x(size_t(numTokens) * shape.k);
  fill(tiles, random);
  fill(x, random);
  const DeviceArray<float> xScales(positive(random, size_t(shape.k) / kGroup * numTokens));
  const DeviceArray<float> wScales(positive(random, size_t(shape.n / kGroup) * (shape.k / kGroup)));
  const DeviceArray<Bf16> y(size_t(numTokens) * shape.n), addend(convert<Bf16>(normals(random, size_t(numTokens) * shape.n)));
  const double time = graphMicroseconds(numCopies, [&](cudaStream_t stream) {
    for (int i = 0; i < numCopies; ++i) {
      CHECK_CUDA(runGemm(plan, {x.data(), xScales.data()}, {tiles.data() + i * weightBytes, wScales.data()},
                         withAddend ? addend.data() : nullptr, y.data(), numTokens, shape.n, shape.k, stream));
    }
  });
  const double bytes = weightBytes + double(numTokens) * (shape.k + 2.0 * shape.n * (withAddend ? 2 : 1));
  std::printf("gemm T %3d N %6d K %5d plan %dx%d: %7.2f us, floor %6.2f us, %3.0f %% of copy bandwidth\n", numTokens, shape.n,
              shape.k, plan.rowTiles, plan.splits, time, bytes / bandwidth, 100 * bytes / bandwidth / time);
  std::fflush(stdout);
  return time;
}

void benchAll(Random& random) {
  const double bandwidth = measureBandwidth().copy;
  for (const int numTokens : {1, 16, 32, 64, 128, 192, 256}) {
    double sum = 0;
    for (const Shape shape : kStep3) {
      sum += bench(shape, numTokens, planGemm(shape.n, shape.k), shape.k == 16384, bandwidth, random);
    }
    std::printf("gemm T %3d all three: %.2f us\n", numTokens, sum);
  }
  bench({128896, 7168}, 128, planGemm(128896, 7168), false, bandwidth, random);
}

/// What a change to the inner loop or the end of a block shows in, within a second.
void benchQuickly(Random& random) {
  const double bandwidth = measureBandwidth().copy;
  for (const int numTokens : {64, 128, 192, 256}) {
    double sum = 0;
    for (const Shape shape : kStep3) sum += bench(shape, numTokens, planGemm(shape.n, shape.k), false, bandwidth, random);
    std::printf("gemm T %3d all three: %.2f us\n", numTokens, sum);
  }
}

void benchPlans(Random& random) {
  const double bandwidth = measureBandwidth().copy;
  for (const int numTokens : {64, 128, 256}) {
    for (const GemmPlan plan : {GemmPlan{1, 4}, {2, 2}, {2, 4}}) {
      bench(kStep3[0], numTokens, plan, false, bandwidth, random);
    }
    for (const GemmPlan plan : {GemmPlan{1, 1}, {2, 1}}) bench(kStep3[1], numTokens, plan, false, bandwidth, random);
    for (const GemmPlan plan : {GemmPlan{1, 2}, {2, 2}}) bench(kStep3[2], numTokens, plan, false, bandwidth, random);
  }
}

/// Each matrix once with warm code and cold weights, for a profiler.
void profile(Random& random) {
  for (const int numTokens : {128, 256}) {
    for (const Shape shape : kStep3) {
      const Problem problem(shape, numTokens, random);
      bool intact;
      for (int i = 0; i < 2; ++i) problem.run(numTokens, false, false, intact, nullptr);
    }
  }
}

}  // namespace

int main(int numArguments, char** arguments) {
  Random random = makeRandom(numArguments, arguments);
  const auto asked = [&](const char* word) {
    return std::any_of(arguments + 1, arguments + numArguments, [&](const char* a) { return std::strcmp(a, word) == 0; });
  };
  if (asked("small")) {
    checkRefusals();
    checkShape({256, 512}, {7, 65}, 80, random);
    checkShape({128, 384}, {1, 200}, 256, random);
  }
  if (asked("check")) {
    checkRefusals();
    checkReference(random);
    const std::vector<int> tokenCounts = {1, 7, 16, 17, 64, 127, 128, 129, 200, 256};
    for (const Shape shape : {Shape{128, 128}, {256, 128}, {384, 640}, {256, 2048}}) checkShape(shape, tokenCounts, 256, random);
    const GemmPlan odd{1, 4};  // 11 steps in 4 parts
    checkShape({384, 1408}, tokenCounts, 256, random, &odd);
    for (const Shape shape : kStep3) checkShape(shape, tokenCounts, 256, random);
  }
  if (asked("bench")) benchAll(random);
  if (asked("quick")) benchQuickly(random);
  if (asked("plans")) benchPlans(random);
  if (asked("profile")) profile(random);
  return exitCode();
}
