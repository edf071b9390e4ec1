// Times ropeAppend and mfaDecode by replays of CUDA graphs over page tables that together hold more than the L2 cache, next to
// what the card's memory does at best. Argument: `quick` for contexts of 4,096 alone.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <numeric>

#include "../../models/kernels/kernels.h"
#include "../../models/kernels/mfa-page.h"
#include "mfa-support.h"

using namespace rally;

constexpr int kHeads = 64;
constexpr int kDim = 256;

__device__ uint32_t hash(uint64_t i) {
  i = (i + 0x9e3779b97f4a7c15) * 0xbf58476d1ce4e5b9;
  i = (i ^ i >> 27) * 0x94d049bb133111eb;
  return static_cast<uint32_t>(i >> 32);
}
/// Valid random numbers below 2 everywhere, then fitting scales.
__global__ void fill(uint32_t* words, size_t numWords, bool isFp8, int blockWords, int scaleStart, int numScales, bool isPage) {
  const size_t step = static_cast<size_t>(gridDim.x) * blockDim.x;
  for (size_t i = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x; i < numWords; i += step) {
    const uint32_t bits = hash(i);
    uint32_t word = isFp8 ? bits & 0xbfbfbfbfu : (bits & 0x807f807fu) | 0x3f003f00u;
    const int at = static_cast<int>(i % blockWords) - scaleStart;
    if (at >= 0 && at < numScales) {
      const float scale = 0.02f + (bits & 0xff) * 1e-4f;
      word = __float_as_uint(isPage && at >= kPageTokens ? mfa::kLogOffset - 3 + bits % 3 : scale);
    }
    words[i] = word;
  }
}
__global__ void readAll(const uint4* from, size_t count, uint32_t* sink) {
  const size_t step = static_cast<size_t>(gridDim.x) * blockDim.x;
  uint32_t sum = 0;
#pragma unroll 8
  for (size_t i = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x; i < count; i += step) {
    uint4 x;
    asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
        : "l"(from + i));
    sum += x.x ^ x.y ^ x.z ^ x.w;
  }
  if (sum == 12345) *sink = sum;
}

/// Median over replays of a graph of `numCalls` calls, per call, in µs.
static double timeCalls(int numCalls, const std::function<void(int, cudaStream_t)>& call) {
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t replay;
  CHECK(cudaStreamCreate(&stream));
  CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  for (int i = 0; i < numCalls; ++i) call(i, stream);
  CHECK(cudaStreamEndCapture(stream, &graph));
  CHECK(cudaGraphInstantiate(&replay, graph, 0));
  cudaEvent_t begin, end;
  CHECK(cudaEventCreate(&begin));
  CHECK(cudaEventCreate(&end));
  std::vector<float> times;
  for (int i = 0; i < 14; ++i) {
    CHECK(cudaEventRecord(begin, stream));
    CHECK(cudaGraphLaunch(replay, stream));
    CHECK(cudaEventRecord(end, stream));
    CHECK(cudaEventSynchronize(end));
    float milliseconds = 0;
    CHECK(cudaEventElapsedTime(&milliseconds, begin, end));
    if (i >= 3) times.push_back(milliseconds * 1000 / numCalls);
  }
  std::sort(times.begin(), times.end());
  CHECK(cudaGraphExecDestroy(replay));
  CHECK(cudaGraphDestroy(graph));
  CHECK(cudaStreamDestroy(stream));
  return times[times.size() / 2];
}

/// The pages of all pools, filled once per type; what the card reads at best.
struct Memory {
  uint8_t* arena;
  size_t bytes;
  double readTbps;
};

static void fillArena(Memory memory, KvType type) {
  using Fp8 = mfa::Layout<KvType::kE4m3>;
  const bool isFp8 = type == KvType::kE4m3;
  fill<<<1056, 256>>>(reinterpret_cast<uint32_t*>(memory.arena), memory.bytes / 4, isFp8, isFp8 ? Fp8::kPageBytes / 4 : 1 << 30,
                      Fp8::kKeyBytes / 4, isFp8 ? 2 * kPageTokens : 0, true);
  CHECK(cudaGetLastError());
}

/// Random bf16 without scales.
static void fillValues(DeviceArray<Bf16>& values) {
  fill<<<132, 256>>>(reinterpret_cast<uint32_t*>(values.get()), values.bytes() / 4, false, 1 << 30, 1 << 30, 0, false);
  CHECK(cudaGetLastError());
}

static void timeDecode(KvType type, Memory memory, const char* name, const std::vector<int32_t>& lengths) {
  const bool isFp8 = type == KvType::kE4m3;
  const int numSequences = static_cast<int>(lengths.size());
  const size_t pageBytes = kvPageBytes(type, kDim);
  const int maxPages = (*std::max_element(lengths.begin(), lengths.end()) + kPageTokens - 1) / kPageTokens;
  size_t perPool = 0;
  for (int length : lengths) perPool += (length + kPageTokens - 1) / kPageTokens;
  const size_t available = memory.bytes / pageBytes;
  const size_t numWanted = std::max<size_t>(3, (1u << 30) / (perPool * pageBytes));
  const int numPools = static_cast<int>(std::min<size_t>({8, available / perPool, numWanted}));
  if (numPools == 0) return;
  Random random(perPool);
  std::vector<int32_t> ids(available);
  std::iota(ids.begin(), ids.end(), 0);
  random.shuffle(ids);
  std::vector<int32_t> tables;
  size_t next = 0;
  for (int pool = 0; pool < numPools; ++pool) {
    for (int s = 0; s < numSequences; ++s) {
      for (int page = 0; page < maxPages; ++page) {
        tables.push_back(page * kPageTokens < lengths[s] ? ids[next++] : 0x3fffffff);
      }
    }
  }
  DeviceArray<int32_t> deviceTables(tables), deviceLengths(lengths);
  DeviceArray<uint8_t> rotated(rotatedBytes(type, numSequences, kHeads, kDim));
  fill<<<132, 256>>>(reinterpret_cast<uint32_t*>(rotated.get()), rotated.bytes() / 4, isFp8,
                     static_cast<int>(rotated.bytes() / numSequences / 4), kHeads * kDim / 4, isFp8 ? kHeads : 0, false);
  DeviceArray<uint8_t> workspace(mfaWorkspaceBytes(numSequences, maxPages, kHeads, kDim));
  workspace.poison(0);
  DeviceArray<E4m3> out(static_cast<size_t>(numSequences) * kHeads * kDim);
  DeviceArray<float> outScales(static_cast<size_t>(numSequences) * kHeads * 2);
  CHECK(cudaDeviceSynchronize());
  const double bytes = static_cast<double>(perPool) * pageBytes;
  const int numCalls = numPools * std::max(1, static_cast<int>(24 / numPools / std::max(1.0, bytes / 1e9)));
  const double time = timeCalls(numCalls, [&](int i, cudaStream_t stream) {
    const int32_t* table = deviceTables.get() + static_cast<size_t>(i % numPools) * numSequences * maxPages;
    CHECK(mfaDecode(rotated.get(), {memory.arena, type, kDim}, {table, deviceLengths.get(), numSequences, maxPages},
                    {out.get(), outScales.get()}, kHeads, workspace.get(), stream));
  });
  const double floor = bytes / memory.readTbps * 1e-6;
  std::printf("%-5s %-24s %9.1f us %6.2f TB/s  floor %8.1f us  x%.2f\n", isFp8 ? "e4m3" : "bf16", name, time, bytes / time * 1e-6,
              floor, time / floor);
  std::fflush(stdout);
}

static void timeAppend(KvType type, Memory memory, int numSequences) {
  const int length = 4096 - 30;
  const int maxPages = 64;
  std::vector<int32_t> table(numSequences * maxPages);
  std::iota(table.begin(), table.end(), 0);
  const int numRows = 8 * numSequences;
  DeviceArray<int32_t> deviceTable(table), lengths(std::vector<int32_t>(numSequences, length));
  DeviceArray<Bf16> queries(static_cast<size_t>(numRows) * kHeads * kDim);
  DeviceArray<Bf16> keyValues(static_cast<size_t>(numRows) * 2 * kDim);
  fillValues(queries);
  fillValues(keyValues);
  DeviceArray<float2> cosSin(std::vector<float2>(static_cast<size_t>(length) * kDim / 2, float2{0.6f, 0.8f}));
  DeviceArray<uint8_t> rotated(rotatedBytes(type, numSequences, kHeads, kDim));
  CHECK(cudaDeviceSynchronize());
  const double time = timeCalls(32, [&](int i, cudaStream_t stream) {
    const size_t row = static_cast<size_t>(i % 8) * numSequences;
    const Bf16* keys = keyValues.get() + row * 2 * kDim;
    CHECK(ropeAppend(queries.get() + row * kHeads * kDim, keys, keys + kDim, 2 * kDim, cosSin.get(), {memory.arena, type, kDim},
                     {deviceTable.get(), lengths.get(), numSequences, maxPages}, rotated.get(), kHeads, stream));
  });
  std::printf("%-5s ropeAppend %4d           %9.1f us\n", type == KvType::kE4m3 ? "e4m3" : "bf16", numSequences, time);
}

/// What the card's memory does at best: bytes read and written by a copy, bytes read.
static void measureMemory(Memory& memory) {
  const size_t bytes = size_t{1} << 31;
  uint32_t* sink;
  CHECK(cudaMalloc(&sink, sizeof *sink));
  const double copyTime = timeCalls(4, [&](int, cudaStream_t stream) {
    CHECK(cudaMemcpyAsync(memory.arena, memory.arena + bytes / 2, bytes / 2, cudaMemcpyDeviceToDevice, stream));
  });
  double readTime = INFINITY;
  for (int blocks : {132, 264, 528, 1056, 2112}) {
    readTime = std::min(readTime, timeCalls(4, [&](int, cudaStream_t stream) {
                          readAll<<<blocks, 512, 0, stream>>>(reinterpret_cast<uint4*>(memory.arena), bytes / 16, sink);
                        }));
  }
  CHECK(cudaFree(sink));
  memory.readTbps = bytes / readTime * 1e-6;
  std::printf("copy %.2f TB/s (bytes read and written), read %.2f TB/s\n", bytes / copyTime * 1e-6, memory.readTbps);
}

int main(int numArguments, char** arguments) {
  const bool isQuick = numArguments > 1 && std::strcmp(arguments[1], "quick") == 0;
  Memory memory = {nullptr, size_t{isQuick ? 4u : 26u} << 30, 0};
  CHECK(cudaMalloc(&memory.arena, memory.bytes));
  fillArena(memory, KvType::kE4m3);
  measureMemory(memory);
  for (KvType type : {KvType::kE4m3, KvType::kBf16}) {
    fillArena(memory, type);
    for (int context : {4096, 8192, 32768}) {
      for (int numSequences : {64, 128, 192, 256}) {
        if (isQuick && context > 4096) continue;
        char name[64];
        std::snprintf(name, sizeof name, "%d x %d", numSequences, context);
        timeDecode(type, memory, name, std::vector<int32_t>(numSequences, context));
      }
    }
    Random random(7);
    std::vector<int32_t> ragged, near, uneven(64, 256);
    for (int i = 0; i < 128; ++i) ragged.push_back(1 + random.below(8191));
    for (int i = 0; i < 128; ++i) near.push_back(3500 + random.below(1200));
    uneven[20] = 32768;
    timeDecode(type, memory, "128 x 1..8191", ragged);
    timeDecode(type, memory, "128 x 3500..4700", near);
    timeDecode(type, memory, "1 x 32768", {32768});
    timeDecode(type, memory, "32768 and 63 x 256", uneven);
    for (int numSequences : {64, 128, 256}) timeAppend(type, memory, numSequences);
  }
  return 0;
}
