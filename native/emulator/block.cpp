/*
 * Fibers for the threads of CUDA blocks (see block.h). A switch is a dozen instructions for x86-64. swapcontext would
 * make two system calls for each, and a block of 256 threads switches thousands of times.
 */
#include "block.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "controls.h"
#include "cudart.h"
#include "races.h"
#include "sanitizer.h"
#include "warpgroup.h"

#ifdef __AVX512F__
#define ESP_EMULATOR_AVX512_REGISTERS                                                                           \
  , "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24", "xmm25", "xmm26", "xmm27", \
      "xmm28", "xmm29", "xmm30", "xmm31", "k1", "k2", "k3", "k4", "k5", "k6", "k7"
#else
#define ESP_EMULATOR_AVX512_REGISTERS
#endif

[[gnu::tls_model("initial-exec")]] __thread const emulator::Place *esp_emulated_place;

namespace emulator {
namespace {

constexpr size_t kPage = 4096;
/* The lowest page of a stack is never mapped. The size is not a power of two: otherwise what fibers keep would share a
 * few sets of the cache. */
constexpr size_t kStack = (sanitizer::kAddress ? 256 << 10 : 64 << 10) + kPage;
constexpr size_t kSharedBytes = 227 << 10;  /* a block of Hopper may have this much */
constexpr size_t kSharedStride = 228 << 10; /* from one block's to the next block's */

enum class State { kReady, kAtBlock, kAtGroup, kAtWarp, kAtCluster, kDone };

struct Copy {
  void *target;
  const void *source;
};

struct Fiber {
  void *stack_pointer = nullptr;
  State state = State::kReady;
  /* the collective it waits at */
  uint32_t mask = 0;
  void *mine = nullptr;
  Combine combine = nullptr;
  const char *collective = "";

  Place place{};
  void *fake_stack = nullptr; /* AddressSanitizer's */
  Groups<Copy> copies;        /* cp.async's */
  bool hidden_copies = false; /* made, but not made visible to the tensor cores */
  Groups<WarpgroupProduct> products;
};

std::atomic<int> schedule{[] {
  const char *chosen = std::getenv("ESPALIER_EMULATOR_SCHEDULE");
  return chosen == nullptr ? 0 : std::atoi(chosen);
}()};

/* A launch that is running. */
struct Run {
  const Launch *launch;
  uint64_t number; /* from 1 on */
  int schedule;

  bool by_warp() const { return schedule >= 2 && schedule % 2 == 1; }
};

std::atomic<uint64_t> launches{0};

std::mutex fault_mutex;
std::string first_fault;
std::atomic<bool> faulted{false};

/* What a host thread keeps for a block that it runs. */
struct Block {
  const Launch *launch = nullptr;
  unsigned rank = 0; /* in its cluster */
  char *stacks = nullptr;
  size_t capacity = 0;
  std::vector<Fiber> fibers;
  std::vector<unsigned> order; /* of threads, or of warps */
  std::mt19937_64 random;
  Fiber *running = nullptr;
  unsigned arrived = 0, votes = 0, passed_votes = 0, done = 0;

  void *scheduler = nullptr, *scheduler_fake_stack = nullptr;
  const void *scheduler_stack = nullptr;
  size_t scheduler_stack_bytes = 0;

  const Library *library = nullptr; /* whose variables these are */
  Range variables{};
  uint64_t poisoned = 0;  /* the number of the launch at whose start all variables were poisoned */
  Range written{};        /* what its first block has written since; NULL until a second block starts */
  std::vector<char> kept; /* the variables, while another block of the cluster runs */
  char *dynamic = nullptr;
};

/* The blocks that a host thread runs together. */
struct Cluster {
  std::deque<Block> blocks; /* as many as there have ever been */
  unsigned size = 0;
  unsigned arrived = 0; /* threads at the cluster's barrier */
  bool orders = false;  /* whether it orders memory: only if it does for all of them */
  bool met = false;     /* whether they have met at a barrier */
  Range dynamic{};      /* of all blocks, one after the other */

  ~Cluster() {
    for (const Block &one : blocks) {
      if (one.stacks != nullptr) munmap(one.stacks, one.capacity * kStack);
    }
    std::free(dynamic.begin);
  }
};

thread_local Cluster owned_cluster;

/* owned_cluster, without the check whether it is initialised, and its block that is running. Like esp_emulated_place
 * they lie at a fixed distance from the thread's own data, where the loader has room for a few more variables;
 * otherwise finding them would take a call each time. */
[[gnu::tls_model("initial-exec")]] __thread Cluster *cluster;
[[gnu::tls_model("initial-exec")]] __thread Block *block;

bool is_done(const Block &one) { return one.done == one.fibers.size(); }

unsigned index_of(const Fiber *fiber) { return static_cast<unsigned>(fiber - block->fibers.data()); }

char *stack_of(unsigned thread) { return block->stacks + thread * kStack; }

/* ---- switching ---- */

/* Stores this stack and continues where `resume` was stored. The compiler keeps nothing in registers across it. It is
 * inline and jumps instead of returning: the processor predicts that a return goes to where the last call was, which
 * would be wrong here, while a jump by threads that wait in turn at the same place is predicted rightly. */
[[gnu::always_inline]] inline void switch_stack(void **save, void *resume) {
  asm volatile(
      "leaq -128(%%rsp), %%rsp\n\t" /* what lies below the stack pointer may be in use */
      "pushq %%rbp\n\t"
      "leaq 1f(%%rip), %%rax\n\t"
      "pushq %%rax\n\t"
      "movq %%rsp, (%0)\n\t"
      "movq %1, %%rsp\n\t"
      "popq %%rax\n\t"
      "jmp *%%rax\n"
      "1:\n\t"
      "popq %%rbp\n\t"
      "leaq 128(%%rsp), %%rsp"
      : "+D"(save), "+S"(resume)
      :
      : "memory", "cc", "rax", "rbx", "rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "xmm0",
        "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13",
        "xmm14", "xmm15" ESP_EMULATOR_AVX512_REGISTERS);
}

void resume(unsigned thread) {
  Fiber &fiber = block->fibers[thread];
  block->running = &fiber;
  esp_emulated_place = &fiber.place;
  races::run(thread);
  sanitizer::leave(&block->scheduler_fake_stack, stack_of(thread), kStack);
  switch_stack(&block->scheduler, fiber.stack_pointer);
  sanitizer::enter(block->scheduler_fake_stack, nullptr, nullptr);
  esp_emulated_place = nullptr;
}

void yield() {
  Fiber *self = block->running;
  void **kept = self->state == State::kDone ? nullptr : &self->fake_stack;
  sanitizer::leave(kept, block->scheduler_stack, block->scheduler_stack_bytes);
  switch_stack(&self->stack_pointer, block->scheduler);
  sanitizer::enter(self->fake_stack, nullptr, nullptr);
}

[[noreturn]] void end() {
  if (!block->running->products.empty()) fault("it ends before wgmma that it has not waited for");
  block->running->state = State::kDone;
  block->done++;
  yield();
  std::abort(); /* nobody resumes it */
}

[[noreturn]] void run_fiber() {
  sanitizer::enter(nullptr, &block->scheduler_stack, &block->scheduler_stack_bytes);
  block->launch->body();
  end();
}

/* A stack from which a switch goes to run_fiber, aligned as a call would leave it. Each stack begins at another line of
 * its page, for the sake of the cache. */
void *fresh_stack(unsigned thread) {
  constexpr size_t kLine = 64;
  auto *top = reinterpret_cast<void **>(stack_of(thread) + kStack - thread * kLine % kPage) - 1;
  *--top = reinterpret_cast<void *>(run_fiber);
  return top;
}

/* ---- faults ---- */

void set_fault(const std::string &message) {
  const std::lock_guard<std::mutex> lock(fault_mutex);
  if (!faulted.exchange(true)) first_fault = message;
}

std::string name_of(const dim3 &index) {
  return "(" + std::to_string(index.x) + ", " + std::to_string(index.y) + ", " + std::to_string(index.z) + ")";
}

std::string block_name() {
  return std::string(block->launch->kernel) + ", block " + name_of(block->fibers[0].place.block_index);
}

std::string where(const Fiber &fiber) {
  if (fiber.state == State::kDone) return "ended";
  if (fiber.state == State::kAtBlock) return "wait at __syncthreads";
  if (fiber.state == State::kAtGroup) return "wait at a group's barrier";
  if (fiber.state == State::kAtCluster) return "wait at the cluster's barrier";
  char mask[16];
  std::snprintf(mask, sizeof mask, "%08x", fiber.mask);
  return std::string("wait at ") + fiber.collective + " of mask " + mask;
}

/* "threads 0-31 wait at __syncthreads; threads 32-63 ended" */
std::string everyone() {
  std::string text;
  const unsigned threads = static_cast<unsigned>(block->fibers.size());
  for (unsigned first = 0; first < threads;) {
    const std::string what = where(block->fibers[first]);
    unsigned last = first;
    while (last + 1 < threads && where(block->fibers[last + 1]) == what) last++;
    text += (text.empty() ? "thread" : "; thread") + std::string(first == last ? " " : "s ") + std::to_string(first);
    if (last > first) text += "-" + std::to_string(last);
    text += " " + what;
    first = last + 1;
  }
  return text;
}

/* ---- barriers ---- */

bool release_block() {
  if (block->arrived == 0 || block->arrived + block->done < block->fibers.size()) return false;
  for (Fiber &fiber : block->fibers) {
    if (fiber.state == State::kAtBlock) fiber.state = State::kReady;
  }
  block->passed_votes = block->votes;
  block->arrived = block->votes = 0;
  races::block_barrier();
  return true;
}

/* The barrier of threads [first, first + threads), which waits for this many even if some have ended. */
bool release_group(unsigned first, unsigned threads) {
  for (unsigned i = first; i < first + threads; i++) {
    if (block->fibers[i].state != State::kAtGroup) return false;
  }
  for (unsigned i = first; i < first + threads; i++) block->fibers[i].state = State::kReady;
  races::group_barrier(first, threads);
  return true;
}

/* The barrier of all blocks of the cluster. */
bool release_cluster() {
  size_t threads = 0;
  for (unsigned rank = 0; rank < cluster->size; rank++) {
    threads += cluster->blocks[rank].fibers.size() - cluster->blocks[rank].done;
  }
  if (cluster->arrived == 0 || cluster->arrived < threads) return false;
  for (unsigned rank = 0; rank < cluster->size; rank++) {
    for (Fiber &fiber : cluster->blocks[rank].fibers) {
      if (fiber.state == State::kAtCluster) fiber.state = State::kReady;
    }
  }
  if (cluster->orders) races::cluster_barrier();
  cluster->arrived = 0;
  cluster->orders = cluster->met = true;
  return true;
}

/* Finds the fibers that wait together with this one, lane by lane. Returns false while one of them is missing. The next
 * lane is looked at first, because most often it is the missing one. */
bool gather(const Fiber &fiber, Fiber *(&lanes)[kWarp]) {
  const unsigned own = index_of(&fiber), first = own / kWarp * kWarp;
  const unsigned threads = static_cast<unsigned>(block->fibers.size());
  for (unsigned i = 1; i <= kWarp; i++) {
    const unsigned lane = (own + i) % kWarp;
    lanes[lane] = nullptr;
    if ((fiber.mask >> lane & 1u) == 0 || first + lane >= threads) continue;
    Fiber &other = block->fibers[first + lane];
    if (other.state == State::kDone) continue;
    if (other.state != State::kAtWarp || other.mask != fiber.mask || other.combine != fiber.combine) return false;
    lanes[lane] = &other;
  }
  return true;
}

/* Lets the fibers that wait together with this one go on, if all have come. */
bool release_warp(const Fiber &fiber) {
  Fiber *lanes[kWarp];
  if (!gather(fiber, lanes)) return false;
  void *operands[kWarp];
  for (unsigned lane = 0; lane < kWarp; lane++) operands[lane] = lanes[lane] == nullptr ? nullptr : lanes[lane]->mine;
  fiber.combine(operands);
  for (Fiber *lane : lanes) {
    if (lane != nullptr) lane->state = State::kReady;
  }
  return true;
}

/* ---- a block from its start to its end ---- */

/* Makes the block the running one, and the __shared__ variables its own. */
void select(unsigned rank) {
  Block *next = &cluster->blocks[rank];
  if (next == block) return;
  block->kept.assign(block->variables.begin, block->variables.end);
  block = next;
  std::copy(block->kept.begin(), block->kept.end(), block->variables.begin);
  races::select_block(rank);
}

/* Forms a cluster of `size` blocks, none of which has started. */
void form_cluster(unsigned size) {
  cluster = &owned_cluster;
  if (cluster->dynamic.begin == nullptr) {
    constexpr size_t kBytes = kMostClusterBlocks * kSharedStride;
    cluster->dynamic.begin = static_cast<char *>(std::aligned_alloc(1024, kBytes));
    cluster->dynamic.end = cluster->dynamic.begin + kBytes;
  }
  while (cluster->blocks.size() < size) {
    Block &one = cluster->blocks.emplace_back();
    one.rank = static_cast<unsigned>(cluster->blocks.size() - 1);
    one.dynamic = cluster->dynamic.begin + one.rank * kSharedStride;
  }
  cluster->size = size;
  cluster->arrived = 0;
  cluster->orders = true;
  cluster->met = false;
  races::start_cluster(cluster->dynamic);
}

void reserve(size_t threads) {
  if (threads <= block->capacity) return;
  if (block->stacks != nullptr) munmap(block->stacks, block->capacity * kStack);
  void *memory =
      mmap(nullptr, threads * kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    std::fprintf(stderr, "emulator: no memory for the stacks of %zu threads\n", threads);
    std::abort();
  }
  block->stacks = static_cast<char *>(memory);
  block->capacity = threads;
  for (unsigned i = 0; i < threads; i++) mprotect(stack_of(i), kPage, PROT_NONE);
}

/* The variables are half a megabyte, nearly all of it those of other kernels. What the launch's first block on this
 * host thread has not written, later ones are assumed not to write either. */
void poison_variables(uint64_t launch) {
  const Library &library = *block->library;
  if (block->poisoned != launch || cluster->size > 1) {
    library.poison(block->variables);
    block->poisoned = launch;
    block->written = {};
    return;
  }
  if (block->written.begin == nullptr) block->written = library.written(block->variables);
  library.poison(block->written);
}

void prepare(const Run &run, unsigned rank, dim3 index, uint64_t seed) {
  const Launch &launch = *run.launch;
  const dim3 shape = launch.block;
  const unsigned threads = shape.x * shape.y * shape.z;
  block = &cluster->blocks[rank];
  reserve(threads);
  block->launch = &launch;
  block->arrived = block->votes = block->done = 0;
  block->fibers.resize(threads);
  for (unsigned i = 0; i < threads; i++) {
    Fiber &fiber = block->fibers[i];
    fiber.stack_pointer = fresh_stack(i);
    fiber.state = State::kReady;
    fiber.copies.clear();
    fiber.hidden_copies = false;
    fiber.products.clear();
    fiber.place = {launch.grid, shape, index, dim3(i % shape.x, i / shape.x % shape.y, i / (shape.x * shape.y))};
  }
  block->order.resize(run.by_warp() ? (threads + kWarp - 1) / kWarp : threads);
  std::iota(block->order.begin(), block->order.end(), 0u);
  if (run.schedule == 1) std::reverse(block->order.begin(), block->order.end());
  block->random.seed(seed);

  if (block->library != launch.library) {
    block->library = launch.library;
    block->variables = launch.library->shared_variables();
  }
  poison_variables(run.number);
  if (cluster->size > 1) block->kept.assign(block->variables.begin, block->variables.end);
  sanitizer::allow(block->dynamic, kSharedBytes);
  std::memset(block->dynamic, 0xff, launch.shared_bytes);
  sanitizer::forbid(block->dynamic + launch.shared_bytes, kSharedBytes - launch.shared_bytes);
  races::start_block({{block->dynamic, block->dynamic + launch.shared_bytes}, block->variables},
                     {block->stacks, block->stacks + block->capacity * kStack});
}

/* Stops waiting for threads that have ended. */
bool release_after_ends() {
  bool moved = release_block();
  for (unsigned thread = 0; thread < block->fibers.size() && !faulted; thread++) {
    Fiber *lanes[kWarp];
    if (block->fibers[thread].state != State::kAtWarp || !gather(block->fibers[thread], lanes)) continue;
    resume(thread); /* its end lets the others go on */
    moved = true;
  }
  return moved;
}

/* Runs each thread that can run once, in the order of the schedule. */
bool round_of_threads() {
  bool moved = false;
  for (unsigned thread : block->order) {
    if (block->fibers[thread].state != State::kReady || faulted) continue;
    resume(thread);
    moved = true;
  }
  return moved;
}

/* Runs each warp until none of its lanes can go on. */
bool round_of_warps() {
  bool moved = false;
  for (unsigned warp : block->order) {
    unsigned lanes[kWarp];
    std::iota(lanes, lanes + kWarp, warp * kWarp);
    std::shuffle(lanes, lanes + kWarp, block->random);
    for (bool went = true; went && !faulted;) {
      went = false;
      for (unsigned thread : lanes) {
        if (thread >= block->fibers.size() || block->fibers[thread].state != State::kReady || faulted) continue;
        resume(thread);
        went = moved = true;
      }
    }
  }
  return moved;
}

/* Runs the block until none of its threads can go on. Returns false if none could at the start. */
bool run_block(const Run &run) {
  bool went = false;
  for (bool moved = true; moved && !faulted;) {
    if (run.schedule >= 2) std::shuffle(block->order.begin(), block->order.end(), block->random);
    moved = run.by_warp() ? round_of_warps() : round_of_threads();
    moved = moved || (!faulted && block->done < block->fibers.size() && release_after_ends());
    went = went || moved;
  }
  return went;
}

/* Runs the blocks of a cluster, the first of which is that at `index`, from start to end. */
void run_cluster(const Run &run, dim3 index, uint64_t seed) {
  form_cluster(run.launch->cluster);
  std::vector<unsigned> order(cluster->size);
  for (unsigned rank = 0; rank < cluster->size; rank++) {
    prepare(run, rank, dim3(index.x + rank, index.y, index.z), seed + rank);
    order[rank] = rank;
  }
  if (run.schedule == 1) std::reverse(order.begin(), order.end());
  const auto first = cluster->blocks.begin(), last = first + cluster->size;
  while (!std::all_of(first, last, is_done) && !faulted) {
    if (run.schedule >= 2) std::shuffle(order.begin(), order.end(), block->random);
    bool went = false;
    for (const unsigned rank : order) {
      if (faulted) break;
      select(rank);
      went = run_block(run) || went;
    }
    if (went || faulted || release_cluster()) continue;
    select(static_cast<unsigned>(std::find_if_not(first, last, is_done) - first));
    set_fault(block_name() + ": a barrier is not reached by all that it waits for: " + everyone());
  }
  for (auto one = first; one != last; ++one) { /* frames that never return */
    if (!is_done(*one)) sanitizer::allow(one->stacks, one->capacity * kStack);
  }
}

}  // namespace

void fault(const char *format, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  set_fault(block_name() + ", thread " + std::to_string(index_of(block->running)) + ": " + text);
  yield(); /* for ever: the block has been given up */
  std::abort();
}

int block_barrier(bool given) {
  Fiber *self = block->running;
  self->state = State::kAtBlock;
  block->arrived++;
  if (given) block->votes++;
  if (!release_block()) yield();
  return static_cast<int>(block->passed_votes);
}

void group_barrier(unsigned group, unsigned threads) {
  Fiber *self = block->running;
  const unsigned first = group * threads, own = index_of(self);
  if (own < first || own >= first + threads || first + threads > block->fibers.size()) {
    fault("the barrier of group %u, to which it does not belong", group);
  }
  self->state = State::kAtGroup;
  if (!release_group(first, threads)) yield();
}

void cluster_barrier(bool orders) {
  block->running->state = State::kAtCluster;
  cluster->arrived++;
  cluster->orders = cluster->orders && orders;
  if (!release_cluster()) yield();
}

unsigned cluster_rank() { return block->rank; }

void *in_block(const void *shared, unsigned rank) {
  const auto offset = static_cast<size_t>(static_cast<const char *>(shared) - block->dynamic);
  if (offset >= block->launch->shared_bytes) fault("%p is not its dynamic shared memory", shared);
  if (rank >= cluster->size) fault("block %u of a cluster of %u", rank, cluster->size);
  if (!cluster->met) fault("block %u of the cluster may not have started: no barrier of the cluster lies before", rank);
  if (is_done(cluster->blocks[rank])) fault("block %u of the cluster has ended", rank);
  return cluster->blocks[rank].dynamic + offset;
}

void collective(const char *name, uint32_t mask, void *mine, Combine combine) {
  Fiber *self = block->running;
  const unsigned lane = index_of(self) % kWarp;
  if ((mask >> lane & 1u) == 0) fault("%s of mask %08x, without its own lane %u", name, mask, lane);
  self->state = State::kAtWarp;
  self->collective = name;
  self->mask = mask;
  self->mine = mine;
  self->combine = combine;
  while (!release_warp(*self)) {
    yield();
    if (self->state == State::kReady) break; /* another lane has released this one */
  }
}

unsigned first_of_warp() { return index_of(block->running) / kWarp * kWarp; }

void *dynamic_shared() { return block->dynamic; }

size_t dynamic_shared_bytes() { return block->launch->shared_bytes; }

bool is_shared(const void *address, size_t bytes) {
  const char *begin = static_cast<const char *>(address), *end = begin + bytes;
  return (begin >= block->dynamic && end <= block->dynamic + block->launch->shared_bytes) ||
         (begin >= block->variables.begin && end <= block->variables.end);
}

void async_copy(void *shared, const void *source) {
  if (!is_shared(shared, 16)) fault("cp.async to %p, which is not shared memory", shared);
  if (reinterpret_cast<uintptr_t>(shared) % 16 != 0 || reinterpret_cast<uintptr_t>(source) % 16 != 0) {
    fault("cp.async from %p to %p: not aligned to 16 bytes", source, shared);
  }
  races::write(shared, 16);
  if (source != nullptr) races::read(source, 16);
  std::memset(shared, 0xff, 16);
  block->running->copies.items.push_back({shared, source});
}

void async_commit() { block->running->copies.end_group(); }

void async_wait(int groups_left) {
  Fiber *self = block->running;
  const size_t due = self->copies.due(groups_left);
  for (size_t i = 0; i < due; i++) {
    const Copy &copy = self->copies.items[i];
    races::write(copy.target, 16);
    if (copy.source == nullptr) {
      std::memset(copy.target, 0, 16);
    } else {
      std::memcpy(copy.target, copy.source, 16);
    }
    self->hidden_copies = true;
  }
  self->copies.forget_due(groups_left);
}

Groups<WarpgroupProduct> &running_products() { return block->running->products; }

bool has_hidden_copies() {
  return std::any_of(block->fibers.begin(), block->fibers.end(),
                     [](const Fiber &fiber) { return fiber.hidden_copies; });
}

void shared_is_written() { block->running->hidden_copies = false; }

int is_launchable(const Launch &launch) {
  const uint64_t threads = uint64_t{launch.block.x} * launch.block.y * launch.block.z;
  const dim3 &grid = launch.grid;
  if (threads == 0 || threads > 1024 || launch.block.z > 64) return cudaErrorInvalidConfiguration;
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return cudaErrorInvalidConfiguration;
  if (grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535) return cudaErrorInvalidConfiguration;
  if (launch.cluster == 0 || launch.cluster > kMostClusterBlocks) return cudaErrorInvalidClusterSize;
  if (launch.cluster > 1 && (grid.x % launch.cluster != 0 || capability() < 90)) return cudaErrorInvalidConfiguration;
  return launch.shared_bytes > kSharedBytes ? cudaErrorInvalidValue : cudaSuccess;
}

int capability() {
  static const int told = [] {
    const char *chosen = std::getenv("ESPALIER_EMULATOR_CAPABILITY");
    return chosen == nullptr ? 90 : std::atoi(chosen);
  }();
  return told;
}

bool run(const Launch &launch) {
  const uint64_t x = launch.grid.x / launch.cluster, y = launch.grid.y, clusters = x * y * launch.grid.z;
  faulted = false;
  const Run run{&launch, ++launches, schedule};
  std::vector<uint64_t> order(clusters);
  std::iota(order.begin(), order.end(), uint64_t{0});
  const auto chosen = static_cast<uint64_t>(run.schedule);
  if (chosen == 1) std::reverse(order.begin(), order.end());
  if (chosen >= 2) std::shuffle(order.begin(), order.end(), std::mt19937_64(chosen));
  races::start_launch();
  /* Each host thread keeps stacks for as many blocks as it has ever run together. For clusters one thread is enough. */
#pragma omp parallel for schedule(dynamic, 1) if (clusters > 1 && launch.cluster == 1 && !races::kDetected)
  for (uint64_t i = 0; i < clusters; i++) {
    if (faulted) continue;
    const uint64_t c = order[i], seed = c * launch.cluster + (chosen << 32);
    const dim3 index(static_cast<unsigned>(c % x * launch.cluster), static_cast<unsigned>(c / x % y),
                     static_cast<unsigned>(c / (x * y)));
    run_cluster(run, index, seed);
  }
  return !faulted;
}

const char *fault_message() { return first_fault.c_str(); }

}  // namespace emulator

void espalier_emulator_schedule(int32_t chosen) { emulator::schedule = chosen; }
