/*
 * Fibers for the threads of CUDA blocks (see cuda_emulator.h). Switching is a dozen instructions for x86-64: a switch
 * by swapcontext would make two system calls, and a block of 256 threads switches thousands of times.
 */
#include "cuda_emulator.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <vector>

extern "C" void esp_emulator_switch(void **save, void *resume);

/* Saves what a call must keep, stores the stack, takes the other one. */
asm(R"(
.text
.type esp_emulator_switch, @function
esp_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size esp_emulator_switch, .-esp_emulator_switch
)");

namespace emulator {
namespace {

constexpr size_t kStack = 64 << 10;
constexpr unsigned kWarp = 32;

enum class State { kReady, kAtBlock, kAtWarp, kDone };

struct Fiber {
  void *stack_pointer;
  State state;
  uint32_t mask;  /* of the warp barrier it waits at */
  uint64_t given; /* to that barrier */
  Place place;
};

/* One host thread's block. */
struct Block {
  char *stacks = nullptr;
  size_t capacity = 0;
  std::vector<Fiber> fibers;
  const std::function<void()> *body = nullptr;
  const char *kernel = "";
  void *scheduler = nullptr;
  Fiber *running = nullptr;

  ~Block() {
    if (stacks != nullptr) munmap(stacks, capacity * kStack);
  }
};

thread_local Block block;

[[noreturn]] void die(const char *what) {
  std::fprintf(stderr, "%s: %s\n", block.kernel, what);
  std::abort();
}

void yield() {
  Fiber *self = block.running;
  esp_emulator_switch(&self->stack_pointer, block.scheduler);
}

void wait(State state) {
  block.running->state = state;
  yield();
}

[[noreturn]] void run_fiber() {
  (*block.body)();
  block.running->state = State::kDone;
  yield();
  die("a thread ran on after its end");
}

/* A stack on which a switch "returns" into run_fiber: six registers, the address, and the alignment a call would leave.
 */
void *fresh_stack(char *base) {
  auto *top = reinterpret_cast<void **>(base + kStack) - 1;
  *--top = reinterpret_cast<void *>(run_fiber);
  return top - 6;
}

void reserve(size_t threads) {
  if (threads <= block.capacity) return;
  if (block.stacks != nullptr) munmap(block.stacks, block.capacity * kStack);
  void *memory =
      mmap(nullptr, threads * kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) die("no memory for the stacks of its threads");
  block.stacks = static_cast<char *>(memory);
  block.capacity = threads;
}

/* Whether a warp's lanes have all come to the same barrier; they go on then. */
bool release_warp(size_t first, size_t end) {
  uint32_t waiting = 0, mask = 0;
  for (size_t i = first; i < end; i++) {
    if (block.fibers[i].state == State::kAtWarp) {
      waiting |= 1u << (i - first);
      mask |= block.fibers[i].mask;
    }
  }
  const uint32_t present = end - first == kWarp ? 0xffffffffu : (1u << (end - first)) - 1u;
  if (waiting == 0 || (mask & present) != waiting) return false;
  for (size_t i = first; i < end; i++) {
    if (block.fibers[i].state == State::kAtWarp) block.fibers[i].state = State::kReady;
  }
  return true;
}

bool release_block() {
  for (const Fiber &fiber : block.fibers) {
    if (fiber.state != State::kAtBlock) return false;
  }
  for (Fiber &fiber : block.fibers) fiber.state = State::kReady;
  return true;
}

void run_block(const char *kernel, dim3 grid, dim3 shape, dim3 index, const std::function<void()> &body) {
  const size_t threads = static_cast<size_t>(shape.x) * shape.y * shape.z;
  block.kernel = kernel;
  block.body = &body;
  reserve(threads);
  block.fibers.resize(threads);
  for (size_t i = 0; i < threads; i++) {
    const auto t = static_cast<unsigned>(i);
    const dim3 thread(t % shape.x, t / shape.x % shape.y, t / (shape.x * shape.y));
    block.fibers[i] = {fresh_stack(block.stacks + i * kStack), State::kReady, 0, 0, {grid, shape, index, thread}};
  }
  size_t done = 0;
  while (done < threads) {
    bool moved = false;
    for (Fiber &fiber : block.fibers) {
      if (fiber.state != State::kReady) continue;
      block.running = &fiber;
      esp_emulator_switch(&block.scheduler, fiber.stack_pointer);
      moved = true;
      if (fiber.state == State::kDone) done++;
    }
    for (size_t first = 0; first < threads; first += kWarp) {
      if (release_warp(first, first + kWarp < threads ? first + kWarp : threads)) moved = true;
    }
    if (release_block()) moved = true;
    if (!moved && done < threads) die("a barrier is not reached by all threads that it waits for");
  }
}

}  // namespace

const Place &place() { return block.running->place; }

void block_barrier() { wait(State::kAtBlock); }

uint64_t exchange(uint32_t mask, uint64_t value, int source) {
  Fiber *self = block.running;
  const size_t index = static_cast<size_t>(self - block.fibers.data());
  self->mask = mask;
  self->given = value;
  wait(State::kAtWarp);
  const uint64_t taken = block.fibers[index / kWarp * kWarp + static_cast<size_t>(source)].given;
  wait(State::kAtWarp); /* nobody gives anew before all have taken */
  return taken;
}

void launch(const char *kernel, dim3 grid, dim3 shape, const std::function<void()> &body) {
  const int64_t blocks = static_cast<int64_t>(grid.x) * grid.y * grid.z;
#pragma omp parallel for schedule(dynamic, 1)
  for (int64_t i = 0; i < blocks; i++) {
    const auto b = static_cast<unsigned>(i);
    run_block(kernel, grid, shape, dim3(b % grid.x, b / grid.x % grid.y, b / (grid.x * grid.y)), body);
  }
}

}  // namespace emulator
