#include "f32/f32-attention.h"

#include "host.h"

namespace rally {

namespace {

float* keysOf(F32Pool pool, Sequences sequences, int token, int position) {
  const int64_t page = sequences.pageTable[token * sequences.maxPages + position / kPageTokens];
  return pool.pages + (page * 2 * kPageTokens + position % kPageTokens) * pool.headDim;
}

void rotate(const float* from, const float2* cosSin, int headDim, float* to) {
  const int half = headDim / 2;
  for (int i = 0; i < half; i++) {
    const double cosine = cosSin[i].x, sine = cosSin[i].y;
    to[i] = static_cast<float>(from[i] * cosine - from[half + i] * sine);
    to[half + i] = static_cast<float>(from[half + i] * cosine + from[i] * sine);
  }
}

}  // namespace

cudaError_t ropeAppendF32(const float* query, const float* keyValue, int keyValueStride, const float2* cosSin, F32Pool pool,
                          Sequences sequences, float* rotated, int numHeads, cudaStream_t) {
  const int headDim = pool.headDim;
  for (int t = 0; t < sequences.numSequences; t++) {
    const int position = sequences.lengths[t] - 1;
    float* to = rotated + static_cast<size_t>(t) * numHeads * headDim;
    if (position < 0) {
      std::fill_n(to, numHeads * headDim, 0.0f);
      continue;
    }
    const float2* angles = cosSin + static_cast<size_t>(position) * headDim / 2;
    for (int head = 0; head < numHeads; head++) {
      rotate(query + (static_cast<size_t>(t) * numHeads + head) * headDim, angles, headDim, to + head * headDim);
    }
    const float* from = keyValue + static_cast<size_t>(t) * keyValueStride;
    float* key = keysOf(pool, sequences, t, position);
    rotate(from, angles, headDim, key);
    std::copy_n(from + headDim, headDim, key + kPageTokens * headDim);
  }
  return cudaSuccess;
}

cudaError_t mfaDecodeF32(const float* rotated, F32Pool pool, Sequences sequences, float* out, int numHeads, cudaStream_t) {
  const int headDim = pool.headDim;
  for (int t = 0; t < sequences.numSequences; t++) {
    for (int head = 0; head < numHeads; head++) {
      const size_t at = (static_cast<size_t>(t) * numHeads + head) * headDim;
      const int length = std::max(0, sequences.lengths[t]);
      std::vector<double> shares(length), result(headDim);
      double most = -INFINITY, sum = 0;
      for (int p = 0; p < length; p++) {
        const float* key = keysOf(pool, sequences, t, p);
        for (int i = 0; i < headDim; i++) shares[p] += static_cast<double>(rotated[at + i]) * key[i];
        shares[p] /= std::sqrt(headDim);
        most = std::max(most, shares[p]);
      }
      for (double& share : shares) sum += share = std::exp(share - most);
      for (int p = 0; p < length; p++) {
        const float* value = keysOf(pool, sequences, t, p) + kPageTokens * headDim;
        for (int i = 0; i < headDim; i++) result[i] += shares[p] / sum * value[i];
      }
      for (int i = 0; i < headDim; i++) out[at + i] = static_cast<float>(result[i]);
    }
  }
  return cudaSuccess;
}

}  // namespace rally
