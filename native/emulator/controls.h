/*
 * What tests ask of the emulator; every function may be called at any time, from Java too.
 *
 * The environment sets the same at start: ESPALIER_EMULATOR_SCHEDULE (a number), ESPALIER_EMULATOR_MEMORY (bytes, or
 * with K, M or G behind the number; 4G unless set), ESPALIER_EMULATOR_FAIL ("cudaMalloc:3:2,kernel:10:719": function,
 * which call from now, status), ESPALIER_EMULATOR_STREAMS ("deferred" or "eager"). Two have no function:
 * ESPALIER_EMULATOR_ACCESS: "device" closes the device's memory to the host, but for copies and kernels, as a GPU does
 * ("any" does not, the default; see arena.h). ESPALIER_EMULATOR_CAPABILITY: 80, 89 or 90, by which kernels choose their
 * way (90 unless set).
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
/* 1: work waits in its stream until something waits for it, as late as CUDA allows (the default); 0: it is done at
 * once. */
void espalier_emulator_defer(int32_t deferred);
/* 1: kernels may be given memory that is not the device's (the kernel tests' is the host's); 0 (the default): they
 * fail. */
void espalier_emulator_host_memory(int32_t allowed);

/* The nth call from now (1: the next) of a function of CUDA or cuBLAS fails with `status`. "cudaLaunchKernel" is a
 * launch, "kernel" a kernel while it runs, so that the status comes with a later call; "*" any call of the runtime.
 * Statuses that end a CUDA context (700 and on, but 9xx) stay: every later call fails with them. */
void espalier_emulator_fail(const char *function, int64_t nth, int32_t status);
/* Forgets errors, sticky ones too, faults to come, counts of calls and work that waits. What lives goes on living. */
void espalier_emulator_reset();

/* Calls of a function since the start or the last reset; "kernel" counts kernels that were run, in graphs too. */
int64_t espalier_emulator_calls(const char *function);
/* How many of a kind are not freed: "memory", "pinned", "stream", "event", "graph", "exec", "cublas"; "bytes" of
 * memory. */
int64_t espalier_emulator_live(const char *kind);
/* What the last kernel that failed did wrong: kernel, block, thread, fault; "" if none failed. */
const char *espalier_emulator_fault();
}
#pragma GCC visibility pop

#endif
