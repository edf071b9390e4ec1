// Random inputs for the expert feed-forward kernel.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "../../models/kernels/expert-args.h"

#define CHECK(call)                                                                             \
  do {                                                                                          \
    const cudaError_t error = (call);                                                           \
    if (error != cudaSuccess) {                                                                 \
      std::printf("%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(error));     \
      std::exit(2);                                                                             \
    }                                                                                           \
  } while (0)

namespace rally::test {

/// Device memory with a copy on the host.
template <class T>
struct Buffer {
  std::vector<T> host;
  T* device = nullptr;
  explicit Buffer(size_t size = 0) : host(size) {
    if (size > 0) CHECK(cudaMalloc(&device, size * sizeof(T)));
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { cudaFree(device); }
  void upload() { CHECK(cudaMemcpy(device, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice)); }
  void download() { CHECK(cudaMemcpy(host.data(), device, host.size() * sizeof(T), cudaMemcpyDeviceToHost)); }
  void poison() { CHECK(cudaMemset(device, 0xff, host.size() * sizeof(T))); }
};

struct Dimensions {
  int hidden;
  int inter;
  int numLocal;
  int numExperts;
  int topK;
  int sharedLocal;
};

__host__ __device__ inline uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}
/// About normal with standard deviation 100, from the sum of four 16-bit numbers.
__host__ __device__ inline uint8_t randomE4m3(uint64_t seed, uint64_t index) {
  const uint64_t bits = mix(seed ^ mix(index));
  const float sum = float(bits & 0xffff) + float(bits >> 16 & 0xffff) + float(bits >> 32 & 0xffff) + float(bits >> 48);
  return __nv_cvt_float_to_fp8((sum / 65535.f - 2.f) * 173.f, __NV_SATFINITE, __NV_E4M3);
}
static __global__ void fillE4m3(uint8_t* out, size_t size, uint64_t seed) {
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < size; i += size_t{gridDim.x} * blockDim.x)
    out[i] = randomE4m3(seed, i);
}

/// Weights of all local experts; the tiles are drawn in their packed order.
struct ExpertSet {
  Buffer<uint8_t> gateUp, down;
  Buffer<float> gateUpScales, downScales;
  ExpertSet(const Dimensions& d, uint64_t seed, bool onHost = true)
      : gateUp(size_t{2} * d.numLocal * d.inter * d.hidden),
        down(size_t(d.numLocal) * d.inter * d.hidden),
        gateUpScales(gateUp.host.size() / 16384),
        downScales(down.host.size() / 16384) {
    std::mt19937_64 random(seed);
    std::uniform_real_distribution<float> factor(0.5f, 1.5f);
    for (float& s : gateUpScales.host) s = factor(random) / (100 * std::sqrt(float(d.hidden)));
    for (float& s : downScales.host) s = factor(random) / (100 * std::sqrt(float(d.inter)));
    gateUpScales.upload();
    downScales.upload();
    fillE4m3<<<1024, 256>>>(gateUp.device, gateUp.host.size(), seed * 2 + 1);
    fillE4m3<<<1024, 256>>>(down.device, down.host.size(), seed * 2 + 2);
    CHECK(cudaGetLastError());
    if (!onHost) return;
    gateUp.download();
    down.download();
  }
  ExpertWeights view() const {
    return {{reinterpret_cast<const E4m3*>(gateUp.device), gateUpScales.device},
            {reinterpret_cast<const E4m3*>(down.device), downScales.device}};
  }
};

/// A batch with its routing. route[t]: the topK expert ids of token t.
struct Batch {
  int numTokens;
  Buffer<uint8_t> x;
  Buffer<float> scales, weights;
  Buffer<int32_t> ids, localOf;
  Batch(const Dimensions& d, const std::vector<std::vector<int>>& route, const std::vector<int>& local, uint64_t seed)
      : numTokens(int(route.size())),
        x(size_t(numTokens) * d.hidden),
        scales(size_t(numTokens) * d.hidden / kGroup),
        weights(size_t(numTokens) * d.topK),
        ids(size_t(numTokens) * d.topK),
        localOf(local.size()) {
    std::mt19937_64 random(seed);
    std::uniform_real_distribution<float> factor(0.5f, 1.5f);
    for (size_t i = 0; i < x.host.size(); ++i) x.host[i] = randomE4m3(seed * 3 + 7, i);
    for (float& s : scales.host) s = factor(random) / 100;
    for (float& w : weights.host) w = factor(random) / 2;
    for (int t = 0; t < numTokens; ++t)
      for (int c = 0; c < d.topK; ++c) ids.host[size_t(t) * d.topK + c] = route[t][c];
    localOf.host.assign(local.begin(), local.end());
    upload();
  }
  void upload() {
    if (numTokens == 0) return;
    x.upload();
    scales.upload();
    weights.upload();
    ids.upload();
    localOf.upload();
  }
};

/// Routes so that local expert e gets counts[e] tokens (each at most numTokens), spread over the tokens at random; unused choices
/// go to experts elsewhere. Local expert e has id 3 e + 1.
inline std::vector<std::vector<int>> routeCounts(const Dimensions& d, int numTokens, const std::vector<int>& counts,
                                                 uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::vector<int>> route(numTokens);
  for (size_t e = 0; e < counts.size(); ++e) {  // the tokens with the fewest choices yet, at random among equals
    std::vector<std::pair<uint64_t, int>> order;
    for (int t = 0; t < numTokens; ++t) order.push_back({(uint64_t(route[t].size()) << 56) | random() >> 8, t});
    std::sort(order.begin(), order.end());
    for (int i = 0; i < counts[e]; ++i) route[order[i].second].push_back(int(3 * e + 1));
  }
  for (auto& choices : route) {
    if (int(choices.size()) > d.topK) {
      std::printf("counts do not fit topK\n");
      std::exit(2);
    }
    while (int(choices.size()) < d.topK) choices.push_back(choices.size() % 2 ? -1 : 0);
    std::shuffle(choices.begin(), choices.end(), random);
  }
  return route;
}
inline std::vector<int> localTable(const Dimensions& d) {
  std::vector<int> local(d.numExperts, -1);
  for (int e = 0; e < d.numLocal; ++e)
    if (e != d.sharedLocal && 3 * e + 1 < d.numExperts) local[3 * e + 1] = e;
  return local;
}

/// What a call may find in its workspace: counters as the last call has left them, or zeroed, and anything in the rest.
inline void poisonWorkspace(const Buffer<uint8_t>& workspace) {
  constexpr size_t kCounters = sizeof(expert::Counters);
  CHECK(cudaMemset(workspace.device + kCounters, 0xff, workspace.host.size() - kCounters));
}
inline void zeroWorkspace(const Buffer<uint8_t>& workspace) {
  CHECK(cudaMemset(workspace.device, 0, workspace.host.size()));
}

/// One launch into poisoned output; the workspace is used by other calls before and after.
inline std::vector<Bf16> runIn(const Buffer<uint8_t>& workspace, const Dimensions& d, const ExpertSet& set, const Batch& batch) {
  Buffer<Bf16> y(size_t(batch.numTokens) * d.hidden);
  y.poison();
  poisonWorkspace(workspace);
  CHECK(expertFfn({reinterpret_cast<E4m3*>(batch.x.device), batch.scales.device}, batch.ids.device, batch.weights.device,
                  batch.localOf.device, set.view(), d.numLocal, d.sharedLocal, y.device, batch.numTokens, d.topK, d.hidden,
                  d.inter, workspace.device, nullptr));
  CHECK(cudaDeviceSynchronize());
  y.download();
  return y.host;
}

/// One launch into poisoned output and workspace.
inline std::vector<Bf16> runOnce(const Dimensions& d, const ExpertSet& set, const Batch& batch) {
  if (batch.numTokens == 0) return {};
  const Buffer<uint8_t> workspace(expertWorkspaceBytes(batch.numTokens, d.topK, d.numLocal, d.hidden, d.inter));
  zeroWorkspace(workspace);
  return runIn(workspace, d, set, batch);
}

}  // namespace rally::test
