/*
 * The part of CUDA that native/cuda uses, for the host: its very files compile with a C++ compiler against this header
 * and run in tests where there is no GPU. device.cuh includes it where nvcc would include CUDA's.
 *
 * The threads of a block are fibers of one host thread (block.h): each runs until it ends or waits at a barrier, then
 * another, in the order of the chosen schedule. Blocks, or clusters of them, go to the host's threads. __shared__
 * variables are one copy a host thread, so one a block (those of a cluster's blocks are put aside in turn), and full of
 * 0xFF (NaN) when a block starts.
 *
 * Shows: what a kernel computes; barriers that are missing (several schedules, see block.h; races.h finds the race
 * itself); barriers that not all threads reach; masks of warp functions that do not fit; use of what was never written.
 * Cannot show: weak memory order, what depends on clusters running at once, bank conflicts, coalescing, registers,
 * speed. CUDA's fast approximations are libm's functions here, and sums of mma have another order: results agree within
 * error bounds, not in every bit.
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

/* runtime.h says what becomes of a launch. */
cudaError_t launch(const Launch &launch, const std::vector<const void *> &pointers, cudaStream_t stream);

template <typename T>
void collect(std::vector<const void *> &pointers, const T &argument) {
  if constexpr (std::is_pointer_v<T>) pointers.push_back(argument);
}

/* Queues kernel(arguments...) for each thread of each block, `cluster` of them in a cluster; cudaGetLastError() says
 * why it could not be. Arguments are copied now, as a launch does. */
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
