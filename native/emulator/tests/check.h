/* A check that counts, and a list of tests: what the emulator's own tests need of a framework. */
#ifndef ESPALIER_EMULATOR_TESTS_CHECK_H
#define ESPALIER_EMULATOR_TESTS_CHECK_H

#include <cstdio>
#include <string>
#include <vector>

#include "controls.h"
#include "device.cuh"

namespace tests {

struct Test {
  const char *name;
  void (*run)();
};

inline std::vector<Test> &all() {
  static std::vector<Test> list;
  return list;
}

inline int failures = 0;

struct Registration {
  Registration(const char *name, void (*run)()) { all().push_back({name, run}); }
};

#define TEST(name)                                                 \
  static void name();                                              \
  static const tests::Registration name##_registered(#name, name); \
  static void name()

#define CHECK(condition)                                                  \
  do {                                                                    \
    if (!(condition)) {                                                   \
      std::printf("%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
      tests::failures++;                                                  \
    }                                                                     \
  } while (false)

#define CHECK_EQUAL(expected, actual)                                                                      \
  do {                                                                                                     \
    const auto expected_value = static_cast<double>(expected), actual_value = static_cast<double>(actual); \
    if (!(expected_value == actual_value)) {                                                               \
      std::printf("%s:%d: %s is %g, not %g\n", __FILE__, __LINE__, #actual, actual_value, expected_value); \
      tests::failures++;                                                                                   \
    }                                                                                                      \
  } while (false)

/* Memory of the device, and its copy on the host. */
template <typename T>
struct Buffer {
  T *device = nullptr;
  size_t count;

  explicit Buffer(size_t n) : count(n) {
    CHECK(cudaMalloc(reinterpret_cast<void **>(&device), n * sizeof(T)) == cudaSuccess);
  }
  explicit Buffer(const std::vector<T> &values) : Buffer(values.size()) { set(values); }
  Buffer(const Buffer &) = delete;
  Buffer &operator=(const Buffer &) = delete;
  ~Buffer() { cudaFree(device); }

  void set(const std::vector<T> &values) {
    CHECK(cudaMemcpy(device, values.data(), count * sizeof(T), cudaMemcpyHostToDevice) == cudaSuccess);
  }
  std::vector<T> get() const {
    std::vector<T> values(count);
    CHECK(cudaMemcpy(values.data(), device, count * sizeof(T), cudaMemcpyDeviceToHost) == cudaSuccess);
    return values;
  }
};

/* Whether the launch that was just queued ended with a message that contains `text`; the error is forgotten. */
inline bool failed_with(const char *text) {
  const bool failed = cudaDeviceSynchronize() == cudaErrorLaunchFailure;
  const std::string message = espalier_emulator_fault();
  espalier_emulator_reset();
  if (failed && message.find(text) != std::string::npos) return true;
  std::printf("the message is \"%s\", without \"%s\"\n", message.c_str(), text);
  return false;
}

constexpr int kSchedules = 6;

}  // namespace tests

#endif
