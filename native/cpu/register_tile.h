/*
 * The inner loop of dense products: a tile of c that stays in registers while k runs. Internal.
 *
 * Each term takes a row of b in vectors and broadcasts elements of a. With 16 lanes 12 x 32, which is 24 of 32
 * registers for the sums, with 8 lanes 6 x 16, 12 of 16: 8 loads for 12 fused multiply-adds, which are what takes time.
 */
#ifndef ESPALIER_CPU_REGISTER_TILE_H
#define ESPALIER_CPU_REGISTER_TILE_H

#include "lanes.h"

namespace esp {

/* Rows and vectors of a full tile. */
constexpr int kTileRows = kLanes == 16 ? 12 : 6, kTileVectors = 2;

/* sum = a[kRows, k] b[k, kVectors * kLanes]; element (r, i) of a at a[r * row + i * step], of b at
 * b[i * ldb + j]. */
template <int kRows, int kVectors>
struct RegisterTile {
  Lanes sum[kRows][kVectors];

  RegisterTile(int64_t k, const float *a, int64_t row, int64_t step, const float *b, int64_t ldb) {
#pragma GCC unroll 12
    for (int r = 0; r < kRows; r++) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; v++) sum[r][v] = Lanes{};
    }
    for (int64_t i = 0; i < k; i++) {
      Lanes line[kVectors];
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; v++) line[v] = load(b + i * ldb + v * kLanes);
#pragma GCC unroll 12
      for (int r = 0; r < kRows; r++) {
        const float factor = a[r * row + i * step];
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; v++) sum[r][v] += factor * line[v];
      }
    }
  }

  /* c = result(sum, address of c), by vectors. */
  template <typename Result>
  void store_to(float *c, int64_t ldc, const Result &result) const {
#pragma GCC unroll 12
    for (int r = 0; r < kRows; r++) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; v++) {
        float *target = c + r * ldc + v * kLanes;
        store(target, result(sum[r][v], target));
      }
    }
  }
};

}  // namespace esp

#endif
