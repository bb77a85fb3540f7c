/*
 * Fused encoding on tensor cores: z = x w_enc^T + bias, of which only what passes the gate is stored. Internal.
 *
 * Product. A block of 4 warps computes a tile of 128 rows x 128 latents, a warp 64 x 64 of it in 128 accumulators a
 * thread. Columns arrive 64 at a time by cp.async, in three stages of 32 KB: while one is multiplied two are being
 * copied. A row of a stage is 128 bytes, which is all banks once. Its eight chunks of 16 bytes are permuted by the
 * row's number, so that the eight rows of an ldmatrix lie in different banks. A warp loads 4 KB of fragments for 32
 * mma; on sm_80 that takes half as long as these. The blocks of one strip of latents come one after another, so that
 * w_enc is read once and x comes from L2.
 *
 * Epilogue. In the C fragment four lanes hold 32 neighbouring latents of a row. Each marks what passes in a word; two
 * shuffles join the words. z is stored where it passed, at its place in a dense row: addresses are dense, traffic is
 * not. So 4 bytes an entry (32 of a sector) and 1/8 byte a latent are written, instead of 4 bytes a latent.
 *
 * 2 d FLOPs for each row and latent. 96 KB of shared memory, 2 blocks a multiprocessor.
 */
#ifndef ESPALIER_CUDA_SAE_TILE_CUH
#define ESPALIER_CUDA_SAE_TILE_CUH

#include "mma.cuh"
#include "sae_list.cuh"

namespace esp {

constexpr int kTile = 128, kDepth = 64, kStages = 3, kTileThreads = 128;

struct Stage {
  bf16 x[kTile][kDepth], w[kTile][kDepth];
};
constexpr size_t kTileBytes = kStages * sizeof(Stage);

__device__ inline bf16 *chunk_of(bf16 (*tile)[kDepth], int row, int chunk) { return &tile[row][8 * (chunk ^ row % 8)]; }

/* Starts to copy columns [c, c + kDepth) of kTile rows. What lies beyond the matrix is 0. */
__device__ inline void fetch(bf16 (*tile)[kDepth], const bf16 *matrix, int64_t first, int64_t rows, int64_t c,
                             int64_t d) {
  constexpr int kRowsAtOnce = kTileThreads / 8;
  const int chunk = static_cast<int>(threadIdx.x % 8);
  const int64_t column = c + 8 * chunk;
#pragma unroll
  for (int i = 0; i < kTile / kRowsAtOnce; i++) {
    const int row = static_cast<int>(threadIdx.x / 8) + i * kRowsAtOnce;
    const bool inside = first + row < rows && column < d;
    cp_async_16(chunk_of(tile, row, chunk), matrix + (inside ? (first + row) * d + column : 0), inside);
  }
}

struct Accumulators {
  float c[4][8][4]; /* 16 rows each, 8 latents each, the fragment */

  __device__ void add(Stage &stage, int row, int latent) {
    const int lane = lane_index();
#pragma unroll
    for (int k = 0; k < kDepth / 16; k++) {
      uint32_t a[4][4];
#pragma unroll
      for (int i = 0; i < 4; i++) ldmatrix_x4(a[i], chunk_of(stage.x, row + 16 * i + lane % 16, 2 * k + lane / 16));
#pragma unroll
      for (int j = 0; j < 4; j++) {
        uint32_t both[4]; /* of 16 latents */
        ldmatrix_x4(both, chunk_of(stage.w, latent + 16 * j + lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
        const uint32_t low[2] = {both[0], both[1]}, high[2] = {both[2], both[3]};
#pragma unroll
        for (int i = 0; i < 4; i++) {
          mma_m16n8k16(c[i][2 * j], a[i], low);
          mma_m16n8k16(c[i][2 * j + 1], a[i], high);
        }
      }
    }
  }
};

__global__ void __launch_bounds__(kTileThreads, 2)
    encode_tile(const bf16 *x, const bf16 *w_enc, const float *bias, Gate gate, Rows out, int64_t rows, int64_t d) {
  ESP_DYNAMIC_SHARED(Stage, stages);
  const int64_t row_tiles = (rows + kTile - 1) / kTile;
  const int64_t first_row = blockIdx.x % row_tiles * kTile, first_latent = blockIdx.x / row_tiles * kTile;
  const int warp = static_cast<int>(threadIdx.x / 32), lane = lane_index();
  const int row = warp / 2 * 64, latent = warp % 2 * 64; /* of the warp, in the tile */
  const int64_t steps = (d + kDepth - 1) / kDepth;
  const auto start = [&](int64_t step) {
    if (step < steps) {
      fetch(stages[step % kStages].x, x, first_row, rows, step * kDepth, d);
      fetch(stages[step % kStages].w, w_enc, first_latent, out.m, step * kDepth, d);
    }
    cp_async_commit(); /* also an empty group, so that waiting counts steps */
  };
  Accumulators sum{};
  for (int step = 0; step < kStages - 1; step++) start(step);
  for (int64_t step = 0; step < steps; step++) {
    cp_async_wait<kStages - 2>();
    __syncthreads(); /* this step has arrived for all threads, and nobody needs the stage before it any more */
    start(step + kStages - 1);
    sum.add(stages[step % kStages], row, latent);
  }

  uint32_t passed[4][2][2] = {}; /* 16 rows each, lower and upper 8, 32 latents each */
#pragma unroll
  for (int j = 0; j < 8; j++) {
#pragma unroll
    for (int e = 0; e < 2; e++) {
      const int column = latent + 8 * j + 2 * (lane % 4) + e;
      const int64_t i = first_latent + column;
      if (i >= out.m) continue;
      const float offset = bias[i];
#pragma unroll
      for (int r = 0; r < 8; r++) {
        const int64_t t = first_row + row + 8 * r + lane / 4;
        const float z = sum.c[r / 2][j][2 * (r % 2) + e] + offset;
        if (t >= rows || !gate.takes(z, i)) continue;
        out.z[t * out.ld() + i] = z;
        passed[r / 2][r % 2][j / 4] |= 1u << column % 32;
      }
    }
  }
#pragma unroll
  for (int r = 0; r < 8; r++) {
    const int64_t t = first_row + row + 8 * r + lane / 4;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      uint32_t word = passed[r / 2][r % 2][half];
      word |= __shfl_xor_sync(kAllLanes, word, 1);
      word |= __shfl_xor_sync(kAllLanes, word, 2);
      const int64_t at = (first_latent + latent) / 32 + half;
      if (lane % 4 == 0 && t < rows && at < words_of(out.m)) out.words[t * words_of(out.m) + at] = word;
    }
  }
}

}  // namespace esp

#endif
