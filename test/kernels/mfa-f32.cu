// Checks ropeAppendF32 and mfaDecodeF32 against float64: chunks of prompts of several sequences in one batch, then single tokens,
// unused rows among them. Argument: seed.
#include <cstring>
#include <numeric>

#include "../../models/kernels/kernels.h"
#include "mfa-reference.h"
#include "mfa-support.h"

using namespace rally;

static std::vector<double> rotate(const float* x, int dim, const float2* turns) {
  std::vector<double> out(dim);
  for (int i = 0; i < dim / 2; ++i) {
    out[i] = static_cast<double>(x[i]) * turns[i].x - static_cast<double>(x[i + dim / 2]) * turns[i].y;
    out[i + dim / 2] = static_cast<double>(x[i + dim / 2]) * turns[i].x + static_cast<double>(x[i]) * turns[i].y;
  }
  return out;
}

static bool check(int numHeads, int dim, const std::vector<std::vector<int>>& chunks, uint64_t seed) {
  Random random(seed);
  const int numSequences = static_cast<int>(chunks.size());
  size_t numBatches = 0;
  std::vector<int> lengths;
  for (const std::vector<int>& sizes : chunks) {
    numBatches = std::max(numBatches, sizes.size());
    lengths.push_back(std::accumulate(sizes.begin(), sizes.end(), 0));
  }
  const int longest = *std::max_element(lengths.begin(), lengths.end());
  const int maxPages = longest / kPageTokens + 1;
  std::vector<int32_t> table(numSequences * maxPages);
  std::iota(table.begin(), table.end(), 0);
  random.shuffle(table);
  std::vector<float2> cosSin(static_cast<size_t>(longest) * dim / 2);
  for (float2& turn : cosSin) {
    const double angle = random.normal() * 3;
    turn = {static_cast<float>(std::cos(angle)), static_cast<float>(std::sin(angle))};
  }
  DeviceArray<int32_t> deviceTable(table);
  DeviceArray<float2> deviceCosSin(cosSin);
  DeviceArray<uint8_t> pages(table.size() * kvPageBytes(KvType::kF32, dim));
  const KvPool pool = {pages.get(), KvType::kF32, dim};
  const Sequences sequences = {deviceTable.get(), nullptr, numSequences, maxPages};

  std::vector<std::vector<float>> keys(numSequences), values(numSequences);
  std::vector<int> numDone(numSequences);
  Errors errors;
  bool isClear = true;
  for (size_t batch = 0; batch < numBatches; ++batch) {
    std::vector<int32_t> rowSequences, positions;
    for (int s = 0; s < numSequences; ++s) {
      const int size = batch < chunks[s].size() ? chunks[s][batch] : 0;
      for (int i = 0; i < size; ++i) {
        rowSequences.push_back(s);
        positions.push_back(numDone[s]++);
      }
      rowSequences.push_back(-1);
      positions.push_back(0);
    }
    const int numRows = static_cast<int>(rowSequences.size());
    const int stride = 2 * dim + 8;
    std::vector<float> query(static_cast<size_t>(numRows) * numHeads * dim), keyValue(static_cast<size_t>(numRows) * stride);
    for (float& x : query) x = random.normal() * 2;
    for (float& x : keyValue) x = random.normal() + 0.1f;
    DeviceArray<float> deviceQuery(query), deviceKeyValue(keyValue), rotated(query.size()), out(query.size());
    DeviceArray<int32_t> deviceRowSequences(rowSequences), devicePositions(positions);
    const Rows rows = {deviceRowSequences.get(), devicePositions.get(), numRows};
    CHECK(ropeAppendF32(deviceQuery.get(), deviceKeyValue.get(), deviceKeyValue.get() + dim, stride, deviceCosSin.get(), pool, sequences,
                        rows, rotated.get(), numHeads, 0));
    CHECK(mfaDecodeF32(rotated.get(), pool, sequences, rows, out.get(), numHeads, 0));
    CHECK(cudaDeviceSynchronize());
    const std::vector<float> result = out.download();

    // every row sees its own chunk's earlier rows alone, so the references may be appended as the rows go
    for (int row = 0; row < numRows; ++row) {
      const float* got = &result[static_cast<size_t>(row) * numHeads * dim];
      if (rowSequences[row] < 0) {
        for (int i = 0; i < numHeads * dim; ++i) isClear = isClear && got[i] == 0;
        continue;
      }
      const int s = rowSequences[row];
      const float2* turns = &cosSin[static_cast<size_t>(positions[row]) * dim / 2];
      const std::vector<double> key = rotate(&keyValue[static_cast<size_t>(row) * stride], dim, turns);
      keys[s].insert(keys[s].end(), key.begin(), key.end());
      const float* value = &keyValue[static_cast<size_t>(row) * stride + dim];
      values[s].insert(values[s].end(), value, value + dim);
      std::vector<double> queries;
      for (int head = 0; head < numHeads; ++head) {
        const std::vector<double> turned = rotate(&query[(static_cast<size_t>(row) * numHeads + head) * dim], dim, turns);
        queries.insert(queries.end(), turned.begin(), turned.end());
      }
      const std::vector<double> expected = attention(queries, keys[s], values[s], numHeads, dim, positions[row] + 1, 1 / std::sqrt(dim));
      for (int i = 0; i < numHeads * dim; ++i) errors.add(got[i], expected[i], 0);
    }
  }
  const bool isRight = errors.isFinite && isClear && errors.total() < 3e-6;
  std::printf("f32 %2d heads x %3d, up to %4d tokens %9.2e %s\n", numHeads, dim, longest, errors.total(), isRight ? "ok" : "FAILED");
  return isRight;
}

int main(int numArguments, char** arguments) {
  Random random(numArguments > 1 ? std::strtoull(arguments[1], nullptr, 10) : 1);
  bool isRight = check(12, 64, {{1, 1, 1}, {63, 1, 1}, {64, 2, 0, 1}, {100, 65, 1}}, random.bits());
  isRight = check(64, 256, {{70, 1}, {1}, {0, 3}}, random.bits()) && isRight;
  isRight = check(3, 32, {{500, 1, 1}, {1}}, random.bits()) && isRight;
  isRight = check(1, 96, {{5, 130}}, random.bits()) && isRight;
  isRight = check(5, 224, {{66}}, random.bits()) && isRight;
  return isRight ? 0 : 1;
}
