/* The stand-in runtime: memory, streams, graphs, errors. */
#include <cmath>
#include <thread>

#include "check.h"

using tests::Buffer;

namespace {

__global__ void add_to(float *x, float value, int n) {
  for (int i = static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x)) x[i] += value;
}

struct Stream {
  cudaStream_t handle = nullptr;
  explicit Stream(unsigned flags = cudaStreamNonBlocking) {
    CHECK(cudaStreamCreateWithFlags(&handle, flags) == cudaSuccess);
  }
  Stream(const Stream &) = delete;
  Stream &operator=(const Stream &) = delete;
  ~Stream() { cudaStreamDestroy(handle); }
};

template <typename T>
struct Pinned {
  T *host = nullptr;
  explicit Pinned(size_t count) {
    CHECK(cudaHostAlloc(reinterpret_cast<void **>(&host), count * sizeof(T), 0) == cudaSuccess);
  }
  Pinned(const Pinned &) = delete;
  Pinned &operator=(const Pinned &) = delete;
  ~Pinned() { cudaFreeHost(host); }
};

cudaError_t launch_add(const Buffer<float> &x, float value, cudaStream_t stream) {
  emulator::launch("add_to", add_to, dim3(1), dim3(32), 0, stream, x.device, value, static_cast<int>(x.count));
  return cudaGetLastError();
}

cudaError_t to_device(const Buffer<float> &x, const float *source, cudaStream_t stream) {
  return cudaMemcpyAsync(x.device, source, x.count * sizeof(float), cudaMemcpyHostToDevice, stream);
}

cudaError_t to_host(float *target, const Buffer<float> &x, cudaStream_t stream) {
  return cudaMemcpyAsync(target, x.device, x.count * sizeof(float), cudaMemcpyDeviceToHost, stream);
}

}  // namespace

TEST(memory_is_nan_until_written_and_runs_out) {
  espalier_emulator_memory(1 << 20);
  {
    const Buffer<float> x(1000);
    for (float value : x.get()) CHECK(std::isnan(value));
    size_t free = 0, total = 0;
    CHECK(cudaMemGetInfo(&free, &total) == cudaSuccess);
    CHECK_EQUAL(1 << 20, total);
    CHECK_EQUAL((1 << 20) - 4096, free);
    void *more = nullptr;
    CHECK(cudaMalloc(&more, free + 1) == cudaErrorMemoryAllocation);
    CHECK(cudaGetLastError() == cudaErrorMemoryAllocation);
    CHECK(cudaGetLastError() == cudaSuccess);
    CHECK(cudaMalloc(&more, free) == cudaSuccess);
    CHECK_EQUAL(2, espalier_emulator_live("memory"));
    CHECK(cudaFree(more) == cudaSuccess);
    CHECK(cudaFree(more) == cudaErrorInvalidValue);
    CHECK(cudaFree(nullptr) == cudaSuccess);
  }
  CHECK_EQUAL(0, espalier_emulator_live("bytes"));
}

TEST(work_waits_until_something_waits_for_it) {
  const Stream stream;
  const Buffer<float> x(4);
  const Pinned<float> in(4), out(4);
  for (int i = 0; i < 4; i++) in.host[i] = 1;
  CHECK(to_device(x, in.host, stream.handle) == cudaSuccess);
  CHECK(launch_add(x, 2, stream.handle) == cudaSuccess);
  CHECK(to_host(out.host, x, stream.handle) == cudaSuccess);
  CHECK(std::isnan(out.host[0])); /* not there yet */
  in.host[0] = 10;                /* too early: the copy has not been made */
  CHECK(cudaStreamSynchronize(stream.handle) == cudaSuccess);
  CHECK_EQUAL(12, out.host[0]);
  CHECK_EQUAL(3, out.host[1]);
}

TEST(pageable_memory_is_staged_and_waited_for) {
  const Stream stream;
  const Buffer<float> x(2);
  float in[2] = {1, 2}, out[2] = {0, 0};
  CHECK(to_device(x, in, stream.handle) == cudaSuccess);
  in[0] = 100;
  CHECK(to_host(out, x, stream.handle) == cudaSuccess);
  CHECK_EQUAL(1, out[0]);
}

TEST(eager_streams_do_their_work_at_once) {
  espalier_emulator_defer(0);
  const Stream stream;
  const Buffer<float> x(std::vector<float>{1});
  const Pinned<float> out(1);
  CHECK(launch_add(x, 2, stream.handle) == cudaSuccess);
  CHECK(to_host(out.host, x, stream.handle) == cudaSuccess);
  CHECK_EQUAL(3, out.host[0]);
}

TEST(the_legacy_stream_waits_for_streams_that_block_alone) {
  const Stream blocking(cudaStreamDefault), other;
  const Buffer<float> x(std::vector<float>{0}), y(std::vector<float>{0});
  CHECK(launch_add(x, 1, blocking.handle) == cudaSuccess);
  CHECK(launch_add(y, 1, other.handle) == cudaSuccess);
  CHECK_EQUAL(1, x.get()[0]);
  CHECK_EQUAL(0, y.get()[0]); /* a race on a GPU */
  CHECK(cudaStreamSynchronize(other.handle) == cudaSuccess);
  CHECK_EQUAL(1, y.get()[0]);
}

TEST(events_order_streams) {
  const Stream first, second;
  const Buffer<float> x(std::vector<float>{0});
  const Pinned<float> out(1);
  cudaEvent_t ready = nullptr, end = nullptr;
  CHECK(cudaEventCreate(&ready) == cudaSuccess);
  CHECK(cudaEventCreate(&end) == cudaSuccess);
  float milliseconds = -1;
  CHECK(cudaEventElapsedTime(&milliseconds, ready, end) == cudaErrorInvalidResourceHandle);
  CHECK(cudaGetLastError() == cudaErrorInvalidResourceHandle); /* or the launch would look like a failure */
  CHECK(launch_add(x, 5, first.handle) == cudaSuccess);
  CHECK(cudaEventRecord(ready, first.handle) == cudaSuccess);
  CHECK(cudaStreamWaitEvent(second.handle, ready, 0) == cudaSuccess);
  CHECK(to_host(out.host, x, second.handle) == cudaSuccess);
  CHECK(cudaEventRecord(end, second.handle) == cudaSuccess);
  CHECK(cudaEventElapsedTime(&milliseconds, ready, end) == cudaErrorNotReady);
  CHECK(cudaEventSynchronize(end) == cudaSuccess);
  CHECK_EQUAL(5, out.host[0]);
  CHECK(cudaEventElapsedTime(&milliseconds, ready, end) == cudaSuccess);
  CHECK(milliseconds >= 0);
  CHECK(cudaEventDestroy(ready) == cudaSuccess);
  CHECK(cudaEventDestroy(ready) == cudaErrorInvalidResourceHandle);
  CHECK(cudaEventDestroy(end) == cudaSuccess);
}

TEST(a_graph_replays_what_was_captured) {
  const Stream stream;
  const Buffer<float> x(std::vector<float>{1, 1});
  const Pinned<float> out(2);
  CHECK(cudaStreamBeginCapture(stream.handle, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
  float value = 3;
  CHECK(launch_add(x, value, stream.handle) == cudaSuccess);
  value = 100; /* the graph keeps what was passed */
  CHECK(cudaMemsetAsync(x.device + 1, 0, 4, stream.handle) == cudaSuccess);
  CHECK(to_host(out.host, x, stream.handle) == cudaSuccess);
  cudaGraph_t graph = nullptr;
  CHECK(cudaStreamEndCapture(stream.handle, &graph) == cudaSuccess);
  CHECK(cudaStreamSynchronize(stream.handle) == cudaSuccess);
  CHECK_EQUAL(1, x.get()[0]); /* captured, not run */
  cudaGraphExec_t exec = nullptr;
  CHECK(cudaGraphInstantiate(&exec, graph, 0) == cudaSuccess);
  CHECK(cudaGraphDestroy(graph) == cudaSuccess);
  for (int replay = 1; replay <= 3; replay++) {
    CHECK(cudaGraphLaunch(exec, stream.handle) == cudaSuccess);
    CHECK(cudaStreamSynchronize(stream.handle) == cudaSuccess);
    CHECK_EQUAL(1 + 3 * replay, out.host[0]);
    CHECK_EQUAL(0, out.host[1]);
  }
  CHECK_EQUAL(3, espalier_emulator_calls("kernel"));
  CHECK_EQUAL(1, espalier_emulator_calls("cudaLaunchKernel"));
  CHECK(cudaGraphExecDestroy(exec) == cudaSuccess);
  CHECK(cudaGraphLaunch(exec, stream.handle) == cudaErrorInvalidValue);
}

TEST(a_capture_takes_in_streams_that_wait_for_it_and_must_wait_for_them) {
  const Stream stream, side;
  const Buffer<float> x(std::vector<float>{0}), y(std::vector<float>{0});
  const Pinned<float> out(1);
  cudaEvent_t forked = nullptr, done = nullptr;
  CHECK(cudaEventCreate(&forked) == cudaSuccess);
  CHECK(cudaEventCreate(&done) == cudaSuccess);
  for (const bool joins : {true, false}) {
    CHECK(cudaStreamBeginCapture(stream.handle, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
    CHECK(launch_add(x, 1, stream.handle) == cudaSuccess);
    CHECK(cudaEventRecord(forked, stream.handle) == cudaSuccess);
    CHECK(cudaStreamWaitEvent(side.handle, forked, 0) == cudaSuccess);
    CHECK(launch_add(y, 2, side.handle) == cudaSuccess);
    CHECK(launch_add(x, 1, stream.handle) == cudaSuccess);
    CHECK(cudaEventRecord(done, side.handle) == cudaSuccess);
    cudaGraph_t graph = nullptr;
    CHECK(cudaStreamEndCapture(side.handle, &graph) == cudaErrorStreamCaptureUnmatched);
    CHECK(cudaGetLastError() == cudaErrorStreamCaptureUnmatched);
    if (joins) CHECK(cudaStreamWaitEvent(stream.handle, done, 0) == cudaSuccess);
    CHECK(to_host(out.host, y, stream.handle) == cudaSuccess);
    if (!joins) {
      CHECK(cudaStreamEndCapture(stream.handle, &graph) == cudaErrorStreamCaptureUnjoined);
      CHECK(cudaGetLastError() == cudaErrorStreamCaptureUnjoined);
      continue;
    }
    CHECK(cudaStreamEndCapture(stream.handle, &graph) == cudaSuccess);
    CHECK(cudaStreamSynchronize(side.handle) == cudaSuccess); /* captures no longer */
    CHECK_EQUAL(0, y.get()[0]);
    cudaGraphExec_t exec = nullptr;
    CHECK(cudaGraphInstantiate(&exec, graph, 0) == cudaSuccess);
    CHECK(cudaGraphDestroy(graph) == cudaSuccess);
    CHECK(cudaGraphLaunch(exec, stream.handle) == cudaSuccess);
    CHECK(cudaStreamSynchronize(stream.handle) == cudaSuccess);
    CHECK_EQUAL(2, out.host[0]);
    CHECK_EQUAL(2, x.get()[0]);
    CHECK(cudaGraphExecDestroy(exec) == cudaSuccess);
  }
  CHECK(cudaStreamWaitEvent(side.handle, done, 0) == cudaErrorStreamCaptureIsolation); /* of a capture that has ended */
  CHECK(cudaEventDestroy(forked) == cudaSuccess);
  CHECK(cudaEventDestroy(done) == cudaSuccess);
}

namespace {

/* What a call returns during capture; the capture must be lost for good then. */
template <typename Call>
void check_refused(unsigned flags, cudaError_t expected, Call forbidden) {
  const Stream stream(flags);
  const Buffer<float> x(std::vector<float>{0});
  CHECK(cudaStreamBeginCapture(stream.handle, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
  CHECK(launch_add(x, 1, stream.handle) == cudaSuccess);
  CHECK_EQUAL(expected, forbidden(stream.handle));
  CHECK_EQUAL(cudaErrorStreamCaptureInvalidated, launch_add(x, 1, stream.handle));
  cudaGraph_t graph = reinterpret_cast<cudaGraph_t>(1);
  CHECK(cudaStreamEndCapture(stream.handle, &graph) == cudaErrorStreamCaptureInvalidated);
  CHECK(graph == nullptr);
  CHECK(cudaGetLastError() == cudaErrorStreamCaptureInvalidated);
  CHECK(launch_add(x, 1, stream.handle) == cudaSuccess); /* usable again */
  CHECK(cudaStreamSynchronize(stream.handle) == cudaSuccess);
  CHECK_EQUAL(1, x.get()[0]); /* and nothing that was captured has run */
}

}  // namespace

TEST(what_cuda_refuses_during_capture_is_refused) {
  const Buffer<float> x(std::vector<float>{0});
  const auto unsupported = cudaErrorStreamCaptureUnsupported;
  check_refused(cudaStreamNonBlocking, unsupported, [](cudaStream_t s) { return cudaStreamSynchronize(s); });
  check_refused(cudaStreamNonBlocking, unsupported, [](cudaStream_t) { return cudaDeviceSynchronize(); });
  check_refused(cudaStreamNonBlocking, unsupported, [](cudaStream_t) {
    void *memory = nullptr;
    return cudaMalloc(&memory, 16);
  });
  check_refused(cudaStreamNonBlocking, unsupported, [](cudaStream_t) {
    void *memory = nullptr;
    return cudaHostAlloc(&memory, 16, 0);
  });
  check_refused(cudaStreamNonBlocking, unsupported, [&](cudaStream_t) { return cudaFree(x.device); });
  check_refused(cudaStreamNonBlocking, unsupported, [&](cudaStream_t s) {
    const float pageable = 1;
    return to_device(x, &pageable, s);
  });
  check_refused(cudaStreamNonBlocking, unsupported, [&](cudaStream_t) {
    const float value = 1;
    return cudaMemcpy(x.device, &value, 4, cudaMemcpyHostToDevice);
  });
  check_refused(cudaStreamDefault, cudaErrorStreamCaptureImplicit,
                [&](cudaStream_t) { return launch_add(x, 1, nullptr); });
}

TEST(capture_begins_and_ends_on_one_thread_and_never_on_the_legacy_stream) {
  CHECK(cudaStreamBeginCapture(nullptr, cudaStreamCaptureModeGlobal) == cudaErrorStreamCaptureUnsupported);
  const Stream stream;
  cudaGraph_t graph = nullptr;
  CHECK(cudaStreamEndCapture(stream.handle, &graph) == cudaErrorIllegalState);
  CHECK(cudaStreamBeginCapture(stream.handle, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
  CHECK(cudaStreamBeginCapture(stream.handle, cudaStreamCaptureModeThreadLocal) == cudaErrorIllegalState);
  std::thread([&] {
    CHECK(cudaStreamEndCapture(stream.handle, &graph) == cudaErrorStreamCaptureWrongThread);
    void *memory = nullptr; /* another thread may allocate meanwhile */
    CHECK(cudaMalloc(&memory, 16) == cudaSuccess);
    CHECK(cudaFree(memory) == cudaSuccess);
  }).join();
  CHECK(cudaStreamEndCapture(stream.handle, &graph) == cudaSuccess);
  CHECK(cudaGraphDestroy(graph) == cudaSuccess);
}

TEST(copies_check_what_pointers_are) {
  const Buffer<float> x(4);
  float host[8] = {};
  CHECK(cudaMemcpy(host, x.device, 16, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
  CHECK(cudaMemcpy(x.device, host, 16, cudaMemcpyDeviceToHost) == cudaErrorInvalidValue);
  CHECK(cudaMemcpy(x.device, host, 20, cudaMemcpyHostToDevice) == cudaErrorInvalidValue); /* too long */
  CHECK(cudaMemcpy(x.device, host, 16, cudaMemcpyDefault) == cudaSuccess);
  CHECK(cudaMemsetAsync(host, 0, 4, nullptr) == cudaErrorInvalidValue);
}

TEST(a_kernel_on_memory_of_the_host_fails) {
  float host[32] = {};
  emulator::launch("add_to", add_to, dim3(1), dim3(32), 0, nullptr, host, 1.0f, 32);
  CHECK(cudaGetLastError() == cudaSuccess); /* found when it runs */
  CHECK(cudaDeviceSynchronize() == cudaErrorIllegalAddress);
  CHECK_EQUAL(0, host[0]);
}

TEST(a_dead_context_lets_go_of_what_it_had) {
  Buffer<float> *x = new Buffer<float>(4);
  Stream *stream = new Stream;
  espalier_emulator_fail("cudaDeviceSynchronize", 1, cudaErrorLaunchFailure);
  CHECK(cudaDeviceSynchronize() == cudaErrorLaunchFailure);
  CHECK(cudaFree(x->device) == cudaErrorLaunchFailure);
  x->device = nullptr;
  delete x;
  delete stream;
  CHECK_EQUAL(0, espalier_emulator_live("memory"));
  CHECK_EQUAL(0, espalier_emulator_live("stream"));
}

TEST(an_error_of_the_context_stays) {
  const Buffer<float> x(std::vector<float>{0});
  espalier_emulator_fail("kernel", 2, cudaErrorLaunchFailure);
  CHECK(launch_add(x, 1, nullptr) == cudaSuccess);
  CHECK(launch_add(x, 1, nullptr) == cudaSuccess);
  CHECK(launch_add(x, 1, nullptr) == cudaSuccess);
  CHECK(cudaDeviceSynchronize() == cudaErrorLaunchFailure);
  CHECK_EQUAL(1 + 1, espalier_emulator_calls("kernel")); /* the third never ran */
  void *memory = nullptr;
  CHECK(cudaMalloc(&memory, 16) == cudaErrorLaunchFailure);
  CHECK(cudaGetLastError() == cudaErrorLaunchFailure);
  CHECK(cudaGetLastError() == cudaErrorLaunchFailure);
  CHECK(launch_add(x, 1, nullptr) == cudaErrorLaunchFailure);
  espalier_emulator_reset();
  CHECK_EQUAL(1, x.get()[0]);
}

TEST(the_nth_call_fails_as_asked) {
  espalier_emulator_fail("cudaMalloc", 3, cudaErrorMemoryAllocation);
  void *memory[3] = {};
  CHECK(cudaMalloc(&memory[0], 16) == cudaSuccess);
  CHECK(cudaMalloc(&memory[1], 16) == cudaSuccess);
  CHECK(cudaMalloc(&memory[2], 16) == cudaErrorMemoryAllocation);
  CHECK(cudaMalloc(&memory[2], 16) == cudaSuccess);
  CHECK_EQUAL(4, espalier_emulator_calls("cudaMalloc"));
  for (void *each : memory) CHECK(cudaFree(each) == cudaSuccess);
  espalier_emulator_fail("*", 1, cudaErrorECCUncorrectable);
  CHECK(cudaDeviceSynchronize() == cudaErrorECCUncorrectable);
  CHECK(cudaDeviceSynchronize() == cudaErrorECCUncorrectable);
}

TEST(launches_that_no_gpu_takes_are_refused) {
  const Buffer<float> x(4);
  const auto launch = [&](dim3 grid, dim3 block, size_t bytes) {
    emulator::launch("add_to", add_to, grid, block, bytes, nullptr, x.device, 1.0f, 4);
    return cudaGetLastError();
  };
  CHECK(launch(dim3(1), dim3(1025), 0) == cudaErrorInvalidConfiguration);
  CHECK(launch(dim3(1, 65536), dim3(32), 0) == cudaErrorInvalidConfiguration);
  CHECK(launch(dim3(0), dim3(32), 0) == cudaErrorInvalidConfiguration);
  CHECK(launch(dim3(1), dim3(32), (227 << 10) + 1) == cudaErrorInvalidValue);
  CHECK(launch(dim3(1), dim3(32), 227 << 10) == cudaSuccess);
  CHECK(ESP_LAUNCH(add_to, int64_t{1} << 40, 32, x.device, 1.0f, 4) != ESP_OK);
}

#ifndef __SANITIZE_ADDRESS__ /* which ends the process instead */
namespace {

__global__ void write_behind(float *x, int n, float value) {
  if (threadIdx.x == 0) x[n] = value;
}

void launch_write_behind(void *memory, float value) {
  emulator::launch("write_behind", write_behind, dim3(1), dim3(32), 0, nullptr, static_cast<float *>(memory), 10,
                   value);
}

}  // namespace

TEST(a_write_outside_an_allocation_is_found) {
  void *memory = nullptr;
  CHECK(cudaMalloc(&memory, 40) == cudaSuccess);
  launch_write_behind(memory, 1);
  CHECK(cudaDeviceSynchronize() == cudaErrorIllegalAddress);
  espalier_emulator_reset();
  launch_write_behind(memory, __uint_as_float(0xffffffffu)); /* mended */
  CHECK(cudaFree(memory) == cudaSuccess);
}
#endif
