#include "host.h"

namespace rally {

namespace {

/// A page of this twin: keys, then values, [64, headDim] bf16 each; for e4m3 the values are rounded as e4m3 would round them.
Bf16* pageOf(KvPool pool, Sequences sequences, int sequence, int position) {
  const int32_t page = sequences.pageTable[sequence * sequences.maxPages + position / kPageTokens];
  return reinterpret_cast<Bf16*>(static_cast<char*>(pool.pages) + page * kvPageBytes(pool.type, pool.headDim));
}

void store(KvPool pool, const float* values, Bf16* to) {
  float most = 0;
  for (int i = 0; i < pool.headDim; i++) most = std::max(most, std::fabs(values[i]));
  const float scale = most > 0 ? most / 448 : 1;
  for (int i = 0; i < pool.headDim; i++) {
    to[i] = __float2bfloat16(pool.type == KvType::kE4m3 ? toFloat(E4m3(values[i] / scale)) * scale : values[i]);
  }
}

std::vector<float> rotate(const Bf16* from, const float2* cosSin, int headDim) {
  std::vector<float> to(headDim);
  const int half = headDim / 2;
  for (int i = 0; i < half; i++) {
    const auto [cosine, sine] = cosSin[i];
    const float a = toFloat(from[i]), b = toFloat(from[i + half]);
    to[i] = a * cosine - b * sine;
    to[i + half] = b * cosine + a * sine;
  }
  return to;
}

}  // namespace

size_t kvPageBytes(KvType type, int headDim) {
  return static_cast<size_t>(2) * kPageTokens * headDim * 2 + (type == KvType::kE4m3 ? 512 : 0);
}

size_t rotatedBytes(KvType type, int numTokens, int numHeads, int headDim) {
  return static_cast<size_t>(numTokens) * numHeads * (type == KvType::kE4m3 ? headDim + 4 : 2 * headDim);
}

cudaError_t ropeAppend(const Bf16* query, const Bf16* key, const Bf16* value, int keyValueStride, const float2* cosSin,
                       KvPool pool, Sequences sequences, void* rotated, int numHeads, cudaStream_t) {
  const int headDim = pool.headDim;
  for (int s = 0; s < sequences.numSequences; s++) {
    const int position = sequences.lengths[s] - 1;
    if (position < 0) continue;
    const float2* angles = cosSin + static_cast<size_t>(position) * headDim / 2;
    Bf16* page = pageOf(pool, sequences, s, position);
    const int row = position % kPageTokens;
    store(pool, rotate(key + static_cast<size_t>(s) * keyValueStride, angles, headDim).data(), page + row * headDim);
    std::vector<float> values(headDim);
    for (int i = 0; i < headDim; i++) values[i] = toFloat(value[static_cast<size_t>(s) * keyValueStride + i]);
    store(pool, values.data(), page + (kPageTokens + row) * headDim);
    const size_t rowBytes = rotatedBytes(pool.type, 1, numHeads, headDim);
    char* out = static_cast<char*>(rotated) + s * rowBytes;
    std::memset(out, 0, rowBytes);
    for (int head = 0; head < numHeads; head++) {
      const auto turned = rotate(query + (static_cast<size_t>(s) * numHeads + head) * headDim, angles, headDim);
      for (int i = 0; i < headDim; i++) {
        const size_t at = static_cast<size_t>(head) * headDim + i;
        if (pool.type == KvType::kE4m3) reinterpret_cast<E4m3*>(out)[at] = E4m3(turned[i] * 16);
        else reinterpret_cast<Bf16*>(out)[at] = __float2bfloat16(turned[i]);
      }
    }
  }
  return cudaSuccess;
}

size_t mfaWorkspaceBytes(int numSequences, int maxPages, int numHeads, int) {
  return static_cast<size_t>(numSequences) * maxPages * numHeads * 8;
}

cudaError_t mfaDecode(const void* rotated, KvPool pool, Sequences sequences, Activations out, int numHeads, void*,
                      cudaStream_t) {
  const int headDim = pool.headDim;
  std::vector<float> result(static_cast<size_t>(sequences.numSequences) * numHeads * headDim);
  for (int s = 0; s < sequences.numSequences; s++) {
    const size_t rowBytes = rotatedBytes(pool.type, 1, numHeads, headDim);
    const char* queries = static_cast<const char*>(rotated) + s * rowBytes;
    const int length = sequences.lengths[s];
    for (int head = 0; head < numHeads; head++) {
      std::vector<double> weights(length);
      double most = -1e30, sum = 0;
      for (int p = 0; p < length; p++) {
        const Bf16* key = pageOf(pool, sequences, s, p) + p % kPageTokens * headDim;
        for (int i = 0; i < headDim; i++) {
          const size_t at = static_cast<size_t>(head) * headDim + i;
          const float q = pool.type == KvType::kE4m3 ? toFloat(reinterpret_cast<const E4m3*>(queries)[at]) / 16
                                                     : toFloat(reinterpret_cast<const Bf16*>(queries)[at]);
          weights[p] += static_cast<double>(q) * toFloat(key[i]) / std::sqrt(headDim);
        }
        most = std::max(most, weights[p]);
      }
      for (double& weight : weights) sum += weight = std::exp(weight - most);
      float* to = result.data() + (static_cast<size_t>(s) * numHeads + head) * headDim;
      for (int p = 0; p < length; p++) {
        const Bf16* value = pageOf(pool, sequences, s, p) + (kPageTokens + p % kPageTokens) * headDim;
        for (int i = 0; i < headDim; i++) to[i] += static_cast<float>(weights[p] / sum * toFloat(value[i]));
      }
    }
  }
  quantise(result, out, sequences.numSequences, numHeads * headDim);
  return cudaSuccess;
}

}  // namespace rally
