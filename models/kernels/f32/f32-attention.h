// Attention in f32 with the sums of a row in one order only, so that a token's result has the same bits whatever else is in the batch.
// It is there to be right, on the bundled model and against the CPU; mfa-decode.cu is the fast one. Launchers as in kernels.h.
#pragma once

#include "kernels.h"

namespace rally {

/// Pages of one layer: [pages, 2, 64, headDim], keys and then values.
struct F32Pool {
  float* pages;
  int headDim;  // even, at most 256
};

/// Rotates each token at position lengths[t] - 1, appends its key and value, and leaves the rotated queries. A token of length 0 is
/// padding: nothing is appended, its queries are zeros. Of several tokens of one sequence each has a row, with the same pages.
/// query, rotated [T, numHeads * headDim]; keyValue [T, keyValueStride]: the key, then the value.
cudaError_t ropeAppendF32(const float* query, const float* keyValue, int keyValueStride, const float2* cosSin, F32Pool pool,
                          Sequences sequences, float* rotated, int numHeads, cudaStream_t stream);

/// softmax(q kᵀ / sqrt(headDim)) v over the first lengths[t] tokens of the row's pages; zeros for length 0. out [T, numHeads * headDim].
cudaError_t mfaDecodeF32(const float* rotated, F32Pool pool, Sequences sequences, float* out, int numHeads, cudaStream_t stream);

}  // namespace rally
