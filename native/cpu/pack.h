/*
 * Copies of blocks of matrices in the layouts that gemm.cpp's inner loop reads: one address after another. Internal.
 *
 *   panel   kPanelColumns columns of op(b): [k][kPanelColumns], zeros where the matrix ends before
 *   strip   kTileRows rows of op(a), where a is stored transposed: [k][kTileRows]
 */
#ifndef ESPALIER_CPU_PACK_H
#define ESPALIER_CPU_PACK_H

#include <algorithm>

#include "register_tile.h"

namespace esp {

constexpr int kPanelColumns = kTileVectors * kLanes;

/* t[i * ldt + j] = s[j * lds + i] for i, j < kLanes. Each stage swaps the off-diagonal quarters of squares of 2 half x
 * 2 half: in the end element (i, j) is at (j, i). */
inline void transpose(const float *s, int64_t lds, float *t, int64_t ldt) {
  typedef int32_t Places __attribute__((vector_size(kLanes * sizeof(int32_t))));
  Lanes rows[kLanes];
#pragma GCC unroll 16
  for (int r = 0; r < kLanes; r++) rows[r] = load(s + r * lds);
#pragma GCC unroll 4
  for (int half = kLanes / 2; half > 0; half /= 2) {
    Places upper, lower; /* of rows r and r + half, numbered on */
#pragma GCC unroll 16
    for (int lane = 0; lane < kLanes; lane++) {
      upper[lane] = (lane & half) != 0 ? kLanes + lane - half : lane;
      lower[lane] = (lane & half) != 0 ? kLanes + lane : lane + half;
    }
#pragma GCC unroll 16
    for (int r = 0; r < kLanes; r++) {
      if ((r & half) != 0) continue;
      const Lanes a = rows[r], b = rows[r + half];
      rows[r] = __builtin_shuffle(a, b, upper);
      rows[r + half] = __builtin_shuffle(a, b, lower);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kLanes; r++) store(t + r * ldt, rows[r]);
}

/* Element (i, j) of op(b) is b[j * ldb + i] if transposed, else b[i * ldb + j]; i < k, j < n <= kPanelColumns. */
inline void pack_panel(bool transposed, const float *b, int64_t ldb, int64_t k, int64_t n, float *panel) {
  int64_t i = 0;
  if (n == kPanelColumns && transposed) {
    for (; i + kLanes <= k; i += kLanes) {
      for (int j = 0; j < kPanelColumns; j += kLanes)
        transpose(b + j * ldb + i, ldb, panel + i * kPanelColumns + j, kPanelColumns);
    }
  } else if (n == kPanelColumns) {
    for (; i < k; i++) {
      for (int j = 0; j < kPanelColumns; j += kLanes) store(panel + i * kPanelColumns + j, load(b + i * ldb + j));
    }
  }
  for (; i < k; i++) {
    for (int64_t j = 0; j < kPanelColumns; j++) {
      panel[i * kPanelColumns + j] = j >= n ? 0 : transposed ? b[j * ldb + i] : b[i * ldb + j];
    }
  }
}

/* Strips lie this many floats further apart than they are long, lest they fall into the same few places of a cache. */
constexpr int64_t kApart = 16;

constexpr int64_t strip_length(int64_t k) { return k * kTileRows + kApart; }

/* Rows [0, m) of op(a), which is stored transposed, as strips: element (i, r) at a[i * lda + r] for i < k.
 *
 * readable: elements of a row of a that there are from a on */
inline void pack_strips(const float *a, int64_t lda, int64_t k, int64_t m, int64_t readable, float *strips) {
  /* What a vector writes beyond its strip's row, the next row overwrites; what it reads beyond must be there. */
  const int64_t whole = (readable < m + kLanes ? m - 1 : m) / kTileRows * kTileRows;
  for (int64_t i = 0; i < k; i++) { /* rows outside: they are read as they lie */
    const float *row = a + i * lda;
    float *target = strips + i * kTileRows;
    int64_t r = 0;
    for (; r < whole; r += kTileRows, target += strip_length(k)) store(target, load(row + r));
    for (; r < m; r += kTileRows, target += strip_length(k))
      std::copy_n(row + r, std::min<int64_t>(kTileRows, m - r), target);
  }
}

}  // namespace esp

#endif
