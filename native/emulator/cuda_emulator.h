/*
 * The part of CUDA that native/cuda uses, for the host: so that its files compile with a C++ compiler and run in tests
 * where there is no GPU. It shows that a kernel computes what it should and that its threads meet where they must; it
 * says nothing of races between barriers, nor of speed.
 *
 * The threads of a block are fibers of one host thread: each runs until it ends or waits at a barrier, then the next.
 * Blocks are independent and go to the host's threads. __shared__ variables are one copy a host thread, so one a block.
 * A barrier that some threads of a block never reach ends the program with a message.
 */
#ifndef ESPALIER_CUDA_EMULATOR_H
#define ESPALIER_CUDA_EMULATOR_H

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __shared__ static thread_local

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned width = 1, unsigned height = 1, unsigned depth = 1) : x(width), y(height), z(depth) {}
};

namespace emulator {

/* Where a fiber is in its launch. */
struct Place {
  dim3 grid, block, block_index, thread_index;
};

/* Of the fiber that runs on this host thread. */
const Place &place();

/* Runs body once for every thread of every block. */
void launch(const char *kernel, dim3 grid, dim3 block, const std::function<void()> &body);

/* Waits for all threads of the block. */
void block_barrier();

/* Gives `value` to the warp and returns what lane `source` gave; all lanes of `mask` must come. */
uint64_t exchange(uint32_t mask, uint64_t value, int source);

template <typename T>
T exchanged(uint32_t mask, T value, int source) {
  static_assert(sizeof(T) <= sizeof(uint64_t), "a lane gives at most 8 bytes");
  uint64_t bits = 0;
  __builtin_memcpy(&bits, &value, sizeof value);
  bits = exchange(mask, bits, source);
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace emulator

#define gridDim (emulator::place().grid)
#define blockDim (emulator::place().block)
#define blockIdx (emulator::place().block_index)
#define threadIdx (emulator::place().thread_index)

constexpr int warpSize = 32;

/* The normal distribution function, which C++ does not have. */
inline float normcdff(float x) { return static_cast<float>(0.5 * std::erfc(-static_cast<double>(x) / std::sqrt(2.0))); }

inline void __syncthreads() { emulator::block_barrier(); }

inline int esp_emulated_lane() { return static_cast<int>(threadIdx.x % warpSize); }

template <typename T>
T __shfl_sync(uint32_t mask, T value, int source) {
  return emulator::exchanged(mask, value, source % warpSize);
}
template <typename T>
T __shfl_xor_sync(uint32_t mask, T value, int lanes) {
  return emulator::exchanged(mask, value, esp_emulated_lane() ^ lanes);
}
template <typename T>
T __shfl_down_sync(uint32_t mask, T value, int lanes) {
  const int source = esp_emulated_lane() + lanes;
  return emulator::exchanged(mask, value, source < warpSize ? source : esp_emulated_lane());
}
inline void __syncwarp(uint32_t mask = 0xffffffffu) { emulator::exchange(mask, 0, esp_emulated_lane()); }
inline uint32_t __ballot_sync(uint32_t mask, bool predicate) {
  uint32_t bits = 0;
  for (int lane = 0; lane < warpSize; lane++) {
    if (mask >> lane & 1u) bits |= emulator::exchanged(mask, predicate ? 1u : 0u, lane) << lane;
  }
  return bits;
}

#endif
