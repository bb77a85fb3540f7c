/*
 * Finds races between the threads of a launch (preset emulator-races). The compiler marks each load and store of the
 * kernels by -fsanitize=thread, whose functions are ours (races.cpp) instead of ThreadSanitizer's.
 *
 * Two accesses to a byte, not both reads and not both atomic, by two threads of a launch, are a race unless a barrier
 * lies between them: the cluster's for threads of its blocks, __syncthreads for threads of a block, a warpgroup's
 * barrier for its threads, __syncwarp for lanes of a warp. Shuffles and votes order nothing, as CUDA says. Clusters,
 * and blocks that are in none, are never ordered. Whether the accesses came in the right order this time does not
 * matter: a missing barrier is found under any schedule, if a test comes by.
 *
 * Also fills shared memory with 0xFF when it is first read and was not written, and refuses vector accesses that are
 * not aligned to their size.
 *
 * Cannot show: races on a shared variable whose address nobody takes, as the compiler does not mark those (a scalar
 * that one thread sets: schedules find that); races that only other inputs would bring about; misuse of __threadfence
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
/* `dynamic`: where all dynamic shared memory lies. Then start_block of each block, of rank 0 first. */
void start_cluster(Range dynamic);
/* `stacks`: of the fibers; what lies there is a thread's own. The block is selected then. */
void start_block(const SharedMemory &shared, Range stacks);
void select_block(unsigned rank);
void run(unsigned thread);
void block_barrier();
void cluster_barrier();
void group_barrier(unsigned first, unsigned threads); /* 128 of them */
/* The lanes of the running thread's warp that are set in `present` have come to a __syncwarp. */
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
