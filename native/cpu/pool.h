/*
 * The threads that share the work of a kernel: the one that calls it and the pool's, which live as long as the process.
 * Internal.
 *
 * A step calls some 250 kernels, most of which take less than a millisecond. So what counts is how soon the other
 * threads begin: a thread that has nothing to do looks for work for a while before it sleeps.
 */
#ifndef ESPALIER_CPU_POOL_H
#define ESPALIER_CPU_POOL_H

#include <cstdint>

namespace esp {

constexpr int kMostThreads = 1024;

/* Threads that a kernel uses. */
int threads();

/* As many as `count` from now on; 0: the usual number, see esp_set_threads. */
void set_threads(int count);

/* How tasks are distributed over threads. Either each thread takes the next task in order. Or each has a part of its
 * own, the same from call to call, so that what it wrote in one kernel is in its cache in the next; when it is done it
 * helps the others. */
enum class Share { kInOrder, kOwnParts };

/* Calls body(context, i) once for every i in [0, n), on the calling thread and those of the pool. If it is itself
 * called from a body, or while another thread uses the pool, the calling thread does everything. */
void run(int64_t n, Share share, void (*body)(const void *context, int64_t i), const void *context) noexcept;

}  // namespace esp

#endif
