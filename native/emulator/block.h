/*
 * Blocks of threads on the host: fibers, and the barriers and collectives at which they meet.
 *
 * A barrier is passed when all threads that it waits for have come or have ended, as on compute capability 7 and later.
 * Where they never come, the launch fails with a message that says which threads wait where.
 *
 * Schedules, chosen by espalier_emulator_schedule() or ESPALIER_EMULATOR_SCHEDULE:
 *   0  threads in order, and blocks in order
 *   1  both backwards
 *   2, 4, ...  threads in a new random order between any two barriers, blocks in a random order; the number is the seed
 *   3, 5, ...  likewise, but a warp runs as far as it can before another one does: what lies between barriers of the
 *              block is then as far apart as it can get
 *
 * The blocks of a cluster run on one host thread, in that order too: each as far as it can, until all wait for the
 * cluster.
 *
 * A missing barrier shows under some of these, as a wrong result: not under every one.
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
constexpr unsigned kMostClusterBlocks = 16; /* 8 of every Hopper; as many as this where a GPC has so many */

/* Where a fiber is in its launch. */
struct Place {
  dim3 grid, block, block_index, thread_index;
};

struct Range {
  char *begin, *end;
};

/* A library of kernels; shared_variables.cpp makes it, a copy in each library. */
struct Library {
  Range (*shared_variables)(); /* this host thread's copy of all __shared__ variables */
  void (*poison)(Range);       /* fills a part of them with 0xFF */
  Range (*written)(Range);     /* a part of them, whole pages, outside which all bytes are still 0xFF */
};
extern const Library library;

/* What a thread has asked for and is done when it waits for it, in groups that it waits for in order. */
template <typename T>
struct Groups {
  std::vector<T> items;     /* of all groups, then of the one that is open */
  std::vector<size_t> ends; /* of the groups, in `items` */

  bool empty() const { return items.empty() && ends.empty(); }
  void end_group() { ends.push_back(items.size()); }
  /* How many items are to be done when all but the last `left` groups are waited for. */
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
  size_t shared_bytes; /* of dynamic shared memory */
  const Library *library;
  std::function<void()> body;
  unsigned cluster = 1; /* blocks of a cluster, along x */
};

/* 0, or the cudaError_t with which CUDA refuses a launch of this shape. */
int is_launchable(const Launch &launch);
/* The compute capability that kernels are told. */
int capability();
/* Runs a launch that is launchable. False if a fault ended it; fault_message() then says which. */
bool run(const Launch &launch);
const char *fault_message();

/* ---- for a running fiber ---- */

/* Ends the launch with a message, which gets the kernel, the block and the thread in front. */
[[noreturn]] [[gnu::format(printf, 1, 2)]] void fault(const char *format, ...);

/* Waits for all threads of the block; returns how many gave true. */
int block_barrier(bool given);

/* Waits for all threads of the group of `threads` that is number `group` in the block, itself one of them: for ever, if
 * one has ended. */
void group_barrier(unsigned group, unsigned threads);

/* Waits for all threads of the cluster's blocks, or until they have ended; races.h takes it for a barrier if it
 * `orders` memory. */
void cluster_barrier(bool orders);
unsigned cluster_rank();
/* Where block `rank` of the cluster has what `shared` points to, which must be this block's dynamic shared memory. A
 * fault before the first barrier, as the other block might not have started, and when the other one has ended. */
void *in_block(const void *shared, unsigned rank);

/* What a warp does together. Each lane of `mask` brings `mine`; when the last has come, combine(lanes) is called once,
 * with NULL for lanes that take no part (not in the mask, or ended), and all go on. Lanes that come with another mask
 * or another combine are not waited for. `name` is for messages. */
using Combine = void (*)(void *const *lanes);
void collective(const char *name, uint32_t mask, void *mine, Combine combine);
/* The lane whose operand is lanes[i] in combine() is thread first_of_warp() + i of the block. */
unsigned first_of_warp();

/* The block's dynamic shared memory, aligned to 1024 bytes. */
void *dynamic_shared();
size_t dynamic_shared_bytes();
/* Whether all of [address, address + bytes) is the block's shared memory. */
bool is_shared(const void *address, size_t bytes);

/* cp.async: the copy of 16 bytes (of zeros, where `source` is NULL) is made when its group is waited for. */
void async_copy(void *shared, const void *source);
void async_commit();
void async_wait(int groups_left);

/* wgmma's, of the running thread. */
struct WarpgroupProduct;
Groups<WarpgroupProduct> &running_products();
/* Whether a thread of the block has made copies that shared_is_written() does not follow. */
bool has_hidden_copies();

}  // namespace emulator

/* Of the fiber that runs on this host thread; NULL where none does. */
[[gnu::tls_model("initial-exec")]] extern __thread const emulator::Place *esp_emulated_place;

#endif
