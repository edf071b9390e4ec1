// How much memory the operators' inputs take, for whoever allocates it.

#include "../kernels.h"

namespace rally {

namespace {

KvType kvTypeOf(int64_t bits) {
  return bits == 8 ? KvType::kE4m3 : KvType::kBf16;
}

/// -1 if there are not as many sizes as there should be.
template <size_t kCount, typename F>
int64_t measured(const int64_t* sizes, size_t count, F&& measure) {
  if (count != kCount) return -1;
  int as[kCount];
  for (size_t i = 0; i < kCount; i++) as[i] = static_cast<int>(sizes[i]);
  return static_cast<int64_t>(measure(as));
}

}  // namespace

}  // namespace rally

#define RALLY_MEASURE extern "C" __attribute__((visibility("default"))) int64_t

/// (numTokens, n, k)
RALLY_MEASURE rallyGemmWorkspaceBytes(const int64_t* sizes, size_t count) {
  return rally::measured<3>(sizes, count, [](const int* s) { return rally::gemmWorkspaceBytes(s[0], s[1], s[2]); });
}

/// (bits of a value: 8 or 16; headDim)
RALLY_MEASURE rallyKvPageBytes(const int64_t* sizes, size_t count) {
  return rally::measured<2>(sizes, count, [](const int* s) { return rally::kvPageBytes(rally::kvTypeOf(s[0]), s[1]); });
}

/// (numSequences, maxPages, numHeads, headDim)
RALLY_MEASURE rallyMfaWorkspaceBytes(const int64_t* sizes, size_t count) {
  return rally::measured<4>(sizes, count,
                            [](const int* s) { return rally::mfaWorkspaceBytes(s[0], s[1], s[2], s[3]); });
}

/// (numTokens, topK, numLocal, hidden, inter)
RALLY_MEASURE rallyExpertWorkspaceBytes(const int64_t* sizes, size_t count) {
  return rally::measured<5>(
      sizes, count, [](const int* s) { return rally::expertWorkspaceBytes(s[0], s[1], s[2], s[3], s[4]); });
}

/// (numTokens, vocab, numCandidates)
RALLY_MEASURE rallyCandidatesWorkspaceBytes(const int64_t* sizes, size_t count) {
  return rally::measured<3>(sizes, count,
                            [](const int* s) { return rally::candidatesWorkspaceBytes(s[0], s[1], s[2]); });
}
