/*
 * What every CUDA kernel of the library uses: launches, errors, sums over warps and blocks. Internal. Compiles with
 * nvcc, and with a C++ compiler on the emulator.
 */
#ifndef ESPALIER_CUDA_DEVICE_CUH
#define ESPALIER_CUDA_DEVICE_CUH

#include <cstdint>

#include "espalier.h"

#ifdef __CUDACC__
#include <cuda_runtime.h>
#else
#include "cuda_emulator.h"
#endif

namespace esp {

/* Sets this thread's error message and returns `status`. */
[[gnu::format(printf, 2, 3)]] int32_t fail(int32_t status, const char *format, ...);

#define ESP_REQUIRE(condition, ...)                                        \
  do {                                                                     \
    if (!(condition)) return esp::fail(ESP_INVALID_ARGUMENT, __VA_ARGS__); \
  } while (false)

/* Runs kernel(args...) on `grid` blocks of `block` threads, and returns ESP_OK or why it could not be launched. An
 * empty grid is no launch. */
#ifdef __CUDACC__
cudaStream_t stream();
int32_t launched(const char *kernel);
#define ESP_LAUNCH(kernel, grid, block, ...) \
  ((grid) == 0                               \
       ? ESP_OK                              \
       : (kernel<<<static_cast<unsigned>(grid), (block), 0, esp::stream()>>>(__VA_ARGS__), esp::launched(#kernel)))
#else
#define ESP_LAUNCH(kernel, grid, block, ...)                                                                       \
  ((grid) == 0                                                                                                     \
       ? ESP_OK                                                                                                    \
       : (emulator::launch(#kernel, dim3(static_cast<unsigned>(grid)), dim3(block), [=] { kernel(__VA_ARGS__); }), \
          ESP_OK))
#endif

constexpr int kThreads = 256;
constexpr uint32_t kAllLanes = 0xffffffffu;

/* Blocks for one thread an element, at most as many as keep every multiprocessor busy: threads then take several. */
inline int64_t blocks_for(int64_t elements) {
  const int64_t blocks = (elements + kThreads - 1) / kThreads;
  return blocks < 4096 ? blocks : 4096;
}

/* The loop of a thread over [0, n), with the whole grid for a stride. */
#define ESP_FOR_EACH(i, n)                                                               \
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < (n); \
       i += static_cast<int64_t>(gridDim.x) * blockDim.x)

/* The sum of `value` over the warp, in every lane, by a tree that is the same every time. */
template <typename T>
__device__ inline T warp_sum(T value) {
  for (int lanes = 16; lanes > 0; lanes /= 2) value += __shfl_xor_sync(kAllLanes, value, lanes);
  return value;
}

/* The sum over a block of kThreads threads, in every thread. All threads must come. */
__device__ inline double block_sum(double value) {
  __shared__ double warps[kThreads / 32];
  value = warp_sum(value);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
  __syncthreads();
  double sum = 0;
  for (int i = 0; i < kThreads / 32; i++) sum += warps[i];
  __syncthreads(); /* the next sum may overwrite */
  return sum;
}

}  // namespace esp

#endif
