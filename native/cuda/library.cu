/* The CUDA library itself: version, errors, the stream that kernels go to. */
#include <cstdarg>
#include <cstdio>

#include "device.cuh"

namespace esp {
namespace {

thread_local char last_error[512] = "";

}  // namespace

int32_t fail(int32_t status, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(last_error, sizeof last_error, format, arguments);
  va_end(arguments);
  return status;
}

/* CUDA's default stream, until a device says otherwise. */
cudaStream_t stream() { return nullptr; }

int32_t launched(const char *kernel) {
  const cudaError_t error = cudaGetLastError();
  if (error == cudaSuccess) return ESP_OK;
  return fail(ESP_NOT_READY, "%s cannot be launched: %s", kernel, cudaGetErrorString(error));
}

}  // namespace esp

int32_t esp_abi_version(void) { return ESP_ABI_VERSION; }

const char *esp_last_error(void) { return esp::last_error; }
