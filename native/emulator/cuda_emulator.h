/*
 * The part of CUDA that native/cuda uses, for the host. The same source files compile with a C++ compiler against this
 * header and run in tests where there is no GPU. device.cuh includes it where nvcc would include CUDA's header.
 *
 * The threads of a block are fibers of one host thread (block.h). Each runs until it ends or waits at a barrier; then
 * another one runs, in the order of the chosen schedule. Blocks, or clusters of blocks, are distributed over the host's
 * threads. Each host thread has one copy of the __shared__ variables, so a block has them alone; with clusters they are
 * saved and restored when another block's turn comes. They are full of 0xFF (NaN) when a block starts.
 *
 * Shows: what a kernel computes; missing barriers (under several schedules, see block.h; races.h finds the race
 * itself); barriers that not all threads reach; masks of warp functions that do not fit; use of memory that was never
 * written.
 *
 * Cannot show: weak memory order, what depends on clusters running at once, bank conflicts, coalescing, registers,
 * speed. CUDA's fast approximations are functions of libm here, and sums of mma have another order: results agree
 * within error bounds, not in every bit.
 */
#ifndef ESPALIER_CUDA_EMULATOR_H
#define ESPALIER_CUDA_EMULATOR_H

#include <math.h>

#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __shared__ static thread_local

#include "block.h"
#include "cudart.h"
#include "intrinsics.h"
#include "tensor_core.h"
#include "vector_types.h"
#include "warpgroup.h"

#include "cuda_bf16_emulator.h"

#define gridDim (esp_emulated_place->grid)
#define blockDim (esp_emulated_place->block)
#define blockIdx (esp_emulated_place->block_index)
#define threadIdx (esp_emulated_place->thread_index)

namespace emulator {

/* Queues a launch; runtime.h says when it runs. */
cudaError_t launch(const Launch &launch, const std::vector<const void *> &pointers, cudaStream_t stream);

template <typename T>
void collect(std::vector<const void *> &pointers, const T &argument) {
  if constexpr (std::is_pointer_v<T>) pointers.push_back(argument);
}

/* Queues kernel(arguments...) for each thread of each block, with `cluster` blocks in a cluster. If that fails
 * cudaGetLastError() says why. Arguments are copied now, as by a launch of CUDA. */
template <typename... Parameters, typename... Arguments>
void launch_clusters(const char *name, void (*kernel)(Parameters...), dim3 grid, unsigned cluster, dim3 block,
                     size_t shared_bytes, cudaStream_t stream, Arguments... arguments) {
  std::vector<const void *> pointers;
  (collect(pointers, arguments), ...);
  launch({name, grid, block, shared_bytes, &library, [=] { kernel(arguments...); }, cluster}, pointers, stream);
}

template <typename... Parameters, typename... Arguments>
void launch(const char *name, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
            cudaStream_t stream, Arguments... arguments) {
  launch_clusters(name, kernel, grid, 1, block, shared_bytes, stream, arguments...);
}

}  // namespace emulator

#endif
