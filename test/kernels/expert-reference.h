// The expert feed-forward in float64.
#pragma once

#include <cmath>
#include <thread>

#include "expert-case.h"

namespace rally::test {

inline const double* e4m3Values() {
  static const std::vector<double> table = [] {
    std::vector<double> values(256);
    for (int i = 0; i < 256; ++i) {
      __nv_fp8_e4m3 value;
      value.__x = static_cast<__nv_fp8_storage_t>(i);
      values[i] = float(value);
    }
    return values;
  }();
  return table.data();
}

/// Row `row` of a packed matrix [n, k] times x [k].
inline double dotRow(const uint8_t* tiles, const float* scales, int k, int row, const double* x) {
  const double* values = e4m3Values();
  double sum = 0;
  for (int g = 0; g < k / 128; ++g) {
    const size_t tile = size_t(row / 128) * (k / 128) + g;
    const uint8_t* bytes = tiles + tile * 16384 + row % 128 * 128;
    double part = 0;
    for (int i = 0; i < 128; ++i) part += values[bytes[(i / 16 ^ row % 8) * 16 + i % 16]] * x[g * 128 + i];
    sum += part * scales[tile];
  }
  return sum;
}

/// y of one token in float64; the intermediate values are quantised as the kernel states.
inline std::vector<double> referenceToken(const Dimensions& d, const ExpertSet& set, const Batch& batch, int token) {
  const double* values = e4m3Values();
  std::vector<double> x(d.hidden), y(d.hidden);
  for (int i = 0; i < d.hidden; ++i)
    x[i] = values[batch.x.host[size_t(token) * d.hidden + i]] * batch.scales.host[size_t(i / 128) * batch.numTokens + token];
  for (int c = 0; c <= d.topK; ++c) {
    int local = d.sharedLocal;
    double weight = 1;
    if (c < d.topK) {
      const int id = batch.ids.host[size_t(token) * d.topK + c];
      local = id < 0 ? -1 : batch.localOf.host[id];
      weight = batch.weights.host[size_t(token) * d.topK + c];
    }
    if (local < 0 || local >= d.numLocal) continue;
    const size_t bytes = size_t(d.inter) * d.hidden;
    const uint8_t* gateUp = set.gateUp.host.data() + local * 2 * bytes;
    const float* gateUpScales = set.gateUpScales.host.data() + local * 2 * bytes / 16384;
    std::vector<double> middle(d.inter);
    for (int g = 0; g < d.inter / 128; ++g) {
      double largest = 0;
      for (int i = g * 128; i < g * 128 + 128; ++i) {
        const int row = i / 64 * 128 + i % 64;
        const double gate = dotRow(gateUp, gateUpScales, d.hidden, row, x.data());
        const double up = dotRow(gateUp, gateUpScales, d.hidden, row + 64, x.data());
        middle[i] = gate / (1 + std::exp(-gate)) * up;
        largest = std::fmax(largest, std::fabs(middle[i]));
      }
      const double scale = largest / 448;
      for (int i = g * 128; i < g * 128 + 128; ++i)
        middle[i] = scale > 0 ? values[__nv_cvt_double_to_fp8(middle[i] / scale, __NV_SATFINITE, __NV_E4M3)] * scale : 0;
    }
    for (int i = 0; i < d.hidden; ++i)
      y[i] += weight * dotRow(set.down.host.data() + local * bytes, set.downScales.host.data() + local * bytes / 16384, d.inter,
                              i, middle.data());
  }
  return y;
}

/// ‖y - reference‖ / ‖reference‖ over the given tokens, computed by all cores. NaN, or a difference anywhere of a third of the
/// token's root mean square, counts as 1. (An intermediate value at the border of two e4m3 values may be rounded the other way: up
/// to 6 % of that value.)
inline double relativeError(const Dimensions& d, const ExpertSet& set, const Batch& batch, const std::vector<Bf16>& y,
                            const std::vector<int>& tokens) {
  std::vector<double> difference(tokens.size()), norm(tokens.size());
  std::vector<std::thread> threads;
  const unsigned numThreads = std::thread::hardware_concurrency();
  for (unsigned n = 0; n < numThreads; ++n)
    threads.emplace_back([&, n] {
      for (size_t i = n; i < tokens.size(); i += numThreads) {
        const std::vector<double> expected = referenceToken(d, set, batch, tokens[i]);
        double worst = 0;
        for (int c = 0; c < d.hidden; ++c) {
          const double delta = double(__bfloat162float(y[size_t(tokens[i]) * d.hidden + c])) - expected[c];
          difference[i] += delta * delta;
          norm[i] += expected[c] * expected[c];
          worst = std::isfinite(delta) ? std::fmax(worst, std::fabs(delta)) : INFINITY;
        }
        if (!(worst <= std::sqrt(norm[i] / d.hidden) / 3)) difference[i] = INFINITY;
      }
    });
  for (std::thread& thread : threads) thread.join();
  double sumDifference = 0, sumNorm = 0;
  for (size_t i = 0; i < tokens.size(); ++i) {
    sumDifference += difference[i];
    sumNorm += norm[i];
  }
  if (sumNorm == 0) return sumDifference == 0 ? 0 : 1;
  const double error = std::sqrt(sumDifference / sumNorm);
  return error <= 1 ? error : 1;
}

}  // namespace rally::test
