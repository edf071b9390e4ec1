// What the kernels' test programs share: arrays on the device, fresh random inputs, poison, comparison and timing. A program
// prints a line per case and exits with 1 if any case failed.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <vector>

namespace rally::test {

#define CHECK_CUDA(call) ::rally::test::checkCuda((call), #call, __FILE__, __LINE__)
inline void checkCuda(cudaError_t error, const char* call, const char* file, int line) {
  if (error == cudaSuccess) return;
  std::printf("FAILED %s:%d %s: %s\n", file, line, call, cudaGetErrorString(error));
  std::exit(1);
}

inline int numFailures = 0;
__attribute__((format(printf, 2, 3))) inline void report(bool passed, const char* format, ...) {
  if (!passed) ++numFailures;
  std::printf("%s ", passed ? "ok    " : "FAILED");
  va_list arguments;
  va_start(arguments, format);
  std::vprintf(format, arguments);
  va_end(arguments);
  std::printf("\n");
  std::fflush(stdout);
}
inline int exitCode() {
  std::printf(numFailures == 0 ? "all passed\n" : "%d cases failed\n", numFailures);
  return numFailures == 0 ? 0 : 1;
}

/// An array on the device between guard bytes. Everything starts as 0xFF: NaN in bf16, f32 and e4m3.
template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t size) : length(size) {
    CHECK_CUDA(cudaMalloc(&base, bytes() + 2 * kGuard));
    CHECK_CUDA(cudaMemset(base, 0xFF, bytes() + 2 * kGuard));
  }
  explicit DeviceArray(const std::vector<T>& host) : DeviceArray(host.size()) {
    CHECK_CUDA(cudaMemcpy(data(), host.data(), bytes(), cudaMemcpyHostToDevice));
  }
  ~DeviceArray() { cudaFree(base); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  T* data() const { return reinterpret_cast<T*>(base + kGuard); }
  size_t size() const { return length; }
  size_t bytes() const { return length * sizeof(T); }
  void poison() const { CHECK_CUDA(cudaMemset(data(), 0xFF, bytes())); }
  std::vector<T> host() const {
    std::vector<T> copy(length);
    CHECK_CUDA(cudaMemcpy(copy.data(), data(), bytes(), cudaMemcpyDeviceToHost));
    return copy;
  }
  bool guardsIntact() const {
    std::vector<uint8_t> guard(2 * kGuard);
    CHECK_CUDA(cudaMemcpy(guard.data(), base, kGuard, cudaMemcpyDeviceToHost));
    CHECK_CUDA(cudaMemcpy(guard.data() + kGuard, base + kGuard + bytes(), kGuard, cudaMemcpyDeviceToHost));
    return std::all_of(guard.begin(), guard.end(), [](uint8_t byte) { return byte == 0xFF; });
  }

 private:
  static constexpr size_t kGuard = 4096;
  uint8_t* base = nullptr;
  size_t length;
};

using Random = std::mt19937_64;
/// From the first argument that is a number, otherwise fresh; printed, so that a failure can be repeated.
inline Random makeRandom(int numArguments, char** arguments) {
  uint64_t seed = std::random_device{}();
  for (int i = 1; i < numArguments; ++i) {
    char* end;
    const uint64_t value = std::strtoull(arguments[i], &end, 10);
    if (end != arguments[i] && *end == 0) seed = value;
  }
  std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
  return Random(seed);
}
inline std::vector<float> normals(Random& random, size_t count, float deviation = 1) {
  std::normal_distribution<float> normal(0, deviation);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}
template <typename T>
std::vector<T> convert(const std::vector<float>& values) {
  return std::vector<T>(values.begin(), values.end());
}

/// About e^-4, as scales are.
inline std::vector<float> positive(Random& random, size_t count) {
  std::vector<float> values = normals(random, count, 0.5f);
  for (float& value : values) value = std::exp(value) / 64;
  return values;
}

inline __device__ uint32_t hash(uint64_t x) {
  x ^= x >> 33, x *= 0xff51afd7ed558ccdull, x ^= x >> 33, x *= 0xc4ceb9fe1a85ec53ull, x ^= x >> 33;
  return static_cast<uint32_t>(x);
}
/// About normal with deviation 30, so that few values are saturated and few denormal.
static __global__ void fillValues(__nv_fp8_e4m3* values, size_t count, uint64_t seed) {
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < count; i += size_t{gridDim.x} * blockDim.x) {
    float sum = 0;
    for (int j = 0; j < 4; ++j) sum += hash(seed + 4 * i + j) * 0x1p-32f - 0.5f;
    values[i] = __nv_fp8_e4m3(sum * 52);
  }
}
inline void fill(const DeviceArray<__nv_fp8_e4m3>& values, Random& random) {
  fillValues<<<1024, 256>>>(values.data(), values.size(), random());
  CHECK_CUDA(cudaGetLastError());
}

/// ‖out − expected‖ / ‖expected‖; NaN if anything is.
template <typename T>
double relativeError(const std::vector<T>& out, const std::vector<double>& expected) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double d = static_cast<double>(static_cast<float>(out[i])) - expected[i];
    difference += d * d;
    norm += expected[i] * expected[i];
  }
  return std::sqrt(difference / norm);
}
template <typename T>
bool sameBits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

/// Median microseconds of one of the `numCalls` calls that `enqueue` makes, by replays of a graph of them all.
inline double graphMicroseconds(int numCalls, const std::function<void(cudaStream_t)>& enqueue, int numReplays = 25) {
  cudaStream_t stream;
  CHECK_CUDA(cudaStreamCreate(&stream));
  cudaGraph_t graph;
  cudaGraphExec_t replay;
  CHECK_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  enqueue(stream);
  CHECK_CUDA(cudaStreamEndCapture(stream, &graph));
  CHECK_CUDA(cudaGraphInstantiate(&replay, graph, 0));
  cudaEvent_t start, stop;
  CHECK_CUDA(cudaEventCreate(&start));
  CHECK_CUDA(cudaEventCreate(&stop));
  for (int i = 0; i < 3; ++i) CHECK_CUDA(cudaGraphLaunch(replay, stream));
  std::vector<double> times;
  for (int i = 0; i < numReplays; ++i) {
    CHECK_CUDA(cudaEventRecord(start, stream));
    CHECK_CUDA(cudaGraphLaunch(replay, stream));
    CHECK_CUDA(cudaEventRecord(stop, stream));
    CHECK_CUDA(cudaEventSynchronize(stop));
    float milliseconds;
    CHECK_CUDA(cudaEventElapsedTime(&milliseconds, start, stop));
    times.push_back(1000.0 * milliseconds / numCalls);
  }
  std::sort(times.begin(), times.end());
  CHECK_CUDA(cudaEventDestroy(start));
  CHECK_CUDA(cudaEventDestroy(stop));
  CHECK_CUDA(cudaGraphExecDestroy(replay));
  CHECK_CUDA(cudaGraphDestroy(graph));
  CHECK_CUDA(cudaStreamDestroy(stream));
  return times[times.size() / 2];
}

template <bool writes>
__global__ void __launch_bounds__(512) moveBytes(const uint4* from, uint4* to, size_t count) {
  constexpr int kAtOnce = 8;
  const size_t stride = size_t{gridDim.x} * blockDim.x;
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < count; i += kAtOnce * stride) {
    uint4 values[kAtOnce];
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) values[j] = i + j * stride < count ? __ldcs(from + i + j * stride) : uint4{};
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      // What is read must count as used: never true of the random bytes.
      const bool used = writes || (values[j].x == 0x12345678 && values[j].y == 0x9abcdef0 && values[j].z == 1);
      if (used && i + j * stride < count) __stcs(to + i + j * stride, values[j]);
    }
  }
}

/// Bytes per microsecond: of a copy on the device (read and written bytes counted), and of reading alone.
struct Bandwidth {
  double copy;
  double read;
};
inline Bandwidth measureBandwidth() {
  constexpr size_t kBytes = size_t{1} << 30;
  uint4 *from, *to;
  CHECK_CUDA(cudaMalloc(&from, kBytes));
  CHECK_CUDA(cudaMalloc(&to, kBytes));
  CHECK_CUDA(cudaMemset(from, 0x5a, kBytes));
  const auto time = [&](auto kernel, int numBlocks) {
    return graphMicroseconds(
        4, [&](cudaStream_t stream) {
          for (int i = 0; i < 4; ++i) kernel<<<numBlocks, 512, 0, stream>>>(from, to, kBytes / sizeof(uint4));
        }, 7);
  };
  Bandwidth best{};
  for (const int numBlocks : {132 * 2, 132 * 4, 132 * 16, 16384}) {
    best.copy = std::max(best.copy, 2.0 * kBytes / time(moveBytes<true>, numBlocks));
    best.read = std::max(best.read, 1.0 * kBytes / time(moveBytes<false>, numBlocks));
  }
  CHECK_CUDA(cudaFree(from));
  CHECK_CUDA(cudaFree(to));
  std::printf("bandwidth: copy %.2f TB/s, read %.2f TB/s\n", best.copy / 1e6, best.read / 1e6);
  return best;
}

}  // namespace rally::test
