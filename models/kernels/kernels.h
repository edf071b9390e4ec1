// What the CUDA kernels of Rally's `rally` operators are called with. Every launcher only enqueues on `stream`: it allocates
// nothing, waits for nothing and may be captured in a CUDA graph. Pointers are device memory, 16-byte aligned. Shapes in comments
// are row-major; T is the number of tokens (rows) of a batch. The result is cudaErrorInvalidValue for a shape that the kernel
// does not do, otherwise what the launch returned.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace rally {

using Bf16 = __nv_bfloat16;
/// FP8 e4m3: largest finite value 448.
using E4m3 = __nv_fp8_e4m3;

/// Activations are quantised in groups of this many consecutive values of a token, weights in squares of this size.
constexpr int kGroup = 128;

/// Quantised activations: value[t, k] = data[t, k] * scales[k / 128, t]. scales is group-major, so that the scales of one step
/// of a matrix product lie side by side; kernels read whole 16 bytes, so memory up to the next multiple must exist.
struct Activations {
  E4m3* data;     // [T, K]
  float* scales;  // [K / 128, T]
};

/// A weight matrix W [N, K] for x Wᵀ, cut into tiles of 128 x 128 bytes, tile (n / 128, k / 128) contiguous and stored as shared
/// memory wants it (128-byte swizzle: 16-byte chunk c of row r lies at chunk c ^ (r % 8)), so that one bulk copy brings a tile.
/// N and K are multiples of 128.
struct Weights {
  const E4m3* tiles;    // [N / 128, K / 128, 128, 128]
  const float* scales;  // [N / 128, K / 128]; expertFfn reads whole 16 bytes, so memory up to the next multiple must exist
};

/// Brings a row-major matrix into the order of Weights::tiles.
cudaError_t packWeights(const E4m3* rowMajor, E4m3* tiles, int n, int k, cudaStream_t stream);

// ---- norms, quantisation, GEMM (attention stage) -------------------------------------------------------------------------

/// sum [T, width] = residual [T, width] + `numPartials` partials [numPartials, T, width] (0: none), which may take residual's place;
/// normed [T, width] = RMSNorm(sum) * weight in bf16; out = quantise(RMSNorm(sum) * weight). The norm is computed in f32 over the
/// sum as stored. Null: normed, or out.data, is not wanted.
cudaError_t addRmsNormQuantise(const Bf16* residual, const Bf16* partials, int numPartials, Bf16* sum, const Bf16* weight,
                               float epsilon, Activations out, Bf16* normed, int numTokens, int width, cudaStream_t stream);

/// out = quantise(RMSNorm(x) * weight); x is a column range of a wider matrix with `stride` values per token.
cudaError_t rmsNormQuantise(const Bf16* x, int stride, const Bf16* weight, float epsilon, Activations out, int numTokens,
                            int width, cudaStream_t stream);

/// y [T, n] = x Wᵀ (+ addend [T, n] unless null, which may be y itself), accumulated in f32. T from 1 to 256. A token's result has
/// the same bits whatever the other tokens and their number. workspace: gemmWorkspaceBytes(...), zeroed once by its owner and left
/// zeroed by every call.
cudaError_t fp8Gemm(Activations x, Weights weights, const Bf16* addend, Bf16* y, int numTokens, int n, int k, void* workspace,
                    cudaStream_t stream);
size_t gemmWorkspaceBytes(int numTokens, int n, int k);

// ---- attention -----------------------------------------------------------------------------------------------------------

/// Tokens of one KV page.
constexpr int kPageTokens = 64;

enum class KvType { kE4m3, kBf16 };

/// A pool of pages of one layer. The layout within a page is the attention kernel's own (see mfa-page.h); only
/// ropeAppend writes it and only mfaDecode reads it.
struct KvPool {
  void* pages;
  KvType type;
  int headDim;
};
size_t kvPageBytes(KvType type, int headDim);
/// Size of ropeAppend's `rotated`.
size_t rotatedBytes(KvType type, int numTokens, int numHeads, int headDim);

/// Which pages a sequence has: token p lies in page pageTable[sequence * maxPages + p / 64].
struct Sequences {
  const int32_t* pageTable;  // [numSequences, maxPages]
  const int32_t* lengths;    // [numSequences] tokens in the cache, the new one counted
  int numSequences;
  int maxPages;
};

/// Rotates (RoPE, rotate-half, all of headDim) the new token of every sequence at position lengths[s] - 1, appends its key and
/// value to the pool, and leaves the rotated queries ready for mfaDecode in `rotated` (their layout is the attention kernel's own).
/// The first token of a page clears the page. A sequence of length 0 is left alone. kE4m3 and kBf16; 64 heads of 256.
/// query [T, numHeads * headDim]; keyValue: key and value side by side in a matrix with `stride` values per token (a multiple of
/// 4). cosSin [numPositions, headDim / 2].
cudaError_t ropeAppend(const Bf16* query, const Bf16* key, const Bf16* value, int keyValueStride, const float2* cosSin,
                       KvPool pool, Sequences sequences, void* rotated, int numHeads, cudaStream_t stream);

/// One new token per sequence against its cache: softmax(q kᵀ / sqrt(headDim)) v for numHeads heads that share keys and values.
/// A sequence of length 0 gets zeros. kE4m3 and kBf16; 64 heads of 256; up to 384 sequences.
/// It comes after ropeAppend for the same sequences: their lengths are read while the kernel before still ends.
/// out: quantised [T, numHeads * headDim] for oProj. workspace: mfaWorkspaceBytes(...), zeroed once by its
/// owner and then used by mfaDecode alone, by one call at a time.
cudaError_t mfaDecode(const void* rotated, KvPool pool, Sequences sequences, Activations out, int numHeads, void* workspace,
                      cudaStream_t stream);
size_t mfaWorkspaceBytes(int numSequences, int maxPages, int numHeads, int headDim);

// ---- router and experts --------------------------------------------------------------------------------------------------

/// softmax over all experts in f32, then the topK largest (ties: the lower id), not renormalised (Step-3 `norm_expert_weight`
/// false). logits = x routerᵀ in f32.
cudaError_t routeTopK(const Bf16* x, const float* router, int32_t* expertIds, float* expertWeights, int numTokens, int hidden,
                      int numExperts, int topK, cudaStream_t stream);

/// SwiGLU experts of one shard over a batch: y[t] = sum over this shard's chosen experts e of weight * down_e(silu(gate_e x) *
/// up_e x), in f32, written as bf16. An expert id that is not in [0, numLocal) after `localOf` (-1: elsewhere) is skipped; a
/// token without any local expert gets zeros. The shared expert is a local expert that every token has with weight 1.
/// workspace: expertWorkspaceBytes(...) of the largest call, zeroed once by its owner and then used by expertFfn alone, by one call
/// at a time, whatever its shape.
struct ExpertWeights {
  Weights gateUp;  // per expert [2 * inter, hidden]; rows of gate and up interleaved in blocks of 64 (64 gate, 64 up, ...)
  Weights down;    // per expert [hidden, inter]
};
cudaError_t expertFfn(Activations x, const int32_t* expertIds, const float* expertWeights, const int32_t* localOf,
                      ExpertWeights weights, int numLocal, int sharedLocal, Bf16* y, int numTokens, int topK, int hidden,
                      int inter, void* workspace, cudaStream_t stream);
size_t expertWorkspaceBytes(int numTokens, int topK, int numLocal, int hidden, int inter);

// ---- embedding and head --------------------------------------------------------------------------------------------------

/// out [T, hidden] = table[ids]. An id outside the vocabulary gives zeros.
cudaError_t embed(const int32_t* ids, const Bf16* table, Bf16* out, int numTokens, int vocab, int hidden, cudaStream_t stream);

/// The numCandidates (1 to 64) largest logits of each row (descending; ties: the lower id) as ids and values [T, numCandidates],
/// and logSum [T] = log(sum(exp(logits))), so that a sampler needs nothing else from the device. logits [T, stride], of which the
/// first `vocab` columns count. Where fewer are numbers, the rest are id -1. workspace: candidatesWorkspaceBytes(...), of any content.
cudaError_t topCandidates(const Bf16* logits, int stride, int32_t* ids, float* values, float* logSum, int numTokens, int vocab,
                          int numCandidates, void* workspace, cudaStream_t stream);
size_t candidatesWorkspaceBytes(int numTokens, int vocab, int numCandidates);

}  // namespace rally
