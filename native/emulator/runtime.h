/*
 * What the stand-ins of CUDA's runtime and of cuBLAS share: calls with their errors and faults to inject, memory,
 * streams.
 *
 * Everything is done under one lock, by the thread that calls: work waits in its stream as a closure (its arguments
 * copied), and runs when something waits for it. That is as late as CUDA allows, so that a missing synchronisation
 * shows: a result is not there yet, a staging buffer is read after it was overwritten.
 *
 * Shows: what CUDA refuses (during capture, or for arguments), in its own statuses; memory that runs out; stale data;
 * pointers to the wrong memory; leaks; that a graph replays what was captured.
 * Cannot show: that work of two streams overlaps, or what comes of it if it is not ordered; time. The legacy stream and
 * all streams that are not cudaStreamNonBlocking are one queue, which is one of the orders that CUDA may choose.
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

/* Counts a call of `function`; 0, or the status that a test asked for. */
int injected(const char *function);
/* Errors that end the context: no call succeeds after one. */
bool is_sticky(int error);
cudaError_t sticky();
void set_sticky(cudaError_t error);
void set_last_error(cudaError_t error);
/* The message of a kernel that failed, for espalier_emulator_fault() and stderr. */
void set_fault_message(const std::string &message);

/* A function of the runtime: its body under the lock, unless the context is dead or a test wants it to fail. */
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

/* The same for functions that release something: a dead context does not keep them from it. */
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
/* Where a pointer points; the byte after an allocation still belongs to it. */
Memory memory_of(const void *pointer);
/* Whether all of [pointer, pointer + bytes) is one allocation of the device. */
bool is_device(const void *pointer, size_t bytes);
/* False, with a message, if something was written outside an allocation. */
bool check_guards();

/* ---- streams (stream.cpp) ---- */

using Work = std::function<cudaError_t()>;

/* Puts work into a stream, or into the graph that is being captured from it. */
cudaError_t enqueue(cudaStream_t stream, Work work);
bool is_stream(cudaStream_t stream);
bool is_capturing(cudaStream_t stream);
/* Calls that CUDA does not allow to a thread that captures: invalidates the capture. */
cudaError_t refuse_during_capture();
/* The same for what waits for the legacy stream. */
cudaError_t refuse_legacy_during_capture();
cudaError_t run_stream(cudaStream_t stream);
cudaError_t run_everything();

/* ---- kernels (launch.cpp) ---- */

/* A launch, and the pointers among its arguments, which must be memory of the device when it runs. */
cudaError_t launch(const Launch &launch, const std::vector<const void *> &pointers, cudaStream_t stream);

}  // namespace emulator

#endif
