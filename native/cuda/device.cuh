/*
 * What every CUDA kernel of the library uses: launches, errors, sums over warps and blocks. Internal. It compiles with
 * nvcc, and for the emulator with a C++ compiler.
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

/* The grid in CUDA's type. One that is too large remains too large, and CUDA refuses it. */
inline dim3 grid_of(int64_t blocks) { return dim3(blocks < 0xffffffff ? static_cast<unsigned>(blocks) : 0xffffffffu); }
inline dim3 grid_of(dim3 blocks) { return blocks; }
inline bool is_empty(int64_t blocks) { return blocks == 0; }
inline bool is_empty(dim3 blocks) { return blocks.x == 0 || blocks.y == 0 || blocks.z == 0; }

/* Runs kernel(args...) on `grid` blocks (a number, or a dim3) of `block` threads. Returns ESP_OK, or why it could not
 * be launched. With an empty grid it does nothing. A kernel with template arguments must be in parentheses. */
#define ESP_LAUNCH(kernel, grid, block, ...) ESP_LAUNCH_SHARED(kernel, grid, block, 0, __VA_ARGS__)

/* The same with `bytes` of dynamic shared memory. The kernel declares it by ESP_DYNAMIC_SHARED(type, name): `name` then
 * points to it, aligned to 16 bytes. */
#define ESP_LAUNCH_SHARED(kernel, grid, block, bytes, ...) \
  (esp::is_empty(grid) ? ESP_OK : esp::launch(#kernel, kernel, esp::grid_of(grid), (block), (bytes), __VA_ARGS__))

#ifdef __CUDACC__
#define ESP_DYNAMIC_SHARED(type, name)                          \
  extern __shared__ __align__(16) uint8_t esp_dynamic_shared[]; \
  type *name = reinterpret_cast<type *>(esp_dynamic_shared)
#else
#define ESP_DYNAMIC_SHARED(type, name) type *name = static_cast<type *>(emulator::dynamic_shared())
#endif

/* The stream that kernels go to. */
cudaStream_t stream();
/* ESP_OK, or the error that `kernel` could not be launched. */
int32_t launched(const char *kernel);
/* Lets a kernel have more dynamic shared memory than the 48 KB that CUDA gives by default; launched() finds an error of
 * this. CUDA is told only once for each kernel, because a step launches hundreds that need it. */
void allow_shared(const void *kernel, size_t bytes);

template <typename... Parameters, typename... Arguments>
int32_t launch(const char *name, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
               Arguments... arguments) {
#ifdef __CUDACC__
  if (shared_bytes > 48 << 10) allow_shared(reinterpret_cast<const void *>(kernel), shared_bytes);
  kernel<<<grid, block, shared_bytes, stream()>>>(arguments...);
#else
  emulator::launch(name, kernel, grid, block, shared_bytes, stream(), arguments...);
#endif
  return launched(name);
}

/* What the GPU has, asked once: its compute capability, how many bytes of shared memory a block may have, and how many
 * multiprocessors there are. The emulator is a Hopper with so few multiprocessors that small shapes are treated like
 * large ones. */
struct Hardware {
  int capability; /* 90 for 9.0 */
  int64_t shared_bytes, multiprocessors;
};
inline Hardware hardware() {
#ifdef __CUDACC__
  static const Hardware found = [] {
    int device = 0, major = 0, minor = 0, bytes = 0, count = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
    return Hardware{10 * major + minor, bytes, count};
  }();
  return found;
#else
  return {emulator::capability(), 227 << 10, 4};
#endif
}

/* Whether this library has code that only Hopper can run, and the GPU is a Hopper: sm_90a's code runs nowhere else. */
inline bool has_hopper() {
#if defined(ESPALIER_HOPPER) || !defined(__CUDACC__)
  return hardware().capability == 90;
#else
  return false;
#endif
}

constexpr int kThreads = 256;
constexpr uint32_t kAllLanes = 0xffffffffu;

/* The blocks for one thread an element, but at most as many as keep every multiprocessor busy. Threads then take
 * several elements. */
inline int64_t blocks_for(int64_t elements) {
  const int64_t blocks = (elements + kThreads - 1) / kThreads;
  return blocks < 4096 ? blocks : 4096;
}

/* A thread's loop over [0, n), with the number of threads in the grid as the stride. */
#define ESP_FOR_EACH(i, n)                                                               \
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < (n); \
       i += static_cast<int64_t>(gridDim.x) * blockDim.x)

/* The sum of `value` over the warp, in every lane. It is added along a tree that is always the same. */
template <typename T>
__device__ inline T warp_sum(T value) {
  for (int lanes = 16; lanes > 0; lanes /= 2) value += __shfl_xor_sync(kAllLanes, value, lanes);
  return value;
}

/* The sum over a block of whole warps, in every thread. All threads must call it. */
__device__ inline double block_sum(double value) {
  __shared__ double warps[32];
  value = warp_sum(value);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
  __syncthreads();
  double sum = 0;
  for (unsigned i = 0; i < blockDim.x / 32; i++) sum += warps[i];
  __syncthreads(); /* the next sum may overwrite */
  return sum;
}

}  // namespace esp

#endif
