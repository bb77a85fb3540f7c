/* The library itself: version, errors, threads. */
#include <cstdarg>
#include <cstdio>
#include <cstring>

#include "kernel.h"

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

}  // namespace esp

int32_t esp_abi_version(void) { return ESP_ABI_VERSION; }

int32_t esp_library_backend(void) { return ESP_CPU; }

int32_t esp_set_stream(void *stream) {
  ESP_REQUIRE(stream == nullptr, "the CPU has no streams");
  return ESP_OK;
}

int32_t esp_prepare_graph(void *) { return esp::fail(ESP_INVALID_ARGUMENT, "the CPU has no graphs"); }

int32_t esp_transfer(void *target, const void *source, int64_t bytes) {
  ESP_REQUIRE(bytes >= 0, "bytes must not be negative, got %ld", bytes);
  std::memcpy(target, source, static_cast<size_t>(bytes));
  return ESP_OK;
}

const char *esp_last_error(void) { return esp::last_error; }

int32_t esp_set_threads(int32_t threads) {
  ESP_REQUIRE(threads >= 0 && threads <= esp::kMostThreads, "threads must be 0 (the usual) to %d, got %d",
              esp::kMostThreads, threads);
  esp::set_threads(threads);
  return ESP_OK;
}

int32_t esp_threads(void) { return esp::threads(); }
