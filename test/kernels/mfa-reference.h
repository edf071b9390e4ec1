// Attention in float64 on the CPU, and how far quantised outputs are from it.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

/// queries [numHeads, dim], keys and values [length, dim] -> [numHeads, dim]; scale multiplies q k.
inline std::vector<double> attention(const std::vector<double>& queries, const std::vector<float>& keys,
                                     const std::vector<float>& values, int numHeads, int dim, int length, double scale) {
  std::vector<double> out(static_cast<size_t>(numHeads) * dim);
  std::vector<double> weights(length);
  for (int head = 0; head < numHeads; ++head) {
    double largest = -INFINITY;
    for (int token = 0; token < length; ++token) {
      double dot[4] = {};
      for (int d = 0; d < dim; d += 4) {
        for (int i = 0; i < 4; ++i) dot[i] += queries[head * dim + d + i] * keys[static_cast<size_t>(token) * dim + d + i];
      }
      weights[token] = scale * (dot[0] + dot[1] + dot[2] + dot[3]);
      largest = std::max(largest, weights[token]);
    }
    double sum = 0;
    for (double& weight : weights) sum += weight = std::exp(weight - largest);
    for (int token = 0; token < length; ++token) {
      const double weight = weights[token] / sum;
      for (int d = 0; d < dim; ++d) out[head * dim + d] += weight * values[static_cast<size_t>(token) * dim + d];
    }
  }
  return out;
}

/// Half the distance between neighbours of e4m3 at x.
inline double halfStep(double x) {
  const int exponent = std::max(-6, x == 0 ? -6 : static_cast<int>(std::floor(std::log2(std::fabs(x)))));
  return std::ldexp(1.0, exponent - 4);
}

struct Errors {
  double difference = 0;  // of squares
  double excess = 0;      // what is left of differences beyond the rounding of the output itself
  double norm = 0;
  bool isFinite = true;
  void add(double out, double expected, double outScale) {
    const double difference = std::fabs(out - expected);
    const double rounding =
        outScale > 0 ? outScale * std::max(halfStep(out / outScale), halfStep(expected / outScale)) : 0;
    const double beyond = std::max(0.0, difference - rounding);
    this->difference += difference * difference;
    excess += beyond * beyond;
    norm += expected * expected;
    isFinite = isFinite && std::isfinite(out);
  }
  static double relative(double squares, double norm) {
    return norm > 0 ? std::sqrt(squares / norm) : (squares == 0 ? 0 : INFINITY);
  }
  double total() const { return relative(difference, norm); }
  double beyondRounding() const { return relative(excess, norm); }
};
