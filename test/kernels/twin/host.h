// The kernels' slow twins on the CPU: what the operators' own code is tested with where there is no GPU.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels.h"

namespace rally {

inline float toFloat(Bf16 value) { return __bfloat162float(value); }
inline float toFloat(E4m3 value) { return static_cast<float>(value); }

/// values [numTokens, width] into groups of 128 that share a scale.
inline void quantise(const std::vector<float>& values, Activations out, int numTokens, int width) {
  for (int t = 0; t < numTokens; t++) {
    for (int from = 0; from < width; from += kGroup) {
      const float* group = values.data() + static_cast<size_t>(t) * width + from;
      float most = 0;
      for (int i = 0; i < kGroup; i++) most = std::max(most, std::fabs(group[i]));
      const float scale = most > 0 ? most / 448 : 1;
      out.scales[from / kGroup * numTokens + t] = scale;
      for (int i = 0; i < kGroup; i++) out.data[static_cast<size_t>(t) * width + from + i] = E4m3(group[i] / scale);
    }
  }
}

/// [numTokens, width]
inline std::vector<float> dequantise(Activations x, int numTokens, int width) {
  std::vector<float> values(static_cast<size_t>(numTokens) * width);
  for (int t = 0; t < numTokens; t++) {
    for (int i = 0; i < width; i++) {
      const size_t at = static_cast<size_t>(t) * width + i;
      values[at] = toFloat(x.data[at]) * x.scales[i / kGroup * numTokens + t];
    }
  }
  return values;
}

/// Of weights [n, k]: where value (row, column) lies in the tiles.
inline size_t tileOffset(int row, int column, int k) {
  const size_t tile = static_cast<size_t>(row / 128) * (k / 128) + column / 128;
  const int r = row % 128, c = column % 128;
  return tile * 16384 + r * 128 + ((c / 16) ^ (r % 8)) * 16 + c % 16;
}

/// x [numTokens, k] times weights [n, k] transposed, from the first tile of `weights` on.
inline std::vector<float> multiply(const std::vector<float>& x, Weights weights, int numTokens, int n, int k) {
  std::vector<float> y(static_cast<size_t>(numTokens) * n);
  for (int row = 0; row < n; row++) {
    for (int t = 0; t < numTokens; t++) {
      double sum = 0;
      for (int i = 0; i < k; i++) {
        const float scale = weights.scales[row / 128 * (k / 128) + i / 128];
        sum += static_cast<double>(x[static_cast<size_t>(t) * k + i]) * toFloat(weights.tiles[tileOffset(row, i, k)]) * scale;
      }
      y[static_cast<size_t>(t) * n + row] = static_cast<float>(sum);
    }
  }
  return y;
}

}  // namespace rally
