// Checks ropeAppend and mfaDecode against float64: every key and value comes into the pool through ropeAppend, page tables and
// the order of sequences are random, pools and outputs start as NaN. Arguments: seed, and `small` for few tokens.
#include <algorithm>
#include <cstring>
#include <numeric>
#include <string>

#include "../../models/kernels/kernels.h"
#include "mfa-reference.h"
#include "mfa-stored.h"
#include "mfa-support.h"

using namespace rally;

constexpr int kStride = 2 * kDim + 64;  // keys and values lie in a wider matrix

struct Case {
  std::string name;
  std::vector<int> lengths;
  int numChecked;  // sequences compared with the reference
};

template <KvType type>
static bool check(const Case& test, uint64_t seed) {
  using Layout = mfa::Layout<type>;
  Random random(seed);
  std::vector<int32_t> lengths(test.lengths.begin(), test.lengths.end());
  random.shuffle(lengths);
  const int numSequences = static_cast<int>(lengths.size());
  const int longest = *std::max_element(lengths.begin(), lengths.end());
  const int maxPages = longest / kPageTokens + 2;

  // pages in random order; entries beyond a sequence's length are out of the pool and must not be followed
  size_t numPages = 3;
  for (int length : lengths) numPages += (length + kPageTokens - 1) / kPageTokens;
  std::vector<int32_t> free(numPages);
  std::iota(free.begin(), free.end(), 0);
  random.shuffle(free);
  std::vector<int32_t> table(static_cast<size_t>(numSequences) * maxPages, 0x3fffffff);
  for (int s = 0; s < numSequences; ++s) {
    for (int page = 0; page * kPageTokens < lengths[s]; ++page) {
      table[static_cast<size_t>(s) * maxPages + page] = free.back();
      free.pop_back();
    }
  }

  // all tokens but each sequence's last are appended from rows in the order of steps, longest sequences first
  std::vector<int> order(numSequences);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return lengths[a] > lengths[b]; });
  std::vector<size_t> stepStart = {0};
  std::vector<int> numActive;
  for (int step = 0; step + 1 < longest; ++step) {
    int active = 0;
    while (active < numSequences && lengths[order[active]] > step + 1) ++active;
    numActive.push_back(active);
    stepStart.push_back(stepStart.back() + active);
  }
  std::vector<Bf16> keyValues((stepStart.back() + numSequences) * kStride);
  const size_t lastRows = stepStart.back();
  auto rowOf = [&](int rank, int position) {
    return position + 1 == lengths[order[rank]] ? lastRows + order[rank] : stepStart[position] + rank;
  };
  const uint64_t tokenSeed = random.bits();
  parallel(numSequences, [&](int rank) {
    for (int position = 0; position < lengths[order[rank]]; ++position) {
      Random numbers(tokenSeed + static_cast<uint64_t>(order[rank]) * 1000003 + position);
      Bf16* row = &keyValues[rowOf(rank, position) * kStride];
      const float keySize = 0.5f + numbers.below(1000) * 1e-3f;
      // values of all sizes, some tokens next to nothing, some nothing at all
      const int kind = position < 16 ? 2 : numbers.below(16);
      const float smallness = kind == 0 ? 0 : kind == 1 ? 0x1p-100f : 1;
      const float valueSize = smallness * std::exp2(static_cast<float>(numbers.below(7) - 3)) * (1 + numbers.below(100) * 0.01f);
      for (int d = 0; d < kDim; ++d) row[d] = __float2bfloat16(numbers.normal() * keySize * (kind == 0 ? 0 : 1));
      for (int d = 0; d < kDim; ++d) row[kDim + d] = __float2bfloat16((numbers.normal() + 0.25f * (d % 3)) * valueSize);
    }
  });
  std::vector<Bf16> queries(static_cast<size_t>(numSequences) * kHeads * kDim);
  for (size_t i = 0; i < queries.size(); ++i) {
    queries[i] = __float2bfloat16(random.normal() * (0.25f + 0.02f * (i / kDim % kHeads)));
  }

  const std::vector<float2> cosSin = makeCosSin(longest + 1);
  DeviceArray<Bf16> deviceKeyValues(keyValues), deviceQueries(queries);
  DeviceArray<float2> deviceCosSin(cosSin);
  DeviceArray<uint8_t> pages(numPages * kvPageBytes(type, kDim));
  DeviceArray<uint8_t> rotated(rotatedBytes(type, numSequences, kHeads, kDim));
  DeviceArray<uint8_t> workspace(mfaWorkspaceBytes(numSequences, maxPages, kHeads, kDim));
  workspace.poison(0);
  DeviceArray<E4m3> out(queries.size());
  DeviceArray<float> outScales(static_cast<size_t>(numSequences) * kHeads * kDim / kGroup);
  DeviceArray<int32_t> deviceTable(table), deviceLengths(lengths);
  std::vector<int32_t> sortedTable, steps;
  for (int s : order) {
    const auto row = table.begin() + static_cast<size_t>(s) * maxPages;
    sortedTable.insert(sortedTable.end(), row, row + maxPages);
  }
  DeviceArray<int32_t> deviceSortedTable(sortedTable);
  for (int step = 0; step < longest; ++step) steps.insert(steps.end(), numSequences, step + 1);
  DeviceArray<int32_t> deviceSteps(steps);

  const KvPool pool = {pages.get(), type, kDim};
  for (int step = 0; step + 1 < longest; ++step) {
    const int32_t* stepLengths = deviceSteps.get() + static_cast<size_t>(step) * numSequences;
    const Sequences growing = {deviceSortedTable.get(), stepLengths, numActive[step], maxPages};
    const Bf16* rows = deviceKeyValues.get() + stepStart[step] * kStride;
    if (numActive[step] > 0) {
      CHECK(ropeAppend(deviceQueries.get(), rows, rows + kDim, kStride, deviceCosSin.get(), pool, growing, rotated.get(), kHeads,
                       nullptr));
    }
  }
  rotated.poison();
  const Sequences sequences = {deviceTable.get(), deviceLengths.get(), numSequences, maxPages};
  const Bf16* rows = deviceKeyValues.get() + lastRows * kStride;
  CHECK(ropeAppend(deviceQueries.get(), rows, rows + kDim, kStride, deviceCosSin.get(), pool, sequences, rotated.get(), kHeads,
                   nullptr));
  const Activations activations = {out.get(), outScales.get()};
  CHECK(cudaDeviceSynchronize());
  CHECK(mfaDecode(rotated.get(), pool, sequences, activations, kHeads, workspace.get(), 0));
  CHECK(cudaDeviceSynchronize());
  const std::vector<E4m3> result = out.download();
  const std::vector<float> scales = outScales.download();

  // a graph captured for other lengths, replayed for these, must bring the same bits
  std::vector<int32_t> others(numSequences, 1);
  deviceLengths.upload(others);
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t replay;
  CHECK(cudaStreamCreate(&stream));
  CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  CHECK(mfaDecode(rotated.get(), pool, sequences, activations, kHeads, workspace.get(), stream));
  CHECK(cudaStreamEndCapture(stream, &graph));
  CHECK(cudaGraphInstantiate(&replay, graph, 0));
  deviceLengths.upload(lengths);
  bool isRepeatable = true;
  for (int repeat = 0; repeat < 3; ++repeat) {
    out.poison();
    outScales.poison();
    CHECK(cudaGraphLaunch(replay, stream));
    CHECK(cudaStreamSynchronize(stream));
    const std::vector<E4m3> again = out.download();
    const std::vector<float> scalesAgain = outScales.download();
    isRepeatable = isRepeatable && std::memcmp(again.data(), result.data(), again.size()) == 0 &&
                   std::memcmp(scalesAgain.data(), scales.data(), scales.size() * sizeof(float)) == 0;
  }
  CHECK(cudaGraphExecDestroy(replay));
  CHECK(cudaGraphDestroy(graph));
  CHECK(cudaStreamDestroy(stream));

  const std::vector<uint8_t> stored = pages.download(), storedQueries = rotated.download();
  const int numChecked = std::min(numSequences, test.numChecked);
  std::vector<Errors> same(numChecked), whole(numChecked), inputs(numChecked);
  parallel(numChecked, [&](int rank) {
    const int s = order[rank * (numSequences - 1) / std::max(1, numChecked - 1)];
    const int sorted = static_cast<int>(std::find(order.begin(), order.end(), s) - order.begin());
    const int length = lengths[s];
    std::vector<float> keys(static_cast<size_t>(length) * kDim), values(keys), exactKeys(keys), exactValues(keys);
    for (int position = 0; position < length; ++position) {
      const size_t at = static_cast<size_t>(position) * kDim;
      const size_t pageId = table[static_cast<size_t>(s) * maxPages + position / kPageTokens];
      const uint8_t* page = &stored[pageId * Layout::kPageBytes];
      Stored<type>::token(page, position % kPageTokens, &keys[at], &values[at]);
      const Bf16* row = &keyValues[rowOf(sorted, position) * kStride];
      const std::vector<double> key = rotate(row, &cosSin[position * (kDim / 2)]);
      for (int d = 0; d < kDim; ++d) {
        exactKeys[at + d] = static_cast<float>(key[d]);
        exactValues[at + d] = __bfloat162float(row[kDim + d]);
      }
    }
    std::vector<double> exactQueries, storedQuery(kHeads * kDim);
    if (length > 0) {
      storedQuery = Stored<type>::queries(&storedQueries[static_cast<size_t>(s) * Layout::kQueryBytes]);
      for (int head = 0; head < kHeads; ++head) {
        const Bf16* query = &queries[(static_cast<size_t>(s) * kHeads + head) * kDim];
        const std::vector<double> row = rotate(query, &cosSin[(length - 1) * (kDim / 2)]);
        exactQueries.insert(exactQueries.end(), row.begin(), row.end());
      }
    } else {
      exactQueries = storedQuery;
    }
    const std::vector<double> expected = attention(storedQuery, keys, values, kHeads, kDim, length, 1);
    const std::vector<double> exact = attention(exactQueries, exactKeys, exactValues, kHeads, kDim, length, 1.0 / 16);
    for (int i = 0; i < kHeads * kDim; ++i) {
      const double scale = scales[i / kGroup * numSequences + s];
      const double got = static_cast<float>(result[static_cast<size_t>(s) * kHeads * kDim + i]) * scale;
      same[rank].add(got, expected[i], scale);
      whole[rank].add(got, exact[i], scale);
      inputs[rank].add(expected[i], exact[i], 0);
    }
  });
  double worst = 0, worstExcess = 0, worstWhole = 0, worstInputs = 0;
  bool isFinite = true;
  for (int i = 0; i < numChecked; ++i) {
    worst = std::max(worst, same[i].total());
    worstExcess = std::max(worstExcess, same[i].beyondRounding());
    worstWhole = std::max(worstWhole, whole[i].total());
    worstInputs = std::max(worstInputs, inputs[i].total());
    isFinite = isFinite && same[i].isFinite;
  }
  // e4m3 rounds by 2.6 % (rms): the output always, with e4m3 pages the probabilities too
  const bool isFp8 = type == KvType::kE4m3;
  const bool isRight = isFinite && isRepeatable && worst < (isFp8 ? 4.5e-2 : 3.2e-2) && worstExcess < (isFp8 ? 3e-2 : 4e-3) &&
                       worstWhole < 1.15 * std::hypot(worst, worstInputs) && worstInputs < (isFp8 ? 0.1 : 1e-2);
  std::printf("%-5s %-34s %9.2e %9.2e %9.2e %9.2e %s %s\n", isFp8 ? "e4m3" : "bf16", test.name.c_str(), worst, worstExcess,
              worstInputs, worstWhole, isRepeatable ? "same" : "DIFFERS", isRight ? "ok" : "FAILED");
  std::fflush(stdout);
  return isRight;
}

int main(int numArguments, char** arguments) {
  const uint64_t seed = numArguments > 1 ? std::strtoull(arguments[1], nullptr, 10) : 1;
  const bool isSmall = numArguments > 2 && std::strcmp(arguments[2], "small") == 0;
  Random random(seed);
  std::vector<Case> cases = {
      {"one token", {1}, 1},
      {"borders of pages", {1, 63, 64, 65, 127, 128, 129, 0, 5}, 9},
      {"1000, 0, 1, 200", {1000, 0, 1, 200}, 4},
  };
  if (!isSmall) {
    cases.push_back({"all empty but one", {0, 0, 0, 77, 0}, 5});
    cases.push_back({"4095, 4096, 4097, 0, 1", {4095, 4096, 4097, 0, 1}, 5});
    cases.push_back({"one of 32768", {32768}, 1});
    Case uneven = {"32768 among 40 short", {32768}, 12};
    for (int i = 0; i < 40; ++i) uneven.lengths.push_back(random.below(200));
    cases.push_back(uneven);
    Case ragged = {"128 of 0 to 900", {}, 16};
    for (int i = 0; i < 128; ++i) ragged.lengths.push_back(random.below(901));
    cases.push_back(ragged);
    cases.push_back({"128 of 1024 (none split)", std::vector<int>(128, 1024), 8});
    cases.push_back({"64 of 1000 (halves)", std::vector<int>(64, 1000), 8});
    Case many = {"384 of 1 to 130", {}, 24};
    for (int i = 0; i < 384; ++i) many.lengths.push_back(1 + random.below(130));
    cases.push_back(many);
  }
  std::printf("seed %llu; errors |out - ref| / |ref|: against the stored inputs, of that beyond the output's rounding, of the stored\n"
              "inputs against the exact ones, against the exact inputs\n",
              static_cast<unsigned long long>(seed));
  bool isRight = true;
  for (const Case& test : cases) {
    isRight = check<KvType::kE4m3>(test, random.bits()) && isRight;
    isRight = check<KvType::kBf16>(test, random.bits()) && isRight;
  }
  std::printf("%s\n", isRight ? "all right" : "FAILED");
  return isRight ? 0 : 1;
}
