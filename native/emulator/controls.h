/*
 * What tests can ask of the emulator. Every function may be called at any time, from Java too.
 *
 * Environment variables set the same at the start:
 *
 *   ESPALIER_EMULATOR_SCHEDULE     a number
 *   ESPALIER_EMULATOR_MEMORY       bytes, or a number followed by K, M or G; the default is 4G
 *   ESPALIER_EMULATOR_FAIL         such as "cudaMalloc:3:2,kernel:10:719": function, which call from now, status
 *   ESPALIER_EMULATOR_STREAMS      "deferred" or "eager"
 *
 * Two more have no function:
 *
 *   ESPALIER_EMULATOR_ACCESS       "device" closes the device's memory to the host except during copies and kernels, as
 *                                  on a GPU; "any", the default, does not (arena.h)
 *   ESPALIER_EMULATOR_CAPABILITY   80, 89 or 90, the default: the compute capability by which kernels choose their way
 */
#ifndef ESPALIER_EMULATOR_CONTROLS_H
#define ESPALIER_EMULATOR_CONTROLS_H

#include <cstdint>

#pragma GCC visibility push(default)
extern "C" {

/* In which order threads and blocks run; block.h has the list. */
void espalier_emulator_schedule(int32_t schedule);
/* How much memory the device has. */
void espalier_emulator_memory(int64_t bytes);
/* 1: work waits in its stream until something waits for it, as late as CUDA allows (the default); 0: work is done at
 * once. */
void espalier_emulator_defer(int32_t deferred);
/* 1: kernels may be given memory that is not the device's, as by the kernel tests, whose memory is the host's; 0: they
 * fail (the default). */
void espalier_emulator_host_memory(int32_t allowed);

/* Makes the nth call from now (1: the next) of a function of CUDA or cuBLAS fail with `status`. "cudaLaunchKernel" is a
 * launch. "kernel" is a kernel while it runs, so its status is returned by a later call. "*" is any call of the
 * runtime. Statuses that end a CUDA context (700 and above, but not 9xx) stay: every later call fails with them. */
void espalier_emulator_fail(const char *function, int64_t nth, int32_t status);
/* Forgets all errors, also those that stay, failures asked for, counts of calls, and waiting work. Memory, streams and
 * other objects continue to exist. */
void espalier_emulator_reset();

/* How often a function was called since the start or the last reset. "kernel" counts kernels that have run, also those
 * in graphs. */
int64_t espalier_emulator_calls(const char *function);
/* How many objects of a kind have not been freed: "memory", "pinned", "stream", "event", "graph", "exec", "cublas";
 * "bytes": how much memory. */
int64_t espalier_emulator_live(const char *kind);
/* What the last kernel that failed did wrong: kernel, block, thread and fault. "" if none has failed. */
const char *espalier_emulator_fault();
}
#pragma GCC visibility pop

#endif
