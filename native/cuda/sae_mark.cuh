/*
 * Words of bits that say which z of cuBLAS's product pass the gate, for sae_words.cuh. Internal.
 *
 * A thread takes 8 rows x 4 neighbouring latents. That is eight loads of 16 bytes that do not wait for each other, bias
 * and threshold once for all eight rows, and 32 bits, one a z. The eight lanes that have the columns of a word hold the
 * bits of its eight rows as an 8 x 8 matrix of half bytes. Three shuffles transpose it, and then each lane has the word
 * of one row. There are no barriers and no shared memory. Strips of latents are taken from the last to the first,
 * because L2 may still have what the product wrote last.
 *
 * 4 bytes a z are read and 1/8 byte is written; 1 byte a z of bias and threshold comes from L2. About 10 instructions a
 * z. At the 3.9 TB/s that a copy reaches on an H200, 1024 x 65536 z (268 MB) take 0.07 ms.
 */
#ifndef ESPALIER_CUDA_SAE_MARK_CUH
#define ESPALIER_CUDA_SAE_MARK_CUH

#include "sae_list.cuh"
#include "vector.cuh"

namespace esp {

constexpr int kMarkedRows = 8, kMarkedColumns = 4;
constexpr int64_t kMarkedStrip = kMarkedColumns * kThreads; /* how many latents a block has */

inline int64_t blocks_to_mark(int64_t m, int64_t rows) {
  return (m + kMarkedStrip - 1) / kMarkedStrip * ((rows + kMarkedRows - 1) / kMarkedRows);
}

/* v[c .. c + 4), with 0 from m on. v need not be aligned; NULL stands for zeros. */
__device__ inline Pack<kMarkedColumns> columns_of(const float *v, int64_t c, int64_t m) {
  if (v != nullptr && c + kMarkedColumns <= m && reinterpret_cast<uintptr_t>(v + c) % 16 == 0) {
    return load<kMarkedColumns>(v + c);
  }
  Pack<kMarkedColumns> columns;
#pragma unroll
  for (int i = 0; i < kMarkedColumns; i++) columns[i] = v != nullptr && c + i < m ? v[c + i] : 0.0f;
  return columns;
}

/* Among eight consecutive lanes: half byte r of lane l becomes half byte l of lane r. */
__device__ inline uint32_t transpose_half_bytes(uint32_t own) {
  const int lane = lane_index();
#pragma unroll
  for (int s = 4; s > 0; s /= 2) {
    const uint32_t low = s == 4 ? 0x0000ffffu : s == 2 ? 0x00ff00ffu : 0x0f0f0f0fu; /* the half bytes r without bit s */
    const bool upper = (lane & s) != 0;
    const uint32_t other = __shfl_xor_sync(kAllLanes, (upper ? own : own >> 4 * s) & low, s);
    own = upper ? (own & ~low) | other : (own & low) | other << 4 * s;
  }
  return own;
}

/* Computes rows.words of n rows from rows.z, which is aligned to 16 bytes and lacks `bias`. */
__global__ void mark(Rows rows, const float *bias, Gate gate, int64_t n) {
  const int64_t groups = (n + kMarkedRows - 1) / kMarkedRows, strips = gridDim.x / groups;
  const int64_t first_row = blockIdx.x % groups * kMarkedRows;
  const int64_t strip = strips - 1 - blockIdx.x / groups;
  const int64_t of_warp = strip * kMarkedStrip + threadIdx.x / 32 * 32 * kMarkedColumns;
  if (of_warp >= rows.m) return; /* the whole warp */
  const int64_t c = of_warp + lane_index() * kMarkedColumns;
  Pack<kMarkedColumns> z[kMarkedRows];
#pragma unroll
  for (int r = 0; r < kMarkedRows; r++) {
    z[r] = {};
    if (c < rows.m && first_row + r < n) z[r] = load<kMarkedColumns>(rows.z + (first_row + r) * rows.ld() + c);
  }
  const Pack<kMarkedColumns> offset = columns_of(bias, c, rows.m), theta = columns_of(gate.threshold, c, rows.m);
  uint32_t bits = 0;
#pragma unroll
  for (int r = 0; r < kMarkedRows; r++) {
#pragma unroll
    for (int i = 0; i < kMarkedColumns; i++) {
      if (gate.passes(z[r][i] + offset[i], theta[i])) bits |= 1u << (kMarkedColumns * r + i);
    }
  }
  const int64_t inside = rows.m - c; /* of the thread's columns */
  bits &= 0x11111111u * (inside >= kMarkedColumns ? 0xfu : inside > 0 ? (1u << inside) - 1 : 0u);
  const uint32_t word = transpose_half_bytes(bits);
  const int64_t t = first_row + lane_index() % kMarkedRows;
  const int64_t at = of_warp / 32 + lane_index() / kMarkedRows;
  if (t < n && at < words_of(rows.m)) rows.words[t * words_of(rows.m) + at] = word;
}

}  // namespace esp

#endif
