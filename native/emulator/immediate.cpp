/*
 * For a library that has the families of cuda/ in place of those of cpu/, on the memory of the host: a launch is done
 * when it returns, as on the CPU, and what a kernel did wrong is its error.
 */
#include "controls.h"
#include "device.cuh"

namespace esp {

cudaStream_t stream() {
  espalier_emulator_host_memory(1);
  return nullptr;
}

int32_t launched(const char *kernel) {
  cudaError_t error = cudaGetLastError();
  if (error == cudaSuccess) error = cudaDeviceSynchronize();
  if (error == cudaSuccess) return ESP_OK;
  const int32_t status =
      fail(ESP_DEVICE_ERROR, "%s: %s: %s", kernel, cudaGetErrorString(error), espalier_emulator_fault());
  espalier_emulator_reset();
  return status;
}

}  // namespace esp
