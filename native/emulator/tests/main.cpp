/* Runs the emulator's own tests, each under a fresh state; exits with 1 if a check failed or something was left over.
 */
#include "check.h"

namespace esp {

int32_t fail(int32_t status, const char *, ...) { return status; }

cudaStream_t stream() { return nullptr; }

int32_t launched(const char *) { return cudaGetLastError() == cudaSuccess ? ESP_OK : ESP_INVALID_ARGUMENT; }

}  // namespace esp

const char *esp_last_error(void) {
  static thread_local char text[8] = "kept";
  return text;
}

int main() {
  for (const tests::Test &test : tests::all()) {
    espalier_emulator_reset();
    espalier_emulator_schedule(0);
    espalier_emulator_defer(1);
    espalier_emulator_memory(int64_t{64} << 20);
    const int before = tests::failures;
    test.run();
    espalier_emulator_reset();
    for (const char *kind : {"memory", "pinned", "stream", "event", "graph", "exec", "cublas", "bytes"}) {
      if (espalier_emulator_live(kind) == 0) continue;
      std::printf("%lld left over: %s\n", static_cast<long long>(espalier_emulator_live(kind)), kind);
      tests::failures++;
    }
    std::printf("%s %s\n", tests::failures == before ? "ok    " : "FAILED", test.name);
  }
  std::printf("%zu tests, %d failures\n", tests::all().size(), tests::failures);
  return tests::failures == 0 && std::string(esp_last_error()) == "kept" ? 0 : 1;
}
