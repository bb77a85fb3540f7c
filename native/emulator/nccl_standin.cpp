/*
 * The functions of NCCL that Espalier calls, between processes of one machine. Each pair of ranks has a mailbox in
 * shared memory for each direction. A message waits until its mailbox is empty, and a receiver until it is full. Every
 * collective is a group of messages. Like kernels, these groups go to a stream, run when something waits for it, are
 * captured into graphs, and accept only memory of the device.
 *
 * Shows: whether all ranks ask for the same in the same order, all in a graph or none; and whether graphs are destroyed
 * before their communicator. Cannot show: speed.
 */
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "runtime.h"

extern "C" {

typedef enum {
  ncclSuccess = 0,
  ncclUnhandledCudaError = 1,
  ncclSystemError = 2,
  ncclInvalidArgument = 4,
  ncclInvalidUsage = 5
} ncclResult_t;
typedef enum { ncclInt8 = 0, ncclInt32 = 2, ncclFloat32 = 7 } ncclDataType_t;
typedef enum { ncclSum = 0, ncclMax = 2 } ncclRedOp_t;
typedef struct {
  char internal[128];
} ncclUniqueId;
typedef struct ncclComm *ncclComm_t;
}

namespace {

constexpr int kMaxRanks = 8;
constexpr size_t kBoxBytes = 64 << 10;

struct Box {
  std::atomic<uint32_t> bytes; /* the size of the waiting message; 0: empty */
  bool captured;               /* whether its sender had it in a graph */
  char data[kBoxBytes];
};

struct Shared {
  std::atomic<int> arrived;
  Box boxes[kMaxRanks][kMaxRanks]; /* [from][to] */
};

struct Message {
  ncclComm_t comm;
  bool sends;
  char *data;
  size_t bytes;
  int peer;
  bool captured = false; /* whether it is part of a graph */
  size_t done = 0;
};

/* What is done together when the stream comes to it: first copies within a rank, then messages, then sums. */
struct Group {
  std::vector<std::function<void()>> before, after;
  std::vector<Message> messages;
  std::vector<std::pair<const void *, size_t>> memory; /* of the device */
  cudaStream_t stream;
};

thread_local int depth = 0;
thread_local Group group;
thread_local const char *last_error = "";

size_t size_of(ncclDataType_t type) { return type == ncclInt8 ? 1 : 4; }

}  // namespace

struct ncclComm {
  Shared *shared;
  int rank, size;
  std::shared_ptr<const int> graphs = std::make_shared<const int>(0); /* graphs with its messages hold it, too */
};

namespace {

enum class Advance { kWaits, kMoved, kRefused };

/* Moves a piece of the message if it can. Refuses a message that is part of a graph on one side only: for graphs NCCL
 * registers buffers, of which both sides must know ("Whether an operation launch is graph-captured is considered a
 * collective property of that operation", NCCL's documentation, "Using NCCL with CUDA Graphs"). */
Advance advance(Message &m) {
  Box &box = m.sends ? m.comm->shared->boxes[m.comm->rank][m.peer] : m.comm->shared->boxes[m.peer][m.comm->rank];
  uint32_t waiting = box.bytes.load(std::memory_order_acquire);
  if (m.sends == (waiting != 0)) return Advance::kWaits;
  if (m.sends) {
    size_t piece = std::min(kBoxBytes, m.bytes - m.done);
    std::memcpy(box.data, m.data + m.done, piece);
    box.captured = m.captured;
    m.done += piece;
    box.bytes.store(static_cast<uint32_t>(piece), std::memory_order_release);
  } else {
    if (box.captured != m.captured) return Advance::kRefused;
    std::memcpy(m.data + m.done, box.data, waiting);
    m.done += waiting;
    box.bytes.store(0, std::memory_order_release);
  }
  return Advance::kMoved;
}

/* Delivers all messages. Returns false if one was refused. */
bool deliver(std::vector<Message> messages) {
  for (;;) {
    bool finished = true, moved = false;
    for (size_t i = 0; i < messages.size(); i++) {
      Message &m = messages[i];
      if (m.done == m.bytes) continue;
      finished = false;
      bool first = std::none_of(messages.begin(), messages.begin() + static_cast<long>(i), [&](const Message &other) {
        return other.done < other.bytes && other.peer == m.peer && other.sends == m.sends;
      });
      const Advance result = first ? advance(m) : Advance::kWaits;
      if (result == Advance::kRefused) return false;
      if (result == Advance::kMoved) moved = true;
    }
    if (finished) return true;
    if (!moved) sched_yield();
  }
}

cudaError_t run(const Group &g) {
  for (const auto &[pointer, bytes] : g.memory) {
    if (bytes == 0 || emulator::is_device(pointer, bytes)) continue;
    emulator::set_fault_message("a message of NCCL reaches beyond the device's memory");
    return cudaErrorIllegalAddress;
  }
  for (const auto &work : g.before) work();
  if (!deliver(g.messages)) {
    emulator::set_fault_message("a message of NCCL is part of a graph on one rank and not on another");
    return cudaErrorLaunchFailure;
  }
  for (const auto &work : g.after) work();
  return cudaSuccess;
}

void add_message(ncclComm_t comm, bool sends, const void *data, size_t bytes, int peer) {
  group.messages.push_back({comm, sends, static_cast<char *>(const_cast<void *>(data)), bytes, peer});
}

ncclResult_t end_unless_grouped() {
  if (depth > 0) return ncclSuccess;
  Group complete = std::move(group);
  group = Group{};
  std::vector<std::shared_ptr<const int>> held;
  if (emulator::is_capturing(complete.stream)) {
    for (Message &m : complete.messages) {
      m.captured = true;
      held.push_back(m.comm->graphs);
    }
  }
  const cudaError_t error = emulator::enqueue(complete.stream, [complete, held] { return run(complete); });
  return error == cudaSuccess ? ncclSuccess : ncclUnhandledCudaError;
}

/* A function that takes a stream. body() adds to the group, which goes to the stream once it is complete. */
template <typename Body>
ncclResult_t call(const char *function, cudaStream_t stream, const Body &body) {
  const std::lock_guard<std::recursive_mutex> guard(emulator::lock());
  if (const int asked = emulator::injected(function)) return static_cast<ncclResult_t>(asked);
  group.stream = stream;
  const ncclResult_t result = body();
  return result == ncclSuccess ? end_unless_grouped() : result;
}

ncclResult_t send_or_receive(const char *function, bool sends, const void *data, size_t bytes, int peer,
                             ncclComm_t comm, cudaStream_t stream) {
  return call(function, stream, [=] {
    if (peer < 0 || peer >= comm->size) return ncclInvalidArgument;
    group.memory.emplace_back(data, bytes);
    add_message(comm, sends, data, bytes, peer);
    return ncclSuccess;
  });
}

/* Copies the `from` of all ranks to the `to` of all ranks, one rank after another. */
void gather(const void *from, char *to, size_t bytes, ncclComm_t comm) {
  for (int r = 0; r < comm->size; r++) {
    char *part = to + static_cast<size_t>(r) * bytes;
    if (r == comm->rank) {
      group.before.push_back([=] { std::memmove(part, from, bytes); });
    } else {
      add_message(comm, true, from, bytes, r);
      add_message(comm, false, part, bytes, r);
    }
  }
}

template <typename T, typename Combine>
ncclResult_t reduce(const void *from, void *to, size_t n, ncclComm_t comm, const Combine &combine) {
  const auto all = std::make_shared<std::vector<T>>(n * static_cast<size_t>(comm->size));
  gather(from, reinterpret_cast<char *>(all->data()), n * sizeof(T), comm);
  group.after.push_back([=] {
    T *result = static_cast<T *>(to);
    for (size_t i = 0; i < n; i++) {
      T x = (*all)[i];
      for (int r = 1; r < comm->size; r++) x = combine(x, (*all)[static_cast<size_t>(r) * n + i]);
      result[i] = x;
    }
  });
  return ncclSuccess;
}

}  // namespace

extern "C" {

ncclResult_t ncclGetVersion(int *version) {
  *version = 0;
  return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
  std::string name = "/espalier-nccl-" + std::to_string(getpid()) + "-" + std::to_string(std::random_device{}());
  std::memset(id->internal, 0, sizeof id->internal);
  std::memcpy(id->internal, name.c_str(), name.size());
  return ncclSuccess;
}

ncclResult_t ncclCommInitRank(ncclComm_t *comm, int size, ncclUniqueId id, int rank) {
  if (size < 1 || size > kMaxRanks || rank < 0 || rank >= size) return ncclInvalidArgument;
  int file = shm_open(id.internal, O_CREAT | O_RDWR, 0600);
  if (file < 0 || ftruncate(file, sizeof(Shared)) != 0) return ncclSystemError;
  void *memory = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  if (memory == MAP_FAILED) return ncclSystemError;
  *comm = new ncclComm{static_cast<Shared *>(memory), rank, size};
  (*comm)->shared->arrived++;
  while ((*comm)->shared->arrived < size) sched_yield();
  if (rank == 0) shm_unlink(id.internal);
  return ncclSuccess;
}

/* NCCL does not wait for the stream either. But it waits until all graphs with its messages have been destroyed: for
 * ever, if the caller is the one who would destroy them (commDestroySync in NCCL's init.cc). */
ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  if (comm->graphs.use_count() > 1) {
    last_error = "NCCL would wait for a graph that has messages of this communicator";
    return ncclInvalidUsage;
  }
  munmap(comm->shared, sizeof(Shared));
  delete comm;
  return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t result) { return result == ncclSuccess ? "no error" : "refused"; }

const char *ncclGetLastError(ncclComm_t) { return last_error; }

ncclResult_t ncclGroupStart() {
  depth++;
  return ncclSuccess;
}

ncclResult_t ncclGroupEnd() {
  const std::lock_guard<std::recursive_mutex> guard(emulator::lock());
  if (depth == 0) return ncclInvalidUsage;
  depth--;
  return end_unless_grouped();
}

ncclResult_t ncclSend(const void *data, size_t n, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream) {
  return send_or_receive("ncclSend", true, data, n * size_of(type), peer, comm, stream);
}

ncclResult_t ncclRecv(void *data, size_t n, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream) {
  return send_or_receive("ncclRecv", false, data, n * size_of(type), peer, comm, stream);
}

ncclResult_t ncclBroadcast(const void *from, void *to, size_t n, ncclDataType_t type, int root, ncclComm_t comm,
                           cudaStream_t stream) {
  return call("ncclBroadcast", stream, [=] {
    const size_t bytes = n * size_of(type);
    group.memory.emplace_back(to, bytes);
    if (comm->rank != root) {
      add_message(comm, false, to, bytes, root);
      return ncclSuccess;
    }
    group.memory.emplace_back(from, bytes);
    if (from != to) group.before.push_back([=] { std::memcpy(to, from, bytes); });
    for (int r = 0; r < comm->size; r++) {
      if (r != root) add_message(comm, true, from, bytes, r);
    }
    return ncclSuccess;
  });
}

ncclResult_t ncclAllGather(const void *from, void *to, size_t n, ncclDataType_t type, ncclComm_t comm,
                           cudaStream_t stream) {
  return call("ncclAllGather", stream, [=] {
    const size_t bytes = n * size_of(type);
    group.memory.emplace_back(from, bytes);
    group.memory.emplace_back(to, bytes * static_cast<size_t>(comm->size));
    gather(from, static_cast<char *>(to), bytes, comm);
    return ncclSuccess;
  });
}

ncclResult_t ncclAllReduce(const void *from, void *to, size_t n, ncclDataType_t type, ncclRedOp_t op, ncclComm_t comm,
                           cudaStream_t stream) {
  return call("ncclAllReduce", stream, [=] {
    group.memory.emplace_back(from, n * size_of(type));
    group.memory.emplace_back(to, n * size_of(type));
    if (type == ncclFloat32 && op == ncclSum) {
      return reduce<float>(from, to, n, comm, [](float a, float b) { return a + b; });
    }
    if (type == ncclInt32 && op == ncclMax) {
      return reduce<int32_t>(from, to, n, comm, [](int32_t a, int32_t b) { return std::max(a, b); });
    }
    return ncclInvalidUsage;
  });
}
}
