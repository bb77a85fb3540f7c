/*
 * The functions of NCCL that Espalier calls, between processes of one machine: each pair of ranks has a mailbox in
 * shared memory for each direction. A message waits until its mailbox is empty, a receiver until it is full; every
 * collective is a group of messages. It shows that all ranks ask for the same in the same order, and nothing of speed.
 */
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "cudart.h"

extern "C" {

typedef enum { ncclSuccess = 0, ncclSystemError = 2, ncclInvalidArgument = 4, ncclInvalidUsage = 5 } ncclResult_t;
typedef enum { ncclInt8 = 0, ncclFloat32 = 7 } ncclDataType_t;
typedef enum { ncclSum = 0 } ncclRedOp_t;
typedef struct {
  char internal[128];
} ncclUniqueId;
typedef struct ncclComm *ncclComm_t;
}

namespace {

constexpr int kMaxRanks = 8;
constexpr size_t kBoxBytes = 64 << 10;

struct Box {
  std::atomic<uint32_t> bytes; /* of a message that waits; 0: empty */
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
  size_t done = 0;
};

thread_local int depth = 0;
thread_local std::vector<Message> group;

size_t size_of(ncclDataType_t type) { return type == ncclFloat32 ? 4 : 1; }

}  // namespace

struct ncclComm {
  Shared *shared;
  int rank, size;
};

namespace {

/* Moves a piece if it can. */
bool advance(Message &m) {
  Box &box = m.sends ? m.comm->shared->boxes[m.comm->rank][m.peer] : m.comm->shared->boxes[m.peer][m.comm->rank];
  uint32_t waiting = box.bytes.load(std::memory_order_acquire);
  if (m.sends == (waiting != 0)) return false;
  if (m.sends) {
    size_t piece = std::min(kBoxBytes, m.bytes - m.done);
    std::memcpy(box.data, m.data + m.done, piece);
    m.done += piece;
    box.bytes.store(static_cast<uint32_t>(piece), std::memory_order_release);
  } else {
    std::memcpy(m.data + m.done, box.data, waiting);
    m.done += waiting;
    box.bytes.store(0, std::memory_order_release);
  }
  return true;
}

void deliver(std::vector<Message> &messages) {
  for (;;) {
    bool finished = true, moved = false;
    for (size_t i = 0; i < messages.size(); i++) {
      Message &m = messages[i];
      if (m.done == m.bytes) continue;
      finished = false;
      bool first = std::none_of(messages.begin(), messages.begin() + static_cast<long>(i), [&](const Message &other) {
        return other.done < other.bytes && other.peer == m.peer && other.sends == m.sends;
      });
      if (first && advance(m)) moved = true;
    }
    if (finished) return;
    if (!moved) sched_yield();
  }
}

ncclResult_t queue(ncclComm_t comm, bool sends, const void *data, size_t bytes, int peer, cudaStream_t stream) {
  if (peer < 0 || peer >= comm->size) return ncclInvalidArgument;
  if (cudaStreamSynchronize(stream) != cudaSuccess) return ncclInvalidUsage;
  group.push_back({comm, sends, static_cast<char *>(const_cast<void *>(data)), bytes, peer});
  return ncclSuccess;
}

ncclResult_t end_unless_grouped() {
  if (depth == 0) {
    deliver(group);
    group.clear();
  }
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

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  munmap(comm->shared, sizeof(Shared));
  delete comm;
  return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm) { return ncclCommDestroy(comm); }

ncclResult_t ncclCommGetAsyncError(ncclComm_t, ncclResult_t *error) {
  *error = ncclSuccess;
  return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t result) { return result == ncclSuccess ? "no error" : "refused"; }

const char *ncclGetLastError(ncclComm_t) { return ""; }

ncclResult_t ncclGroupStart() {
  depth++;
  return ncclSuccess;
}

ncclResult_t ncclGroupEnd() {
  if (depth == 0) return ncclInvalidUsage;
  depth--;
  return end_unless_grouped();
}

ncclResult_t ncclSend(const void *data, size_t n, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream) {
  ncclResult_t result = queue(comm, true, data, n * size_of(type), peer, stream);
  return result == ncclSuccess ? end_unless_grouped() : result;
}

ncclResult_t ncclRecv(void *data, size_t n, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream) {
  ncclResult_t result = queue(comm, false, data, n * size_of(type), peer, stream);
  return result == ncclSuccess ? end_unless_grouped() : result;
}

ncclResult_t ncclBroadcast(const void *from, void *to, size_t n, ncclDataType_t type, int root, ncclComm_t comm,
                           cudaStream_t stream) {
  size_t bytes = n * size_of(type);
  if (comm->rank == root) {
    if (from != to) std::memcpy(to, from, bytes);
    for (int r = 0; r < comm->size; r++) {
      if (r != root) queue(comm, true, from, bytes, r, stream);
    }
  } else {
    queue(comm, false, to, bytes, root, stream);
  }
  return end_unless_grouped();
}

ncclResult_t ncclAllGather(const void *from, void *to, size_t n, ncclDataType_t type, ncclComm_t comm,
                           cudaStream_t stream) {
  size_t bytes = n * size_of(type);
  for (int r = 0; r < comm->size; r++) {
    char *part = static_cast<char *>(to) + static_cast<size_t>(r) * bytes;
    if (r == comm->rank) {
      if (cudaStreamSynchronize(stream) != cudaSuccess) return ncclInvalidUsage;
      std::memmove(part, from, bytes);
    } else {
      queue(comm, true, from, bytes, r, stream);
      queue(comm, false, part, bytes, r, stream);
    }
  }
  return end_unless_grouped();
}

ncclResult_t ncclAllReduce(const void *from, void *to, size_t n, ncclDataType_t type, ncclRedOp_t op, ncclComm_t comm,
                           cudaStream_t stream) {
  if (type != ncclFloat32 || op != ncclSum || depth > 0) return ncclInvalidUsage;
  std::vector<float> all(n * static_cast<size_t>(comm->size));
  ncclResult_t result = ncclAllGather(from, all.data(), n, type, comm, stream);
  if (result != ncclSuccess) return result;
  float *sum = static_cast<float *>(to);
  for (size_t i = 0; i < n; i++) {
    float x = 0;
    for (int r = 0; r < comm->size; r++) x += all[static_cast<size_t>(r) * n + i];
    sum[i] = x;
  }
  return ncclSuccess;
}
}
