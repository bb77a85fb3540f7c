/*
 * The shadow of all memory that kernels access, and the functions of ThreadSanitizer that the compiler calls before
 * every load and store of native/cuda (see races.h). Only the preset emulator-races has this; in it blocks run one
 * after another.
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
constexpr uint16_t kSeveralBlocks = 0xffff;
constexpr unsigned kGroup = 128;

/* Time is divided into intervals; no two blocks share one. An interval ends at every __syncthreads and at every barrier
 * of the cluster. Within an interval the threads of a warpgroup are ordered by rounds: a round ends at every barrier of
 * the group. Within a round the lanes of a warp are ordered by epochs: an epoch ends at every __syncwarp. */
uint32_t launch_start = 1, latest = 1; /* the last interval that began, in any block */
/* For the blocks that run together: when they started, and the last barrier that they passed together. */
uint32_t cluster_start = 1, cluster_barrier_at = 1;
Range all_dynamic{};

struct Block {
  SharedMemory shared{};
  Range stacks{};
  uint32_t now = 1;
  std::vector<uint32_t> rounds, epochs; /* of each thread */
};
std::vector<Block> blocks;
unsigned my_block = 0;
uint16_t me = 0;

const Block &mine() { return blocks[my_block]; }

/* Who accessed something last. Accesses of one interval are merged; of those by the lanes of a warp the latest epoch
 * counts. */
struct Accesses {
  uint32_t interval = 0, round = 0, epoch = 0;
  uint16_t who = 0;
  uint16_t block = 0; /* its number in the cluster, or kSeveralBlocks if several did since the cluster's last barrier */

  bool of_several_groups() const { return who == kSeveralGroups; }
  bool of_several_warps() const { return !of_several_groups() && (who & kWarpsOfGroup) != 0; }
  bool of_several_lanes() const { return !of_several_groups() && (who & kSeveralLanes) != 0; }
  unsigned warp() const { return of_several_lanes() ? who & ~kSeveralLanes : who / kWarp; } /* if it was only one */
  bool of_my_warp() const { return !of_several_groups() && !of_several_warps() && warp() == me / kWarp; }
  bool of_my_group() const {
    if (of_several_groups()) return false;
    return (of_several_warps() ? who & ~kWarpsOfGroup : warp() * kWarp / kGroup) == me / kGroup;
  }

  static Accesses of_mine() { return {mine().now, mine().rounds[me], mine().epochs[me], me, uint16_t(my_block)}; }

  void add() {
    const uint32_t round_now = mine().rounds[me], epoch_now = mine().epochs[me];
    const bool later =
        of_my_group() && (round_now > round || (round_now == round && of_my_warp() && epoch_now > epoch));
    if (interval >= cluster_barrier_at && block != my_block) {
      *this = of_mine();
      block = kSeveralBlocks;
    } else if (interval != mine().now || who == me || later) {
      *this = of_mine();
    } else if (!of_my_group()) {
      who = kSeveralGroups;
    } else if (round_now == round && !of_my_warp()) {
      who = static_cast<uint16_t>(kWarpsOfGroup | me / kGroup);
    } else if (round_now == round && epoch_now == epoch) {
      who = static_cast<uint16_t>(kSeveralLanes | me / kWarp);
    }
  }

  /* Whether these accesses are ordered before what this thread does now. */
  bool are_ordered(bool in_shared) const {
    if (interval < (in_shared ? cluster_start : launch_start)) return true;
    if (interval < cluster_start) return false; /* it was another cluster of this launch */
    if (interval < cluster_barrier_at) return true;
    if (block != my_block) return false;
    if (interval < mine().now || who == me) return true;
    return (of_my_group() && round < mine().rounds[me]) || (of_my_warp() && epoch < mine().epochs[me]);
  }

  std::string name() const {
    if (interval < cluster_start || block != my_block) return "another block";
    if (of_several_groups()) return "threads of several warps";
    if (of_several_warps()) return "warps of warpgroup " + std::to_string(who & ~kWarpsOfGroup);
    if (of_several_lanes()) return "lanes of warp " + std::to_string(warp());
    return "thread " + std::to_string(who);
  }
};

struct Cell {
  Accesses written, read;
  uint32_t read_by_blocks = 0; /* the launch (its start) in which several blocks have read it */
  bool by_atomics = false;     /* whether it was written by atomics */
};

/* The shadow of a page. It has a cell for each word of 4 bytes, and once something smaller is accessed for each half
 * word or byte. */
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
Page *recent[kRecent] = {}; /* by the last bits of their page numbers */

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
  const SharedMemory &shared = mine().shared;
  const bool dynamic = contains(shared.dynamic, address), fixed = contains(shared.variables, address);
  const bool remote = !dynamic && contains(all_dynamic, address);
  const char *memory = dynamic ? "dynamic shared" : fixed ? "shared" : remote ? "another block's shared" : "global";
  const char *base = dynamic  ? shared.dynamic.begin
                     : fixed  ? shared.variables.begin
                     : remote ? all_dynamic.begin
                              : nullptr;
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
    const bool other_block = cell.read.interval >= launch_start && cell.read.interval < cluster_start;
    if (other_block && !in_shared) cell.read_by_blocks = launch_start;
    cell.read.add();
    return;
  }
  if (!cell.read.are_ordered(in_shared)) report(address, kind, cell.read, false, code);
  if (!in_shared && cell.read_by_blocks == launch_start)
    report(address, kind, Accesses{launch_start, 0, 0, 0, 0}, false, code);
  if (both_atomic) {
    cell.written.add();
  } else {
    cell.written = Accesses::of_mine();
  }
  cell.by_atomics = kind == Kind::kAtomic;
}

void access(const void *pointer, size_t bytes, Kind kind, const void *code) {
  if (esp_emulated_place == nullptr) return; /* code of the host is not checked */
  const auto begin = reinterpret_cast<uintptr_t>(pointer);
  if (contains(mine().stacks, begin)) return;
  const bool variable = contains(mine().shared.variables, begin);
  const bool in_shared = variable || contains(all_dynamic, begin);
  /* The variables of all blocks are at one address. So each block has its own shadow for them. */
  const uintptr_t shadow = variable ? uintptr_t{my_block} << 48 : 0;
  const unsigned granule = (begin | bytes) % 4 == 0 ? 4 : (begin | bytes) % 2 == 0 ? 2 : 1;
  for (uintptr_t address = begin; address < begin + bytes;) {
    Page &page = page_of(address + shadow);
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
  launch_start = ++latest;
}

void start_cluster(Range dynamic) {
  all_dynamic = dynamic;
  blocks.clear();
  cluster_start = cluster_barrier_at = ++latest;
}

void start_block(const SharedMemory &memory, Range fibers) {
  my_block = static_cast<unsigned>(blocks.size());
  const std::vector<uint32_t> zeros(1024, 0);
  blocks.push_back({memory, fibers, ++latest, zeros, zeros});
}

void select_block(unsigned rank) { my_block = rank; }

void run(unsigned thread) { me = static_cast<uint16_t>(thread); }

void block_barrier() { blocks[my_block].now = ++latest; }

void cluster_barrier() {
  cluster_barrier_at = ++latest;
  for (Block &block : blocks) block.now = ++latest;
}

/* All threads of a group are in the same round. */
void group_barrier(unsigned first, unsigned threads) {
  std::vector<uint32_t> &rounds = blocks[my_block].rounds;
  for (unsigned thread = first; thread < first + threads; thread++) rounds[thread]++;
}

void warp_barrier(uint32_t present) {
  const unsigned first = me / kWarp * kWarp;
  std::vector<uint32_t> &epochs = blocks[my_block].epochs;
  uint32_t last = 0;
  for (unsigned lane = 0; lane < kWarp; lane++) {
    if ((present >> lane & 1u) != 0) last = std::max(last, epochs[first + lane]);
  }
  for (unsigned lane = 0; lane < kWarp; lane++) {
    if ((present >> lane & 1u) != 0) epochs[first + lane] = last + 1;
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
