/*
 * The pool of threads. One call at a time uses it. A call opens the gate (Pool::gate) for its work and shuts it when no
 * part of the work is left to take. The threads that found it open have entered by then, and the call waits until they
 * have left. A thread that comes late finds the gate shut, and nobody waits for it.
 */
#include "pool.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <climits>
#include <cstdlib>
#include <system_error>
#include <thread>
#include <vector>

namespace esp {
namespace {

/* A thread that waits spins for kPatience cycles, about a millisecond, before it sleeps: without that a step took a
 * tenth longer (on two processors of a virtual machine). After the first kMoment cycles it yields in between to
 * whatever else is ready to run on its processor, because machines are shared. */
constexpr uint64_t kPatience = 1 << 22, kMoment = 1 << 15;

/* A thread's part of the work. */
struct alignas(64) Part {
  std::atomic<int64_t> next{0};
  int64_t end = 0;
};

struct Pool {
  std::atomic<bool> taken{false}; /* whether a call is using the pool */
  int64_t workers = 0;            /* threads that have been started */

  /* What the current call wants done. */
  void (*body)(const void *, int64_t) = nullptr;
  const void *context = nullptr;
  int64_t users = 0, parts = 0;
  std::vector<Part> part;

  alignas(64) std::atomic<uint32_t> calls{0}; /* how many there were so far; a sleeping thread waits for the next one */
  std::atomic<uint32_t> sleepers{0};
  alignas(64) std::atomic<uint32_t> gate{0}; /* kOpen, plus the number of the pool's threads inside */
};

constexpr uint32_t kOpen = 1u << 31;

/* Never destroyed, because its threads may outlive the destructors that run when the process ends. */
Pool &pool() {
  static Pool *const all = new Pool;
  return *all;
}

std::atomic<int> thread_count{0};

void sleep_while(const std::atomic<uint32_t> &word, uint32_t value) {
  syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0);
}

void wake(const std::atomic<uint32_t> &word, int most) {
  syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, most, nullptr, nullptr, 0);
}

/* Spins until `done`, for at most kPatience. Returns whether it became true. */
template <typename Done>
bool soon(const Done &done) {
  const uint64_t begin = __builtin_ia32_rdtsc();
  for (;;) {
    for (int i = 0; i < 16; i++) {
      if (done()) return true;
      __builtin_ia32_pause();
    }
    const uint64_t waited = __builtin_ia32_rdtsc() - begin;
    if (waited > kPatience) return false;
    if (waited > kMoment) sched_yield();
  }
}

/* Does part `own`, and then what is left of the others. */
void work(Pool &p, int64_t own) {
  for (int64_t turn = 0; turn < p.parts; turn++) {
    Part &part = p.part[static_cast<size_t>((own + turn) % p.parts)];
    for (int64_t i; part.next.load(std::memory_order_relaxed) < part.end &&
                    (i = part.next.fetch_add(1, std::memory_order_relaxed)) < part.end;) {
      p.body(p.context, i);
    }
  }
}

/* What a thread of the pool does until the process ends. Its part is `own`, if a call has that many. */
[[noreturn]] void serve(Pool &p, int64_t own) {
  uint32_t seen = 0;
  for (;;) {
    const auto called = [&] { return p.calls.load(std::memory_order_acquire) != seen; };
    while (!soon(called)) {
      p.sleepers.fetch_add(1);
      sleep_while(p.calls, seen);
      p.sleepers.fetch_sub(1);
    }
    seen = p.calls.load(std::memory_order_acquire);
    uint32_t gate = p.gate.load(std::memory_order_relaxed);
    while ((gate & kOpen) != 0 && !p.gate.compare_exchange_weak(gate, gate + 1, std::memory_order_acquire)) {
    }
    if ((gate & kOpen) == 0) continue;
    if (own < p.users) work(p, own);
    /* The last thread to leave through a shut gate wakes the call, which may be asleep. */
    if (p.gate.fetch_sub(1, std::memory_order_acq_rel) == 1) wake(p.gate, 1);
  }
}

/* Starts one more thread. Returns false if the system allows no more. */
bool start_worker(Pool &p) {
  try {
    std::thread worker([&p, own = p.workers + 1] { serve(p, own); });
    pthread_setname_np(worker.native_handle(), "espalier");
    worker.detach();
    return true;
  } catch (const std::system_error &) {
    return false;
  }
}

/* As many as OMP_NUM_THREADS says, which other libraries in the process follow as well. Without it one for each
 * processor. */
int usual_threads() {
  const char *const said = std::getenv("OMP_NUM_THREADS");
  const long count = said == nullptr ? 0 : std::strtol(said, nullptr, 10);
  if (count > 0) return static_cast<int>(std::min<long>(count, kMostThreads));
  cpu_set_t set;
  return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

}  // namespace

int threads() {
  static const int usual = usual_threads();
  const int count = thread_count.load(std::memory_order_relaxed);
  return count > 0 ? count : usual;
}

void set_threads(int count) { thread_count.store(count, std::memory_order_relaxed); }

void run(int64_t n, Share share, void (*body)(const void *context, int64_t i), const void *context) noexcept {
  Pool &p = pool();
  const int64_t users = std::min<int64_t>(n, threads());
  if (users <= 1 || p.taken.exchange(true, std::memory_order_acquire)) {
    for (int64_t i = 0; i < n; i++) body(context, i);
    return;
  }
  p.body = body;
  p.context = context;
  const int64_t parts = share == Share::kInOrder ? 1 : users;
  p.users = users;
  p.parts = parts;
  if (static_cast<int64_t>(p.part.size()) < parts) p.part = std::vector<Part>(static_cast<size_t>(parts));
  for (int64_t i = 0; i < parts; i++) {
    p.part[static_cast<size_t>(i)].next.store(n * i / parts, std::memory_order_relaxed);
    p.part[static_cast<size_t>(i)].end = n * (i + 1) / parts;
  }
  while (p.workers < users - 1 && start_worker(p)) p.workers++; /* if fewer can be started, they still take all parts */
  p.gate.store(kOpen, std::memory_order_release);
  p.calls.fetch_add(1);
  if (p.sleepers.load() > 0) wake(p.calls, INT_MAX);

  work(p, 0);

  p.gate.fetch_and(~kOpen, std::memory_order_acq_rel);
  const auto empty = [&p] { return p.gate.load(std::memory_order_acquire) == 0; };
  while (!soon(empty)) {
    const uint32_t inside = p.gate.load(std::memory_order_acquire);
    if (inside != 0) sleep_while(p.gate, inside);
  }
  p.taken.store(false, std::memory_order_release);
}

}  // namespace esp
