// What ropeAppend has stored, as numbers, and RoPE in float64.
#pragma once

#include <cmath>
#include <vector>

#include "../../models/kernels/mfa-page.h"

namespace rally {

constexpr int kHeads = 64;
constexpr int kDim = 256;

inline std::vector<float2> makeCosSin(int numPositions) {
  std::vector<float2> turns(static_cast<size_t>(numPositions) * kDim / 2);
  for (int position = 0; position < numPositions; ++position) {
    for (int i = 0; i < kDim / 2; ++i) {
      const double angle = position * std::pow(10000.0, -2.0 * i / kDim);
      turns[position * (kDim / 2) + i] = {static_cast<float>(std::cos(angle)), static_cast<float>(std::sin(angle))};
    }
  }
  return turns;
}

inline std::vector<double> rotate(const Bf16* x, const float2* turns) {
  std::vector<double> out(kDim);
  for (int i = 0; i < kDim / 2; ++i) {
    const double low = __bfloat162float(x[i]);
    const double high = __bfloat162float(x[i + kDim / 2]);
    out[i] = low * turns[i].x - high * turns[i].y;
    out[i + kDim / 2] = high * turns[i].x + low * turns[i].y;
  }
  return out;
}

/// What the pool and the rotated queries hold, as numbers.
template <KvType type>
struct Stored {
  static double value(const uint8_t* at) {
    if constexpr (type == KvType::kE4m3) return static_cast<float>(*reinterpret_cast<const E4m3*>(at));
    return __bfloat162float(*reinterpret_cast<const Bf16*>(at));
  }
  using Layout = mfa::Layout<type>;
  static void token(const uint8_t* page, int token, float* key, float* value_) {
    float scales[2] = {1, 1};
    if (type == KvType::kE4m3) {
      const float* stored = reinterpret_cast<const float*>(page + Layout::kKeyBytes);
      scales[0] = stored[token];
      scales[1] = std::exp2(stored[kPageTokens + token] - mfa::kLogOffset);
    }
    for (int d = 0; d < kDim; ++d) {
      key[d] = static_cast<float>(value(page + Layout::rowOffset(token, d)) * scales[0]);
      value_[d] = static_cast<float>(value(page + Layout::kValueStart + Layout::valueOffset(d, token)) * scales[1]);
    }
  }
  /// Times 1 / sqrt(kDim).
  static std::vector<double> queries(const uint8_t* rows) {
    std::vector<double> out(kHeads * kDim);
    for (int head = 0; head < kHeads; ++head) {
      const double scale = type == KvType::kE4m3
                               ? reinterpret_cast<const float*>(rows + kHeads * kDim)[head] / 1.4426950408889634
                               : 1.0 / 16;
      for (int d = 0; d < kDim; ++d) out[head * kDim + d] = value(rows + Layout::rowOffset(head, d)) * scale;
    }
    return out;
  }
};

}  // namespace rally
