// Times expertFfn at Step-3's dimensions by graph replays that rotate over two sets of weights, next to a plain copy and a plain read.
#include "expert-case.h"

using namespace rally;
using namespace rally::test;

namespace {

__global__ void readAll(const uint4* data, size_t size, uint32_t* out) {
  uint32_t sum = 0;
  const size_t stride = size_t{gridDim.x} * blockDim.x;
  size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x;
  for (; i + 7 * stride < size; i += 8 * stride) {
    uint4 v[8];
#pragma unroll
    for (int j = 0; j < 8; ++j) v[j] = __ldcs(data + i + j * stride);
#pragma unroll
    for (int j = 0; j < 8; ++j) sum ^= v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
  }
  if (sum == 0x12345678) *out = sum;
}

/// Median µs per launch of graphs with `perGraph` launches each.
template <class Launch>
double medianMicroseconds(int perGraph, int replays, Launch launch) {
  cudaStream_t stream;
  CHECK(cudaStreamCreate(&stream));
  CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  for (int i = 0; i < perGraph; ++i) launch(i, stream);
  cudaGraph_t graph;
  cudaGraphExec_t instance;
  CHECK(cudaStreamEndCapture(stream, &graph));
  CHECK(cudaGraphInstantiate(&instance, graph));
  cudaEvent_t begin, end;
  CHECK(cudaEventCreate(&begin));
  CHECK(cudaEventCreate(&end));
  std::vector<float> times;
  for (int i = 0; i < replays + 3; ++i) {
    CHECK(cudaEventRecord(begin, stream));
    CHECK(cudaGraphLaunch(instance, stream));
    CHECK(cudaEventRecord(end, stream));
    CHECK(cudaEventSynchronize(end));
    float milliseconds;
    CHECK(cudaEventElapsedTime(&milliseconds, begin, end));
    if (i >= 3) times.push_back(milliseconds * 1000 / perGraph);
  }
  std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
  CHECK(cudaGraphExecDestroy(instance));
  CHECK(cudaGraphDestroy(graph));
  CHECK(cudaEventDestroy(begin));
  CHECK(cudaEventDestroy(end));
  CHECK(cudaStreamDestroy(stream));
  return times[times.size() / 2];
}

void bench(const char* name, const Dimensions& d, const ExpertSet* const (&sets)[2], int numTokens,
           const std::vector<int>& counts) {
  const Batch batch(d, routeCounts(d, numTokens, counts, 5), localTable(d), 5);
  Buffer<Bf16> y(size_t(numTokens) * d.hidden);
  Buffer<uint8_t> workspace(expertWorkspaceBytes(numTokens, d.topK, d.numLocal, d.hidden, d.inter));
  zeroWorkspace(workspace);
  const double time = medianMicroseconds(8, 25, [&](int i, cudaStream_t stream) {
    CHECK(expertFfn({reinterpret_cast<E4m3*>(batch.x.device), batch.scales.device}, batch.ids.device, batch.weights.device,
                    batch.localOf.device, sets[i % 2]->view(), d.numLocal, d.sharedLocal, y.device, numTokens, d.topK, d.hidden,
                    d.inter, workspace.device, stream));
  });
  int active = d.sharedLocal >= 0;
  double rows = d.sharedLocal >= 0 ? numTokens : 0;
  for (const int count : counts) {
    active += count > 0;
    rows += count;
  }
  const double bytes = 3.0 * active * d.hidden * d.inter, flops = 6.0 * rows * d.hidden * d.inter;
  std::printf("%-44s %7.1f us  %5.2f TB/s of weights  %6.0f TFLOP/s\n", name, time, bytes / time / 1e6, flops / time / 1e6);
  std::fflush(stdout);
}

}  // namespace

int main() {
  const Dimensions d{7168, 5120, 4, 48, 3, 3};
  const ExpertSet first(d, 1, false), second(d, 2, false);
  const ExpertSet* const sets[2] = {&first, &second};
  const size_t bytes = first.gateUp.host.size();
  uint32_t* sink;
  CHECK(cudaMalloc(&sink, 4));
  const double copied = medianMicroseconds(4, 15, [&](int i, cudaStream_t stream) {
    CHECK(cudaMemcpyAsync(second.gateUp.device, first.gateUp.device, bytes, cudaMemcpyDeviceToDevice, stream));
  });
  const double read = medianMicroseconds(4, 15, [&](int i, cudaStream_t stream) {
    readAll<<<132 * 4, 512, 0, stream>>>(reinterpret_cast<const uint4*>(sets[i % 2]->gateUp.device), bytes / 16, sink);
  });
  std::printf("copy %.2f TB/s (read + written), read %.2f TB/s\n", 2.0 * bytes / copied / 1e6, double(bytes) / read / 1e6);
  bench("balanced: 128 tokens, 128 each + shared", d, sets, 128, {128, 128, 128});
  Dimensions stage = d;  // as in `rally bench --stage ffn`: every row is a token at one expert
  stage.topK = 1;
  stage.sharedLocal = -1;
  bench("stage 128: 512 rows, 128 each of 4", stage, sets, 512, {128, 128, 128, 128});
  bench("stage 128 skewed: 256/96/32/128", stage, sets, 512, {256, 96, 32, 128});
  bench("stage 256: 1024 rows, 256 each of 4", stage, sets, 1024, {256, 256, 256, 256});
  bench("stage 64: 256 rows, 64 each of 4", stage, sets, 256, {64, 64, 64, 64});
  bench("64 tokens, 64 each + shared", d, sets, 64, {64, 64, 64});
  bench("16 tokens, 16 each + shared", d, sets, 16, {16, 16, 16});
  bench("128 tokens, 40/20/4 + shared 128", d, sets, 128, {40, 20, 4});
  bench("300 tokens, 300/100/40 + shared 300", d, sets, 300, {300, 100, 40});
  bench("256 tokens, 256 each + shared", d, sets, 256, {256, 256, 256});
  bench("128 tokens, shared only", d, sets, 128, {0, 0, 0});
  Dimensions routed = d;
  routed.sharedLocal = -1;
  bench("300 tokens, 300/100/40/10, none shared", routed, sets, 300, {300, 100, 40, 10});
  bench("128 tokens, 128 each of 4, none shared... 3", routed, sets, 128, {128, 128, 128, 0});
  bench("1 token, 3 experts + shared", d, sets, 1, {1, 1, 1});
  return 0;
}
