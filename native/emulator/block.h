/*
 * Runs blocks of CUDA threads on the host: the threads are fibers, and they meet at barriers and collectives.
 *
 * A barrier is passed when all threads that it waits for have come or have ended, as on compute capability 7 and later.
 * If they never come, the launch fails with a message that says which threads wait where.
 *
 * Schedules, chosen by espalier_emulator_schedule() or ESPALIER_EMULATOR_SCHEDULE:
 *   0  threads in order, and blocks in order
 *   1  both backwards
 *   2, 4, ...  threads in a new random order between any two barriers, blocks in a random order; the number is the seed
 *   3, 5, ...  the same, but a warp runs as far as it can before another one does: accesses that only a barrier of the
 *              block separates are then as far apart as possible
 *
 * The blocks of a cluster run on one host thread, in that order, too: each runs as far as it can, until all wait for
 * the cluster.
 *
 * A missing barrier shows as a wrong result, but only under some of these schedules.
 */
#ifndef ESPALIER_EMULATOR_BLOCK_H
#define ESPALIER_EMULATOR_BLOCK_H

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned width = 1, unsigned height = 1, unsigned depth = 1) : x(width), y(height), z(depth) {}
};

namespace emulator {

constexpr unsigned kWarp = 32;
constexpr unsigned kMostClusterBlocks = 16; /* 8 on every Hopper; this many if a GPC has room */

/* Where a fiber is in its launch. */
struct Place {
  dim3 grid, block, block_index, thread_index;
};

struct Range {
  char *begin, *end;
};

/* A library of kernels. shared_variables.cpp fills it in, with one copy for each library. */
struct Library {
  Range (*shared_variables)(); /* this host thread's copies of all __shared__ variables */
  void (*poison)(Range);       /* fills a part of them with 0xFF */
  Range (*written)(Range);     /* a part of them, whole pages; outside all bytes are 0xFF */
};
extern const Library library;

/* Work that a thread has asked for, and that is done only when the thread waits for it. It waits for groups of items,
 * in order. */
template <typename T>
struct Groups {
  std::vector<T> items;     /* those of all groups, then those of the group that is still open */
  std::vector<size_t> ends; /* where each group ends in `items` */

  bool empty() const { return items.empty() && ends.empty(); }
  void end_group() { ends.push_back(items.size()); }
  /* How many items must be done once all but the last `left` groups have been waited for. */
  size_t due(int left) const {
    const auto kept = static_cast<size_t>(left);
    return ends.size() > kept ? ends[ends.size() - kept - 1] : 0;
  }
  void forget_due(int left) {
    const auto kept = static_cast<size_t>(left);
    if (ends.size() <= kept) return;
    const size_t gone = due(left);
    items.erase(items.begin(), items.begin() + static_cast<std::ptrdiff_t>(gone));
    ends.erase(ends.begin(), ends.end() - static_cast<std::ptrdiff_t>(kept));
    for (size_t &end : ends) end -= gone;
  }
  void clear() {
    items.clear();
    ends.clear();
  }
};

struct Launch {
  const char *kernel;
  dim3 grid, block;
  size_t shared_bytes; /* bytes of dynamic shared memory */
  const Library *library;
  std::function<void()> body;
  unsigned cluster = 1; /* how many blocks a cluster has, along x */
};

/* Returns 0, or the cudaError_t with which CUDA refuses a launch of this shape. */
int is_launchable(const Launch &launch);
/* The compute capability that kernels see. */
int capability();
/* Runs a launch, for which is_launchable() must hold. Returns false if a fault ended it; fault_message() then says
 * which. */
bool run(const Launch &launch);
const char *fault_message();

/* ---- called by a running fiber ---- */

/* Ends the launch with a message. The kernel, the block and the thread are put in front of it. */
[[noreturn]] [[gnu::format(printf, 1, 2)]] void fault(const char *format, ...);

/* Waits for all threads of the block. Returns how many of them gave true. */
int block_barrier(bool given);

/* Waits for all threads of group number `group` of the block, which has `threads` threads, the caller among them. If
 * one of them has ended it waits for ever. */
void group_barrier(unsigned group, unsigned threads);

/* Waits until all threads of the cluster's blocks have come or ended. If it `orders` memory, races.h treats it as a
 * barrier. */
void cluster_barrier(bool orders);
unsigned cluster_rank();
/* The address, in block `rank` of the cluster, of what `shared` points to, which must be this block's dynamic shared
 * memory. It is a fault before the cluster's first barrier, as the other block might not have started, and when the
 * other block has ended. */
void *in_block(const void *shared, unsigned rank);

/* A joint operation of a warp. Each lane in `mask` brings `mine`. When the last lane has come, combine(lanes) is called
 * once, with NULL for lanes that do not take part (because they are not in the mask, or have ended); then all go on.
 * Lanes that come with another mask or another combine are not waited for. `name` is for messages. */
using Combine = void (*)(void *const *lanes);
void collective(const char *name, uint32_t mask, void *mine, Combine combine);
/* lanes[i] in combine() is the operand of thread first_of_warp() + i of the block. */
unsigned first_of_warp();

/* The block's dynamic shared memory, aligned to 1024 bytes. */
void *dynamic_shared();
size_t dynamic_shared_bytes();
/* Whether all of [address, address + bytes) is the block's shared memory. */
bool is_shared(const void *address, size_t bytes);

/* cp.async: the copy of 16 bytes (zeros if `source` is NULL) is made when its group is waited for. */
void async_copy(void *shared, const void *source);
void async_commit();
void async_wait(int groups_left);

/* A wgmma product of the running thread. */
struct WarpgroupProduct;
Groups<WarpgroupProduct> &running_products();
/* Whether a thread of the block has made copies that no shared_is_written() has followed. */
bool has_hidden_copies();

}  // namespace emulator

/* The place of the fiber that runs on this host thread; NULL if none does. */
[[gnu::tls_model("initial-exec")]] extern __thread const emulator::Place *esp_emulated_place;

#endif
