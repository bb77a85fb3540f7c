/*
 * Copies of blocks of matrices in the layouts that gemm.cpp's inner loop reads: one address after another. Internal.
 *
 *   panel   kPanelColumns columns of op(b): [k][kPanelColumns], zeros where the matrix ends before
 *   strip   kStripRows rows of op(a), where a is transposed: [k][kStripRows]
 */
#ifndef ESPALIER_CPU_PACK_H
#define ESPALIER_CPU_PACK_H

#include "lanes.h"

namespace esp {

/* Of a tile of c in registers: with 16 lanes 24 of 32 registers, with 8 lanes 12 of 16; 2 more for a row of the panel.
 */
constexpr int kStripRows = kLanes == 16 ? 12 : 6, kVectors = 2, kPanelColumns = kVectors * kLanes;

/* What a strip's rows are written beyond its end, by whole vectors. */
constexpr int kStripSlack = kLanes - kStripRows;

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

/* strip[i][r] = a[i * lda + r] for i < k, r < rows <= kStripRows.
 *
 * readable: elements of a row of a from a on that may be read */
inline void pack_strip(const float *a, int64_t lda, int64_t k, int64_t rows, int64_t readable, float *strip) {
  if (readable >= kLanes) {
    /* What a store writes too much, the next one overwrites. */
    for (int64_t i = 0; i < k; i++) store(strip + i * kStripRows, load(a + i * lda));
    return;
  }
  for (int64_t i = 0; i < k; i++) {
    for (int64_t r = 0; r < rows; r++) strip[i * kStripRows + r] = a[i * lda + r];
  }
}

}  // namespace esp

#endif
