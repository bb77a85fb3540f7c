/* Errors of the stand-in runtime: that of each thread, the one that stays, and those that tests ask for. And counts of
 * calls. */
#include <cstdio>
#include <cstdlib>
#include <map>

#include "controls.h"
#include "runtime.h"

namespace emulator {
namespace {

struct Description {
  cudaError_t error;
  const char *name, *text;
};

/* In the words of CUDA 13. */
const Description kDescriptions[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration", "invalid configuration argument"},
    {cudaErrorInvalidMemcpyDirection, "cudaErrorInvalidMemcpyDirection", "invalid copy direction for memcpy"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorECCUncorrectable, "cudaErrorECCUncorrectable", "uncorrectable ECC error encountered"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorIllegalState, "cudaErrorIllegalState", "the operation cannot be performed in the present state"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress", "an illegal memory access was encountered"},
    {cudaErrorMisalignedAddress, "cudaErrorMisalignedAddress", "misaligned address"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported",
     "operation not permitted when stream is capturing"},
    {cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated",
     "operation failed due to a previous error during capture"},
    {cudaErrorStreamCaptureUnmatched, "cudaErrorStreamCaptureUnmatched",
     "the capture was not initiated in this stream"},
    {cudaErrorStreamCaptureUnjoined, "cudaErrorStreamCaptureUnjoined", "capturing stream has unjoined work"},
    {cudaErrorStreamCaptureIsolation, "cudaErrorStreamCaptureIsolation",
     "dependency created on uncaptured work in another stream"},
    {cudaErrorStreamCaptureImplicit, "cudaErrorStreamCaptureImplicit",
     "operation would make the legacy stream depend on a capturing blocking stream"},
    {cudaErrorCapturedEvent, "cudaErrorCapturedEvent",
     "operation not permitted on an event last recorded in a capturing stream"},
    {cudaErrorStreamCaptureWrongThread, "cudaErrorStreamCaptureWrongThread",
     "attempt to terminate a thread-local capture sequence from another thread"},
    {cudaErrorInvalidClusterSize, "cudaErrorInvalidClusterSize", "cluster misconfiguration"},
};

struct Fault {
  std::string function;
  int64_t calls_left;
  int status;
};

struct Errors {
  std::map<std::string, int64_t> calls;
  std::vector<Fault> faults;
  cudaError_t sticky = cudaSuccess;
  std::string message;

  Errors() {
    const char *asked = std::getenv("ESPALIER_EMULATOR_FAIL");
    std::string list = asked == nullptr ? "" : asked;
    while (!list.empty()) {
      const std::string entry = list.substr(0, list.find(','));
      list.erase(0, entry.size() + 1);
      char function[64];
      long long nth;
      int status;
      if (std::sscanf(entry.c_str(), "%63[^:]:%lld:%d", function, &nth, &status) != 3) {
        std::fprintf(stderr, "ESPALIER_EMULATOR_FAIL: \"%s\" is not FUNCTION:NTH:STATUS\n", entry.c_str());
        std::exit(2);
      }
      faults.push_back({function, nth, status});
    }
  }
};

Errors &errors() {
  static Errors instance;
  return instance;
}

thread_local cudaError_t last_error = cudaSuccess;

const Description *describe(cudaError_t error) {
  for (const Description &description : kDescriptions) {
    if (description.error == error) return &description;
  }
  return nullptr;
}

}  // namespace

std::recursive_mutex &lock() {
  static std::recursive_mutex mutex;
  return mutex;
}

int injected(const char *function) {
  const std::string name = function;
  errors().calls[name]++;
  int status = 0;
  for (size_t i = 0; i < errors().faults.size();) {
    Fault &fault = errors().faults[i];
    const bool any = fault.function == "*" && name.rfind("cuda", 0) == 0;
    if ((!any && fault.function != name) || --fault.calls_left > 0) {
      i++;
      continue;
    }
    status = fault.status;
    errors().faults.erase(errors().faults.begin() + static_cast<std::ptrdiff_t>(i));
  }
  return status;
}

bool is_sticky(int error) { return error == cudaErrorECCUncorrectable || (error >= 700 && error <= 720); }

cudaError_t sticky() { return errors().sticky; }

void set_sticky(cudaError_t error) {
  if (errors().sticky == cudaSuccess) errors().sticky = error;
}

void set_last_error(cudaError_t error) { last_error = error; }

void forget_errors() {
  errors().calls.clear();
  errors().faults.clear();
  errors().sticky = cudaSuccess;
  errors().message.clear();
  last_error = cudaSuccess;
}

void set_fault_message(const std::string &message) {
  errors().message = message;
  std::fprintf(stderr, "emulator: %s\n", message.c_str());
}

}  // namespace emulator

using emulator::errors;

cudaError_t cudaGetLastError() {
  const std::lock_guard<std::recursive_mutex> guard(emulator::lock());
  const cudaError_t error = emulator::sticky() != cudaSuccess ? emulator::sticky() : emulator::last_error;
  emulator::last_error = cudaSuccess;
  return error;
}

cudaError_t cudaPeekAtLastError() {
  const std::lock_guard<std::recursive_mutex> guard(emulator::lock());
  return emulator::sticky() != cudaSuccess ? emulator::sticky() : emulator::last_error;
}

const char *cudaGetErrorName(cudaError_t error) {
  const auto *description = emulator::describe(error);
  return description == nullptr ? "unrecognized error code" : description->name;
}

const char *cudaGetErrorString(cudaError_t error) {
  const auto *description = emulator::describe(error);
  return description == nullptr ? "unrecognized error code" : description->text;
}

void espalier_emulator_fail(const char *function, int64_t nth, int32_t status) {
  const std::lock_guard<std::recursive_mutex> guard(emulator::lock());
  errors().faults.push_back({function, nth, status});
}

int64_t espalier_emulator_calls(const char *function) {
  const std::lock_guard<std::recursive_mutex> guard(emulator::lock());
  const auto found = errors().calls.find(function);
  return found == errors().calls.end() ? 0 : found->second;
}

const char *espalier_emulator_fault() { return errors().message.c_str(); }
