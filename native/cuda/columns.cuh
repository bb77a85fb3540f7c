/*
 * Sums over rows, in float64 and in a fixed order. A block takes a strip of 32 columns, so that a warp reads whole
 * sectors. Its warps take rows in turn, and their sums are added in order. This needs neither scratch memory nor
 * atomics. Internal.
 */
#ifndef ESPALIER_CUDA_COLUMNS_CUH
#define ESPALIER_CUDA_COLUMNS_CUH

#include "device.cuh"

namespace esp {

constexpr int kStrip = 32, kStripWarps = 32, kStripThreads = 32 * kStripWarps;

inline int64_t strips_of(int64_t cols) { return (cols + kStrip - 1) / kStrip; }

/* For each column c of the block: term(r, c, sums) adds what row r contributes to K sums, and finish(c, sums) receives
 * them. */
template <int K, typename Term, typename Finish>
__device__ inline void column_sums(int64_t rows, int64_t cols, const Term &term, const Finish &finish) {
  __shared__ double partial[K][kStripWarps][kStrip];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int64_t c = static_cast<int64_t>(blockIdx.x) * kStrip + lane;
  double sums[K] = {};
  if (c < cols) {
#pragma unroll 4
    for (int64_t r = warp; r < rows; r += kStripWarps) term(r, c, sums);
  }
  for (int k = 0; k < K; k++) partial[k][warp][lane] = sums[k];
  __syncthreads();
  if (warp != 0 || c >= cols) return;
  for (int k = 0; k < K; k++) {
    sums[k] = 0;
    for (int w = 0; w < kStripWarps; w++) sums[k] += partial[k][w][lane];
  }
  finish(c, sums);
}

/* x += sum, rounded once. */
__device__ inline void add_to(float &x, double sum) { x = static_cast<float>(static_cast<double>(x) + sum); }

}  // namespace esp

#endif
