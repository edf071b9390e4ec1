// How a GEMM of few tokens is spread over the device; apart from kernels.h so that benchmarks can try other plans.
#pragma once

#include "kernels.h"

namespace rally {

/// A block multiplies 128 rows of weights (a row tile) with all tokens, over a part of K. A cluster holds `rowTiles` neighbouring
/// row tiles, which share what is read of the activations, times `splits` parts of K, whose sums meet in shared memory.
struct GemmPlan {
  int rowTiles;  // 1 or 2
  int splits;    // 1, 2 or 4
};

/// Depends on the weights alone, not on the number of tokens: the order of summation is part of a token's result.
GemmPlan planGemm(int n, int k);

cudaError_t runGemm(GemmPlan plan, Activations x, Weights weights, const Bf16* addend, Bf16* y, int numTokens, int n, int k,
                    cudaStream_t stream);

}  // namespace rally
