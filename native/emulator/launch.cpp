/* Launches, and the properties of the stand-in device. */
#include "controls.h"
#include "runtime.h"

namespace emulator {
namespace {

bool host_memory_allowed = false;

cudaError_t run_kernel(const Launch &launch, const std::vector<const void *> &pointers) {
  const auto asked = static_cast<cudaError_t>(injected("kernel"));
  if (asked != cudaSuccess) {
    set_fault_message(std::string(launch.kernel) + ": a test asked for error " + std::to_string(asked));
    return asked;
  }
  for (size_t i = 0; i < pointers.size(); i++) {
    if (host_memory_allowed || pointers[i] == nullptr || memory_of(pointers[i]) != Memory::kHost) continue;
    set_fault_message(std::string(launch.kernel) + ": its pointer " + std::to_string(i) +
                      " (of those among its arguments) is not memory of the device");
    return cudaErrorIllegalAddress;
  }
  if (run(launch)) return cudaSuccess;
  set_fault_message(fault_message());
  return cudaErrorLaunchFailure;
}

}  // namespace

cudaError_t launch(const Launch &launch, const std::vector<const void *> &pointers, cudaStream_t stream) {
  return call("cudaLaunchKernel", [&] {
    if (const cudaError_t error = static_cast<cudaError_t>(is_launchable(launch))) return error;
    return enqueue(stream, [=] { return run_kernel(launch, pointers); });
  });
}

}  // namespace emulator

using emulator::call;

cudaError_t cudaGetDeviceCount(int *count) {
  return call("cudaGetDeviceCount", [&] {
    if (count == nullptr) return cudaErrorInvalidValue;
    *count = 1;
    return cudaSuccess;
  });
}

cudaError_t cudaGetDevice(int *device) {
  return call("cudaGetDevice", [&] {
    if (device == nullptr) return cudaErrorInvalidValue;
    *device = 0;
    return cudaSuccess;
  });
}

cudaError_t cudaSetDevice(int device) {
  return call("cudaSetDevice", [&] { return device == 0 ? cudaSuccess : cudaErrorInvalidDevice; });
}

/* Hopper's values, but with few multiprocessors, so that grids that fill the device stay small. */
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device) {
  return call("cudaDeviceGetAttribute", [&] {
    if (value == nullptr) return cudaErrorInvalidValue;
    if (device != 0) return cudaErrorInvalidDevice;
    switch (attribute) {
      case cudaDevAttrComputeCapabilityMajor:
        *value = 9;
        return cudaSuccess;
      case cudaDevAttrComputeCapabilityMinor:
        *value = 0;
        return cudaSuccess;
      case cudaDevAttrMultiProcessorCount:
        *value = 4;
        return cudaSuccess;
      case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = 227 << 10;
        return cudaSuccess;
    }
    return cudaErrorInvalidValue;
  });
}

cudaError_t cudaRuntimeGetVersion(int *version) {
  return call("cudaRuntimeGetVersion", [&] {
    if (version == nullptr) return cudaErrorInvalidValue;
    *version = 13000;
    return cudaSuccess;
  });
}

void espalier_emulator_host_memory(int32_t allowed) {
  const std::lock_guard<std::recursive_mutex> guard(emulator::lock());
  emulator::host_memory_allowed = allowed != 0;
}
