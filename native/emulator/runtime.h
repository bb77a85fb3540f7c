/*
 * What the stand-ins for CUDA's runtime and for cuBLAS share: calls with their errors and failures to inject, memory,
 * streams.
 *
 * The thread that calls does all work itself, under one lock. Work waits in its stream as a closure with a copy of its
 * arguments, and runs when something waits for it. That is as late as CUDA allows. So a missing synchronisation shows:
 * a result does not exist yet, or a staging buffer is read after it was overwritten.
 *
 * Shows: what CUDA refuses (during capture, or because of arguments), with CUDA's own statuses; memory that runs out;
 * stale data; pointers to the wrong memory; leaks; that a graph replays what was captured.
 *
 * Cannot show: that work of two streams overlaps, or what happens if it is not ordered; time. The legacy stream and all
 * streams that are not cudaStreamNonBlocking are one queue, which is one of the orders that CUDA may choose.
 */
#ifndef ESPALIER_EMULATOR_RUNTIME_H
#define ESPALIER_EMULATOR_RUNTIME_H

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "block.h"
#include "cudart.h"

namespace emulator {

std::recursive_mutex &lock();

/* ---- errors (errors.cpp) ---- */

/* Counts a call of `function`. Returns 0, or the status that a test asked for. */
int injected(const char *function);
/* Whether an error ends the context: no call succeeds after it. */
bool is_sticky(int error);
cudaError_t sticky();
void set_sticky(cudaError_t error);
void set_last_error(cudaError_t error);
/* Stores the message of a kernel that failed, for espalier_emulator_fault() and stderr. */
void set_fault_message(const std::string &message);

/* A function of the runtime. Its body runs under the lock, unless the context is dead or a test wants the function to
 * fail. */
template <typename Body>
cudaError_t call(const char *function, Body body) {
  const std::lock_guard<std::recursive_mutex> guard(lock());
  const auto asked = static_cast<cudaError_t>(injected(function));
  if (is_sticky(asked)) set_sticky(asked);
  cudaError_t error = sticky();
  if (error == cudaSuccess) error = asked != cudaSuccess ? asked : body();
  if (error != cudaSuccess && error != cudaErrorNotReady) set_last_error(error);
  return error;
}

/* The same for functions that release something: they work also in a dead context. */
template <typename Body>
cudaError_t call_release(const char *function, Body body) {
  const cudaError_t error = call(function, [] { return cudaSuccess; });
  if (error != cudaSuccess && !is_sticky(error)) return error;
  const std::lock_guard<std::recursive_mutex> guard(lock());
  const cudaError_t own = body();
  if (own != cudaSuccess) set_last_error(own);
  return error != cudaSuccess ? error : own;
}

/* ---- memory (memory.cpp) ---- */

enum class Memory { kHost, kPinned, kDevice };
/* Which memory a pointer points to. The byte after an allocation still counts as the allocation's. */
Memory memory_of(const void *pointer);
/* Whether all of [pointer, pointer + bytes) is one allocation of the device. */
bool is_device(const void *pointer, size_t bytes);
/* Returns false, and prints a message, if something was written outside an allocation. */
bool check_guards();

/* ---- streams (stream.cpp) ---- */

using Work = std::function<cudaError_t()>;

/* Adds work to a stream, or to the graph that is being captured from it. */
cudaError_t enqueue(cudaStream_t stream, Work work);
bool is_stream(cudaStream_t stream);
bool is_capturing(cudaStream_t stream);
/* For calls that CUDA does not allow to a thread that captures: invalidates the capture. */
cudaError_t refuse_during_capture();
/* The same for calls that wait for the legacy stream. */
cudaError_t refuse_legacy_during_capture();
cudaError_t run_stream(cudaStream_t stream);
cudaError_t run_everything();

/* ---- kernels (launch.cpp) ---- */

/* Queues a launch. The pointers among its arguments must be memory of the device when it runs. */
cudaError_t launch(const Launch &launch, const std::vector<const void *> &pointers, cudaStream_t stream);

}  // namespace emulator

#endif
