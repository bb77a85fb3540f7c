/* The CUDA library itself: version, errors, the stream that kernels go to. */
#include <cstdarg>
#include <cstdio>
#include <map>
#include <mutex>

#include "device.cuh"

namespace esp {
namespace {

thread_local char last_error[512] = "";
cudaStream_t current = nullptr; /* CUDA's default stream, until a device says otherwise */

}  // namespace

int32_t fail(int32_t status, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(last_error, sizeof last_error, format, arguments);
  va_end(arguments);
  return status;
}

cudaStream_t stream() { return current; }

#ifdef __CUDACC__
void allow_shared(const void *kernel, size_t bytes) {
  static std::mutex lock;
  static std::map<const void *, size_t> allowed; /* a process uses one GPU */
  const std::lock_guard<std::mutex> guard(lock);
  size_t &most = allowed[kernel];
  if (bytes <= most) return;
  if (cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)) ==
      cudaSuccess) {
    most = bytes;
  }
}
#endif

int32_t launched(const char *kernel) {
  const cudaError_t error = cudaGetLastError();
  if (error == cudaSuccess) return ESP_OK;
  return fail(ESP_DEVICE_ERROR, "%s cannot be launched: %s", kernel, cudaGetErrorString(error));
}

}  // namespace esp

int32_t esp_abi_version(void) { return ESP_ABI_VERSION; }

int32_t esp_library_backend(void) { return ESP_CUDA; }

int32_t esp_has_products(int32_t dtype) { return dtype == ESP_F32 || dtype == ESP_BF16 ? 2 : 0; }

int32_t esp_set_stream(void *stream) {
  esp::current = static_cast<cudaStream_t>(stream);
  return ESP_OK;
}

/* Does nothing: kernels of this library do not use threads of the host. */
int32_t esp_set_threads(int32_t threads) {
  ESP_REQUIRE(threads >= 0 && threads <= 1024, "threads must be 0 (all) to 1024, got %d", threads);
  return ESP_OK;
}

int32_t esp_threads(void) { return 1; }

int32_t esp_transfer(void *target, const void *source, int64_t bytes) {
  ESP_REQUIRE(bytes >= 0, "bytes must not be negative, got %ld", bytes);
  cudaError_t error = cudaMemcpyAsync(target, source, static_cast<size_t>(bytes), cudaMemcpyDefault, esp::current);
  if (error == cudaSuccess) error = cudaStreamSynchronize(esp::current);
  if (error == cudaSuccess) return ESP_OK;
  return esp::fail(ESP_DEVICE_ERROR, "copying %ld bytes: %s", bytes, cudaGetErrorString(error));
}

const char *esp_last_error(void) { return esp::last_error; }
