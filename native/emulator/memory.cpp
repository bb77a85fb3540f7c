/*
 * Memory of the emulated device and pinned memory of the host. Both are ordinary memory of the process; device memory
 * lies in the range of arena.h if that was asked for. Memory is full of 0xFF (NaN) when it is handed out. The device
 * has as much memory as was configured, and no more. Before and after each allocation lie guards of the same bytes: a
 * read outside brings NaN into results, and a write outside is found at the next synchronisation. Under
 * AddressSanitizer its own red zones take their place.
 */
#include <cstdlib>
#include <cstring>
#include <map>

#include "arena.h"
#include "controls.h"
#include "runtime.h"
#include "sanitizer.h"

namespace emulator {
namespace {

constexpr size_t kAlignment = 256; /* as cudaMalloc promises */
constexpr size_t kGuard = sanitizer::kAddress ? 0 : 256;
constexpr unsigned char kPoison = 0xff;

struct Allocation {
  size_t bytes;
  Memory kind;
};

int64_t configured_memory() {
  const char *text = std::getenv("ESPALIER_EMULATOR_MEMORY");
  if (text == nullptr) return int64_t{4} << 30;
  char *unit = nullptr;
  const int64_t count = std::strtoll(text, &unit, 10);
  return count << (*unit == 'K' ? 10 : *unit == 'M' ? 20 : *unit == 'G' ? 30 : 0);
}

std::map<const char *, Allocation> allocations;
int64_t total = configured_memory(), used = 0;

size_t rounded(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

size_t guard_behind(size_t bytes) { return kGuard == 0 ? 0 : rounded(bytes) - bytes + kGuard; }

size_t with_guards(size_t bytes) { return kGuard + bytes + guard_behind(bytes); }

bool is_in_arena(Memory kind) { return kind == Memory::kDevice && is_closed_to_host(); }

void *take(size_t bytes, Memory kind) {
  void *memory = nullptr;
  if (is_in_arena(kind)) {
    memory = take_pages(with_guards(bytes));
  } else if (posix_memalign(&memory, kAlignment, with_guards(bytes)) != 0) {
    return nullptr;
  }
  if (memory == nullptr) return nullptr;
  const DeviceAccess access;
  std::memset(memory, kPoison, with_guards(bytes));
  char *begin = static_cast<char *>(memory) + kGuard;
  allocations[begin] = {bytes, kind};
  return begin;
}

bool is_poison(const char *begin, size_t bytes) {
  for (size_t i = 0; i < bytes; i++) {
    if (static_cast<unsigned char>(begin[i]) != kPoison) return false;
  }
  return true;
}

bool is_whole(const std::pair<const char *const, Allocation> &entry) {
  const size_t bytes = entry.second.bytes;
  return is_poison(entry.first - kGuard, kGuard) && is_poison(entry.first + bytes, guard_behind(bytes));
}

const std::pair<const char *const, Allocation> *find(const void *pointer) {
  auto after = allocations.upper_bound(static_cast<const char *>(pointer));
  if (after == allocations.begin()) return nullptr;
  const auto &entry = *--after;
  return static_cast<const char *>(pointer) <= entry.first + entry.second.bytes ? &entry : nullptr;
}

cudaError_t give_back(void *pointer, Memory kind) {
  if (pointer == nullptr) return cudaSuccess;
  if (const cudaError_t error = refuse_during_capture()) return error;
  const cudaError_t error = run_everything(); /* CUDA waits, too */
  const auto entry = allocations.find(static_cast<const char *>(pointer));
  if (entry == allocations.end() || entry->second.kind != kind) return cudaErrorInvalidValue;
  const size_t bytes = entry->second.bytes;
  if (kind == Memory::kDevice) used -= static_cast<int64_t>(rounded(bytes));
  allocations.erase(entry);
  void *memory = static_cast<char *>(pointer) - kGuard;
  if (is_in_arena(kind)) {
    give_pages_back(memory, with_guards(bytes));
  } else {
    std::free(memory);
  }
  return error;
}

/* Whether cudaMemcpyKind says correctly what the pointers are. */
bool is_direction(const void *target, const void *source, size_t bytes, cudaMemcpyKind kind) {
  if (bytes == 0) return true;
  const bool to_device = memory_of(target) == Memory::kDevice, from_device = memory_of(source) == Memory::kDevice;
  if (to_device && !is_device(target, bytes)) return false;
  if (from_device && !is_device(source, bytes)) return false;
  switch (kind) {
    case cudaMemcpyHostToHost:
      return !to_device && !from_device;
    case cudaMemcpyHostToDevice:
      return to_device && !from_device;
    case cudaMemcpyDeviceToHost:
      return !to_device && from_device;
    case cudaMemcpyDeviceToDevice:
      return to_device && from_device;
    default:
      return kind == cudaMemcpyDefault;
  }
}

}  // namespace

Memory memory_of(const void *pointer) {
  const auto *entry = find(pointer);
  return entry == nullptr ? Memory::kHost : entry->second.kind;
}

bool is_device(const void *pointer, size_t bytes) {
  const auto *entry = find(pointer);
  return entry != nullptr && entry->second.kind == Memory::kDevice &&
         static_cast<const char *>(pointer) + bytes <= entry->first + entry->second.bytes;
}

bool check_guards() {
  const DeviceAccess access;
  for (const auto &entry : allocations) {
    if (is_whole(entry)) continue;
    set_fault_message("something was written outside an allocation of " + std::to_string(entry.second.bytes) +
                      " bytes");
    return false;
  }
  return true;
}

int64_t live_memory(Memory kind) {
  int64_t count = 0;
  for (const auto &entry : allocations) count += entry.second.kind == kind ? 1 : 0;
  return count;
}

int64_t live_bytes() { return used; }

}  // namespace emulator

using emulator::call;
using emulator::call_release;
using emulator::Memory;

cudaError_t cudaMalloc(void **pointer, size_t bytes) {
  return call("cudaMalloc", [&] {
    if (pointer == nullptr) return cudaErrorInvalidValue;
    if (const cudaError_t error = emulator::refuse_during_capture()) return error;
    *pointer = nullptr;
    if (bytes == 0) return cudaSuccess;
    if (bytes > static_cast<size_t>(emulator::total) ||
        static_cast<int64_t>(emulator::rounded(bytes)) > emulator::total - emulator::used) {
      return cudaErrorMemoryAllocation;
    }
    *pointer = emulator::take(bytes, Memory::kDevice);
    if (*pointer == nullptr) return cudaErrorMemoryAllocation;
    emulator::used += static_cast<int64_t>(emulator::rounded(bytes));
    return cudaSuccess;
  });
}

cudaError_t cudaFree(void *pointer) {
  return call_release("cudaFree", [&] { return emulator::give_back(pointer, Memory::kDevice); });
}

cudaError_t cudaHostAlloc(void **pointer, size_t bytes, unsigned flags) {
  return call("cudaHostAlloc", [&] {
    if (pointer == nullptr || flags > 7) return cudaErrorInvalidValue;
    if (const cudaError_t error = emulator::refuse_during_capture()) return error;
    *pointer = bytes == 0 ? nullptr : emulator::take(bytes, Memory::kPinned);
    return bytes == 0 || *pointer != nullptr ? cudaSuccess : cudaErrorMemoryAllocation;
  });
}

cudaError_t cudaFreeHost(void *pointer) {
  return call_release("cudaFreeHost", [&] { return emulator::give_back(pointer, Memory::kPinned); });
}

cudaError_t cudaMemGetInfo(size_t *free, size_t *total) {
  return call("cudaMemGetInfo", [&] {
    if (free == nullptr || total == nullptr) return cudaErrorInvalidValue;
    *total = static_cast<size_t>(emulator::total);
    *free = static_cast<size_t>(emulator::total > emulator::used ? emulator::total - emulator::used : 0);
    return cudaSuccess;
  });
}

/* It is work of the legacy stream: it waits for streams that block, and not for others. */
cudaError_t cudaMemcpy(void *target, const void *source, size_t bytes, cudaMemcpyKind kind) {
  return call("cudaMemcpy", [&] {
    if (const cudaError_t error = emulator::refuse_legacy_during_capture()) return error;
    if (const cudaError_t error = emulator::refuse_during_capture()) return error;
    if (!emulator::is_direction(target, source, bytes, kind)) return cudaErrorInvalidValue;
    const emulator::DeviceAccess access;
    if (const cudaError_t error = emulator::run_stream(nullptr)) return error;
    if (bytes > 0) std::memmove(target, source, bytes);
    return cudaSuccess;
  });
}

/* From and to pinned memory the copy is made when its turn comes. Pageable memory is read at once if the copy is short;
 * if it is long, or writes pageable memory, the call waits for it (CUDA runtime API, "API synchronization behavior").
 */
cudaError_t cudaMemcpyAsync(void *target, const void *source, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  return call("cudaMemcpyAsync", [&] {
    if (!emulator::is_direction(target, source, bytes, kind)) return cudaErrorInvalidValue;
    if (bytes == 0) return cudaSuccess;
    const bool from_pageable = emulator::memory_of(source) == Memory::kHost;
    const bool to_pageable = emulator::memory_of(target) == Memory::kHost;
    if ((from_pageable || to_pageable) && emulator::is_capturing(stream)) return emulator::refuse_during_capture();
    if (from_pageable && bytes <= 64 << 10) {
      const auto *begin = static_cast<const char *>(source);
      return emulator::enqueue(stream, [target, staged = std::vector<char>(begin, begin + bytes)] {
        std::memcpy(target, staged.data(), staged.size());
        return cudaSuccess;
      });
    }
    const cudaError_t error = emulator::enqueue(stream, [=] {
      std::memmove(target, source, bytes);
      return cudaSuccess;
    });
    return error == cudaSuccess && (from_pageable || to_pageable) ? emulator::run_stream(stream) : error;
  });
}

cudaError_t cudaMemsetAsync(void *target, int value, size_t bytes, cudaStream_t stream) {
  return call("cudaMemsetAsync", [&] {
    if (bytes == 0) return cudaSuccess;
    if (!emulator::is_device(target, bytes)) return cudaErrorInvalidValue;
    return emulator::enqueue(stream, [=] {
      std::memset(target, value, bytes);
      return cudaSuccess;
    });
  });
}

void espalier_emulator_memory(int64_t bytes) {
  const std::lock_guard<std::recursive_mutex> guard(emulator::lock());
  emulator::total = bytes;
}
