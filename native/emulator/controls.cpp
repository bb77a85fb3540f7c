/* Controls that concern more than one file of the runtime. */
#include "controls.h"

#include <string>

#include "runtime.h"

namespace emulator {
int64_t live_memory(Memory kind);
int64_t live_bytes();
int64_t live_handles(const std::string &kind);
int64_t live_cublas();
void forget_errors();
void forget_work();
}  // namespace emulator

void espalier_emulator_reset() {
  const std::lock_guard<std::recursive_mutex> guard(emulator::lock());
  emulator::forget_errors();
  emulator::forget_work();
}

int64_t espalier_emulator_live(const char *kind) {
  const std::lock_guard<std::recursive_mutex> guard(emulator::lock());
  const std::string name = kind;
  if (name == "memory") return emulator::live_memory(emulator::Memory::kDevice);
  if (name == "pinned") return emulator::live_memory(emulator::Memory::kPinned);
  if (name == "bytes") return emulator::live_bytes();
  if (name == "cublas") return emulator::live_cublas();
  return emulator::live_handles(name);
}
