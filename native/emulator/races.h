/*
 * Finds races between the threads of a launch (preset emulator-races). The compiler marks each load and store of the
 * kernels by -fsanitize=thread; the functions that it calls are ours (races.cpp) instead of ThreadSanitizer's.
 *
 * What a race is: two threads of a launch access the same byte, not both by reading and not both by atomics, and no
 * barrier lies between. The barriers are that of the cluster for threads of its blocks, __syncthreads for threads of a
 * block, a warpgroup's barrier for its threads, and __syncwarp for lanes of a warp. Shuffles and votes order nothing,
 * as CUDA says. Different clusters, and blocks outside clusters, are never ordered. It does not matter whether the
 * accesses came in the right order this time: a missing barrier is found under any schedule, if a test executes the
 * accesses.
 *
 * It also fills shared memory with 0xFF when it is read for the first time without having been written, and refuses
 * vector accesses that are not aligned to their size.
 *
 * Cannot show: races on a shared variable whose address is never taken, because the compiler does not mark those (a
 * scalar that one thread sets: schedules find that); races that only other inputs would cause; misuse of __threadfence
 * and flags (blocks that wait for each other are reported as a race). A __syncwarp of some lanes is taken to order them
 * with all that the earliest of them saw: with masks that overlap a race may be missed.
 */
#ifndef ESPALIER_EMULATOR_RACES_H
#define ESPALIER_EMULATOR_RACES_H

#include <cstddef>
#include <cstdint>

#include "block.h"

namespace emulator::races {

#ifdef ESPALIER_EMULATOR_RACES
constexpr bool kDetected = true;
void start_launch();
struct SharedMemory {
  Range dynamic, variables;
};
/* `dynamic` is where the dynamic shared memory of all blocks lies. After it start_block must be called for each block,
 * beginning with rank 0. */
void start_cluster(Range dynamic);
/* `stacks` are those of the fibers; what lies there belongs to one thread. The block is then the selected one. */
void start_block(const SharedMemory &shared, Range stacks);
void select_block(unsigned rank);
void run(unsigned thread);
void block_barrier();
void cluster_barrier();
void group_barrier(unsigned first, unsigned threads); /* `threads` is 128 */
/* The lanes of the running thread's warp that are set in `present` have reached a __syncwarp. */
void warp_barrier(uint32_t present);
void read(const void *address, size_t bytes);
void write(const void *address, size_t bytes);
void atomic(const void *address, size_t bytes);
#else
constexpr bool kDetected = false;
struct SharedMemory {
  Range dynamic, variables;
};
inline void start_launch() {}
inline void start_cluster(Range) {}
inline void start_block(const SharedMemory &, Range) {}
inline void select_block(unsigned) {}
inline void run(unsigned) {}
inline void block_barrier() {}
inline void cluster_barrier() {}
inline void group_barrier(unsigned, unsigned) {}
inline void warp_barrier(uint32_t) {}
inline void read(const void *, size_t) {}
inline void write(const void *, size_t) {}
inline void atomic(const void *, size_t) {}
#endif

}  // namespace emulator::races

#endif
