/* The range of addresses of arena.h, and the message for a fault within it. */
#include "arena.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace emulator {
namespace {

constexpr size_t kReserved = size_t{1} << 40; /* addresses, not memory */
constexpr size_t kPage = 4096;

bool asked_for() {
  const char *access = std::getenv("ESPALIER_EMULATOR_ACCESS");
  if (access == nullptr || std::strcmp(access, "any") == 0) return false;
  if (std::strcmp(access, "device") == 0) return true;
  std::fprintf(stderr, "ESPALIER_EMULATOR_ACCESS: \"%s\" is not \"any\" or \"device\"\n", access);
  std::exit(2);
}

const bool closed_to_host = asked_for();

char *begin = nullptr;
size_t taken = 0; /* how many bytes from begin on have been handed out; the rest is always closed */
int64_t live = 0, depth = 0;

struct sigaction previous;

size_t whole_pages(size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

void protect(char *pages, size_t bytes, int protection) {
  if (bytes == 0 || mprotect(pages, bytes, protection) == 0) return;
  std::perror("emulator: mprotect");
  std::abort();
}

/* Passes the fault on to the Java machine as a bus error, which it otherwise gets when a mapped file becomes shorter.
 * If Java code accessed the memory it throws an InternalError with a stack trace; if native code did it writes its
 * report. The previous handler is the Java machine's, which uses faults elsewhere for itself. */
void on_fault(int signal, siginfo_t *info, void *context) {
  const auto *at = static_cast<const char *>(info->si_addr);
  if (at >= begin && at < begin + kReserved) {
    constexpr char kMessage[] = "emulator: the host touched memory of the device; only copies and kernels may\n";
    if (write(STDERR_FILENO, kMessage, sizeof kMessage - 1) < 0) _exit(2);
    signal = info->si_signo = SIGBUS;
  }
  if ((previous.sa_flags & SA_SIGINFO) != 0) {
    previous.sa_sigaction(signal, info, context);
  } else {
    sigaction(SIGSEGV, &previous, nullptr); /* the fault comes again, and ends the process */
  }
}

bool reserve() {
  if (begin != nullptr) return true;
  void *range = mmap(nullptr, kReserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (range == MAP_FAILED) return false;
  begin = static_cast<char *>(range);
  madvise(range, kReserved, MADV_HUGEPAGE); /* opening and closing takes time for each page */
  sigaction(SIGSEGV, nullptr, &previous);
  struct sigaction action = previous;
  action.sa_flags |= SA_SIGINFO;
  action.sa_sigaction = on_fault;
  return sigaction(SIGSEGV, &action, nullptr) == 0;
}

}  // namespace

bool is_closed_to_host() { return closed_to_host; }

void *take_pages(size_t bytes) {
  bytes = whole_pages(bytes);
  if (!reserve() || bytes > kReserved - taken) return nullptr;
  char *pages = begin + taken;
  taken += bytes;
  live++;
  if (depth > 0) protect(pages, bytes, PROT_READ | PROT_WRITE);
  return pages;
}

void give_pages_back(void *pages, size_t bytes) {
  madvise(pages, whole_pages(bytes), MADV_DONTNEED);
  if (--live == 0) taken = 0;
}

DeviceAccess::DeviceAccess() {
  if (depth++ == 0) protect(begin, taken, PROT_READ | PROT_WRITE);
}

DeviceAccess::~DeviceAccess() {
  if (--depth == 0) protect(begin, taken, PROT_NONE);
}

}  // namespace emulator
