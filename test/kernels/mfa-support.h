// What the checks and timings of MFA's kernels share: checked calls, device arrays, repeatable random numbers.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#define CHECK(call)                                                                               \
  do {                                                                                            \
    const cudaError_t error_ = (call);                                                            \
    if (error_ != cudaSuccess) {                                                                  \
      std::printf("%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(error_));      \
      std::exit(2);                                                                               \
    }                                                                                             \
  } while (false)

/// Device memory that starts as bytes of 0xff: NaN as e4m3, bf16 and f32.
template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t count) : count_(count) {
    CHECK(cudaMalloc(&data_, bytes() + 16));
    poison();
  }
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size()) { upload(values); }
  ~DeviceArray() { cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  T* get() const { return data_; }
  size_t bytes() const { return count_ * sizeof(T); }
  void poison(int byte = 0xff) { CHECK(cudaMemset(data_, byte, bytes())); }
  void upload(const std::vector<T>& values) {
    CHECK(cudaMemcpy(data_, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
  }
  std::vector<T> download() const {
    std::vector<T> values(count_);
    CHECK(cudaMemcpy(values.data(), data_, bytes(), cudaMemcpyDeviceToHost));
    return values;
  }

 private:
  T* data_ = nullptr;
  size_t count_;
};

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t bits() {  // splitmix64
    uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
  }
  int below(int limit) { return static_cast<int>((bits() >> 32) * static_cast<uint64_t>(limit) >> 32); }
  /// Nearly normal, variance 1: the sum of four uniform numbers.
  float normal() {
    const uint64_t z = bits();
    const int sum = (z & 0xffff) + (z >> 16 & 0xffff) + (z >> 32 & 0xffff) + (z >> 48);
    return (sum - 131070) * (1.7320508f / 65536);
  }
  template <typename T>
  void shuffle(std::vector<T>& values) {
    for (int i = static_cast<int>(values.size()) - 1; i > 0; --i) std::swap(values[i], values[below(i + 1)]);
  }

 private:
  uint64_t state_;
};

/// visit(i) for i in [0, count), over all cores.
template <typename Visit>
void parallel(int count, Visit visit) {
  const int numThreads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  std::vector<std::thread> threads;
  for (int thread = 0; thread < numThreads; ++thread) {
    threads.emplace_back([=] {
      for (int i = thread; i < count; i += numThreads) visit(i);
    });
  }
  for (std::thread& thread : threads) thread.join();
}
