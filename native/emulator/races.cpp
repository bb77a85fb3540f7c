/*
 * The shadow of all memory that kernels touch, and ThreadSanitizer's functions, which the compiler calls before every
 * load and store of native/cuda (see races.h). Built into the preset emulator-races alone, where blocks run one after
 * another.
 */
#include "races.h"

#ifdef ESPALIER_EMULATOR_RACES

#include <dlfcn.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <unordered_map>
#include <vector>

namespace emulator::races {
namespace {

constexpr uintptr_t kPage = 4096;
constexpr uint16_t kSeveralLanes = 0x4000; /* | warp */
constexpr uint16_t kWarpsOfGroup = 0x2000; /* | warpgroup */
constexpr uint16_t kSeveralGroups = 0xffff;
constexpr unsigned kGroup = 128;

/* Time goes by intervals: one ends at every __syncthreads, and with every block. Within one, the threads of a warpgroup
 * are ordered by rounds, of which one ends at every barrier of the group, and within one of these the lanes of a warp
 * by epochs, of which one ends at every __syncwarp. */
uint32_t launch_start = 1, block_start = 1, now = 1;
std::vector<uint32_t> rounds, epochs; /* of each thread */
uint16_t me = 0;
SharedMemory shared{};
Range stacks{};

/* Who touched something last. Accesses of one interval are merged: of those of a warp's lanes, the latest epoch counts.
 */
struct Accesses {
  uint32_t interval = 0, round = 0, epoch = 0;
  uint16_t who = 0;

  bool of_several_groups() const { return who == kSeveralGroups; }
  bool of_several_warps() const { return !of_several_groups() && (who & kWarpsOfGroup) != 0; }
  bool of_several_lanes() const { return !of_several_groups() && (who & kSeveralLanes) != 0; }
  unsigned warp() const { return of_several_lanes() ? who & ~kSeveralLanes : who / kWarp; } /* if of one */
  bool of_my_warp() const { return !of_several_groups() && !of_several_warps() && warp() == me / kWarp; }
  bool of_my_group() const {
    if (of_several_groups()) return false;
    return (of_several_warps() ? who & ~kWarpsOfGroup : warp() * kWarp / kGroup) == me / kGroup;
  }

  void add() {
    const uint32_t round_now = rounds[me], epoch_now = epochs[me];
    const bool later =
        of_my_group() && (round_now > round || (round_now == round && of_my_warp() && epoch_now > epoch));
    if (interval != now || who == me || later) {
      *this = {now, round_now, epoch_now, me};
    } else if (!of_my_group()) {
      who = kSeveralGroups;
    } else if (round_now == round && !of_my_warp()) {
      who = static_cast<uint16_t>(kWarpsOfGroup | me / kGroup);
    } else if (round_now == round && epoch_now == epoch) {
      who = static_cast<uint16_t>(kSeveralLanes | me / kWarp);
    }
  }

  /* Whether these come before what this thread does now. */
  bool are_ordered(bool in_shared) const {
    if (interval < (in_shared ? block_start : launch_start)) return true;
    if (interval < block_start) return false; /* another block of this launch */
    if (interval < now || who == me) return true;
    return (of_my_group() && round < rounds[me]) || (of_my_warp() && epoch < epochs[me]);
  }

  std::string name() const {
    if (interval < block_start) return "another block";
    if (of_several_groups()) return "threads of several warps";
    if (of_several_warps()) return "warps of warpgroup " + std::to_string(who & ~kWarpsOfGroup);
    if (of_several_lanes()) return "lanes of warp " + std::to_string(warp());
    return "thread " + std::to_string(who);
  }
};

struct Cell {
  Accesses written, read;
  uint32_t read_by_blocks = 0; /* the launch (by its start) in which several blocks have read it */
  bool by_atomics = false;     /* so it was written */
};

/* The shadow of a page, at first for words of 4 bytes, then, if something smaller is touched, for halves or bytes. */
struct Page {
  uintptr_t number = 0;
  unsigned granule = 4;
  std::vector<Cell> cells = std::vector<Cell>(kPage / 4);

  void split(unsigned smaller) {
    std::vector<Cell> finer(kPage / smaller);
    for (size_t i = 0; i < finer.size(); i++) finer[i] = cells[i * smaller / granule];
    cells.swap(finer);
    granule = smaller;
  }
};

std::unordered_map<uintptr_t, Page> pages;
constexpr size_t kRecent = 64;
Page *recent[kRecent] = {}; /* by the last bits of their numbers */

Page &page_of(uintptr_t address) {
  const uintptr_t number = address / kPage;
  Page *&known = recent[number % kRecent];
  if (known == nullptr || known->number != number) {
    known = &pages[number];
    known->number = number;
  }
  return *known;
}

bool contains(const Range &range, uintptr_t address) {
  const auto *byte = reinterpret_cast<const char *>(address);
  return byte >= range.begin && byte < range.end;
}

/* "libespalier_emulator.so+0x12ab", for addr2line */
std::string place_of(const void *code) {
  Dl_info info;
  if (code == nullptr || dladdr(code, &info) == 0) return "the emulator";
  char offset[32];
  std::snprintf(offset, sizeof offset, "+0x%zx",
                static_cast<size_t>(static_cast<const char *>(code) - static_cast<const char *>(info.dli_fbase)));
  const char *slash = std::strrchr(info.dli_fname, '/');
  return std::string(slash == nullptr ? info.dli_fname : slash + 1) + offset;
}

enum class Kind { kRead, kWrite, kAtomic };

[[noreturn]] void report(uintptr_t address, Kind kind, const Accesses &other, bool was_written, const void *code) {
  const bool dynamic = contains(shared.dynamic, address), fixed = contains(shared.variables, address);
  const char *memory = dynamic ? "dynamic shared" : fixed ? "shared" : "global";
  const char *base = dynamic ? shared.dynamic.begin : fixed ? shared.variables.begin : nullptr;
  fault("a race: it %s %s memory at %s0x%zx, which %s has %s, and no barrier lies between (%s)",
        kind == Kind::kRead    ? "reads"
        : kind == Kind::kWrite ? "writes"
                               : "changes",
        memory, base == nullptr ? "" : "its start + ", static_cast<size_t>(address - reinterpret_cast<uintptr_t>(base)),
        other.name().c_str(), was_written ? "written" : "read", place_of(code).c_str());
}

void touch(Cell &cell, uintptr_t address, bool in_shared, Kind kind, const void *code) {
  const bool both_atomic = kind == Kind::kAtomic && cell.by_atomics;
  if (!both_atomic && !cell.written.are_ordered(in_shared)) report(address, kind, cell.written, true, code);
  if (kind == Kind::kRead) {
    const bool other_block = cell.read.interval >= launch_start && cell.read.interval < block_start;
    if (other_block && !in_shared) cell.read_by_blocks = launch_start;
    cell.read.add();
    return;
  }
  if (!cell.read.are_ordered(in_shared)) report(address, kind, cell.read, false, code);
  if (!in_shared && cell.read_by_blocks == launch_start)
    report(address, kind, Accesses{launch_start, 0, 0, 0}, false, code);
  if (both_atomic) {
    cell.written.add();
  } else {
    cell.written = Accesses{now, rounds[me], epochs[me], me};
  }
  cell.by_atomics = kind == Kind::kAtomic;
}

void access(const void *pointer, size_t bytes, Kind kind, const void *code) {
  if (esp_emulated_place == nullptr) return; /* code of the host */
  const auto begin = reinterpret_cast<uintptr_t>(pointer);
  if (contains(stacks, begin)) return;
  const bool in_shared = contains(shared.dynamic, begin) || contains(shared.variables, begin);
  const unsigned granule = (begin | bytes) % 4 == 0 ? 4 : (begin | bytes) % 2 == 0 ? 2 : 1;
  for (uintptr_t address = begin; address < begin + bytes;) {
    Page &page = page_of(address);
    if (granule < page.granule) page.split(granule);
    touch(page.cells[address % kPage / page.granule], address, in_shared, kind, code);
    address += page.granule;
  }
}

void aligned_access(const void *pointer, size_t bytes, Kind kind, const void *code) {
  if (esp_emulated_place != nullptr && reinterpret_cast<uintptr_t>(pointer) % bytes != 0) {
    fault("%zu bytes at %p are not aligned (%s)", bytes, pointer, place_of(code).c_str());
  }
  access(pointer, bytes, kind, code);
}

}  // namespace

/* What came before is ordered by the launch itself. */
void start_launch() {
  if (pages.size() > 2048) {
    pages.clear();
    std::fill(recent, recent + kRecent, nullptr);
  }
  launch_start = block_start = ++now;
}

void start_block(const SharedMemory &memory, Range fibers) {
  shared = memory;
  stacks = fibers;
  rounds.assign(1024, 0);
  epochs.assign(1024, 0);
  block_start = ++now;
}

void run(unsigned thread) { me = static_cast<uint16_t>(thread); }

void block_barrier() { now++; }

/* Rounds are equal throughout a group. */
void group_barrier(unsigned first, unsigned threads) {
  for (unsigned thread = first; thread < first + threads; thread++) rounds[thread]++;
}

void warp_barrier(uint32_t present) {
  const unsigned first = me / kWarp * kWarp;
  uint32_t latest = 0;
  for (unsigned lane = 0; lane < kWarp; lane++) {
    if ((present >> lane & 1u) != 0) latest = std::max(latest, epochs[first + lane]);
  }
  for (unsigned lane = 0; lane < kWarp; lane++) {
    if ((present >> lane & 1u) != 0) epochs[first + lane] = latest + 1;
  }
}

void read(const void *address, size_t bytes) { access(address, bytes, Kind::kRead, nullptr); }
void write(const void *address, size_t bytes) { access(address, bytes, Kind::kWrite, nullptr); }
void atomic(const void *address, size_t bytes) { access(address, bytes, Kind::kAtomic, nullptr); }

}  // namespace emulator::races

#define ESP_ACCESS(bytes)                                                                                  \
  void __tsan_read##bytes(void *p) {                                                                       \
    emulator::races::aligned_access(p, bytes, emulator::races::Kind::kRead, __builtin_return_address(0));  \
  }                                                                                                        \
  void __tsan_write##bytes(void *p) {                                                                      \
    emulator::races::aligned_access(p, bytes, emulator::races::Kind::kWrite, __builtin_return_address(0)); \
  }                                                                                                        \
  void __tsan_volatile_read##bytes(void *p) {                                                              \
    emulator::races::aligned_access(p, bytes, emulator::races::Kind::kRead, __builtin_return_address(0));  \
  }                                                                                                        \
  void __tsan_volatile_write##bytes(void *p) {                                                             \
    emulator::races::aligned_access(p, bytes, emulator::races::Kind::kWrite, __builtin_return_address(0)); \
  }                                                                                                        \
  void __tsan_unaligned_read##bytes(void *p) {                                                             \
    emulator::races::access(p, bytes, emulator::races::Kind::kRead, __builtin_return_address(0));          \
  }                                                                                                        \
  void __tsan_unaligned_write##bytes(void *p) {                                                            \
    emulator::races::access(p, bytes, emulator::races::Kind::kWrite, __builtin_return_address(0));         \
  }

extern "C" {

ESP_ACCESS(1)
ESP_ACCESS(2)
ESP_ACCESS(4)
ESP_ACCESS(8)
ESP_ACCESS(16)

void __tsan_read_range(void *p, long bytes) {
  emulator::races::access(p, static_cast<size_t>(bytes), emulator::races::Kind::kRead, __builtin_return_address(0));
}
void __tsan_write_range(void *p, long bytes) {
  emulator::races::access(p, static_cast<size_t>(bytes), emulator::races::Kind::kWrite, __builtin_return_address(0));
}
/* The guard of a function's static variable. */
unsigned char __tsan_atomic8_load(const volatile unsigned char *guard, int) {
  return __atomic_load_n(guard, __ATOMIC_ACQUIRE);
}
void __tsan_init() {}
void __tsan_func_entry(void *) {}
void __tsan_func_exit() {}
void __tsan_vptr_read(void *) {}
void __tsan_vptr_update(void *, void *) {}
}

#endif
