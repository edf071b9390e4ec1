// Time of an attention stage's norms and matrix products one after the other, at Step-3's sizes and without the attention between
// q_up and o_proj: what overlap of neighbouring kernels is worth. Weights of two layers in rotation, more than L2 holds.
#include "../../models/kernels/kernels.h"
#include "device-test.h"

using namespace rally;
using namespace rally::test;

namespace {

constexpr int kHidden = 7168, kLowRank = 2560, kQuery = 16384, kQueryRank = 2048, kLayers = 2;

/// Both layers' weights of one matrix, side by side.
struct Matrix {
  int n, k;
  DeviceArray<E4m3> tiles;
  DeviceArray<float> scales;
  Matrix(int rows, int columns, Random& random)
      : n(rows), k(columns), tiles(size_t(kLayers) * n * k), scales(positive(random, size_t(n / kGroup) * (k / kGroup))) {
    fill(tiles, random);
  }
  Weights layer(int i) const { return {tiles.data() + size_t(i) * n * k, scales.data()}; }
};

struct Quantised {
  DeviceArray<E4m3> data;
  DeviceArray<float> scales;
  Quantised(int numTokens, int width, Random& random)
      : data(size_t(numTokens) * width), scales(positive(random, size_t(numTokens) * width / kGroup)) {
    fill(data, random);
  }
  Activations activations() const { return {data.data(), scales.data()}; }
};

void bench(int numTokens, const Matrix& down, const Matrix& up, const Matrix& out, Random& random) {
  const auto vector = [&](size_t count) { return convert<Bf16>(normals(random, count)); };
  const size_t count = size_t(numTokens) * kHidden;
  const DeviceArray<Bf16> residual(vector(count)), partial(vector(count)), norm(vector(kHidden)), interNorm(vector(kQueryRank));
  const DeviceArray<Bf16> lowRank(size_t(numTokens) * kLowRank), query(size_t(numTokens) * kQuery);
  const Quantised hidden(numTokens, kHidden, random), queryRank(numTokens, kQueryRank, random),
      attended(numTokens, kQuery, random);
  const double time = graphMicroseconds(kLayers, [&](cudaStream_t stream) {
    for (int i = 0; i < kLayers; ++i) {
      CHECK_CUDA(addRmsNormQuantise(residual.data(), partial.data(), 1, residual.data(), norm.data(), 1e-5f, hidden.activations(), nullptr,
                                    numTokens, kHidden, stream));
      CHECK_CUDA(fp8Gemm(hidden.activations(), down.layer(i), nullptr, lowRank.data(), numTokens, down.n, down.k, nullptr,
                         stream));
      CHECK_CUDA(rmsNormQuantise(lowRank.data(), kLowRank, interNorm.data(), 1e-5f, queryRank.activations(), numTokens,
                                 kQueryRank, stream));
      CHECK_CUDA(fp8Gemm(queryRank.activations(), up.layer(i), nullptr, query.data(), numTokens, up.n, up.k, nullptr, stream));
      CHECK_CUDA(fp8Gemm(attended.activations(), out.layer(i), residual.data(), residual.data(), numTokens, out.n, out.k,
                         nullptr, stream));
    }
  });
  std::printf("chain T %3d: norm, q_down+k+v, inter_norm, q_up, o_proj: %.2f us\n", numTokens, time);
  std::fflush(stdout);
}

}  // namespace

int main(int numArguments, char** arguments) {
  Random random = makeRandom(numArguments, arguments);
  const Matrix down(kLowRank, kHidden, random), up(kQuery, kQueryRank, random), out(kHidden, kQuery, random);
  for (const int numTokens : {1, 64, 128, 192, 256}) bench(numTokens, down, up, out, random);
}
