// Where MFA's attention keeps keys, values and rotated queries: as shared memory and the matrix instructions want them, so that
// plain bulk copies bring them there. 64 query heads, one key and value head of 256; a page holds 64 tokens:
//   keys    64 rows (tokens) of 256 values, cut into blocks of 128 bytes per row; block b of all rows is contiguous and 128-byte
//           swizzled (16-byte chunk c of row r lies at chunk c ^ (r % 8))
//   scales  e4m3 only: 64 key scales (f32), then 64 value scales as f32 1.5 * 2^23 + log2(scale); value scales are powers of two
//   values  transposed: 256 rows (dimensions) of 64 tokens; e4m3: rows of 64 bytes, 64-byte swizzled (chunk c of row r at
//           c ^ (r / 2 % 4)), tokens in the order of `valueColumn`; bf16: rows of 128 bytes, 128-byte swizzled, tokens in order
// A rotated query is laid out as the keys are (row = head); e4m3: followed by 64 f32 scales that include log2(e) / sqrt(256).
#pragma once

#include "kernels.h"

namespace rally::mfa {

constexpr int kHeads = 64;
constexpr int kHeadDim = 256;
/// log2(e) / sqrt(kHeadDim): with it the softmax is one of powers of two.
constexpr float kLogitScale = 1.4426950408889634f / 16;
/// Added to the binary logarithm of a value scale: the sum's low bits are the logarithm as an integer.
constexpr float kLogOffset = 12582912.0f;
/// Values of a token whose largest is below 2^-40 * 448 lose precision.
constexpr int kMinValueExponent = -40;

template <KvType type>
struct Layout {
  static constexpr bool kIsFp8 = type == KvType::kE4m3;
  static constexpr int kValueSize = kIsFp8 ? 1 : 2;
  static constexpr int kKeyBytes = kPageTokens * kHeadDim * kValueSize;
  static constexpr int kScaleBytes = kIsFp8 ? 2 * kPageTokens * 4 : 0;
  static constexpr int kValueBytes = kKeyBytes;
  static constexpr int kValueStart = kKeyBytes + kScaleBytes;
  static constexpr int kPageBytes = kValueStart + kValueBytes;
  static constexpr int kQueryBytes = kHeads * kHeadDim * kValueSize + (kIsFp8 ? kHeads * 4 : 0);

  /// Bytes from the start of keys (row = token) or queries (row = head) to dimension `dim`.
  static __host__ __device__ int rowOffset(int row, int dim) {
    const int byte = dim * kValueSize;
    return byte / 128 * 8192 + row * 128 + ((byte % 128 / 16 ^ row % 8) << 4) + byte % 16;
  }
  /// The accumulators of q kᵀ of one thread, narrowed to e4m3 in their order, are an operand of the product with the values when
  /// the values' tokens lie in this order.
  static __host__ __device__ int valueColumn(int token) {
    return kIsFp8 ? token / 16 * 16 + token / 2 % 4 * 4 + token / 8 % 2 * 2 + token % 2 : token;
  }
  /// Bytes from the start of the values to dimension `dim` of a token.
  static __host__ __device__ int valueOffset(int dim, int token) {
    const int byte = valueColumn(token) * kValueSize;
    const int swizzle = kIsFp8 ? dim / 2 % 4 : dim % 8;
    return dim * kPageTokens * kValueSize + ((byte / 16 ^ swizzle) << 4) + byte % 16;
  }
};

}  // namespace rally::mfa
