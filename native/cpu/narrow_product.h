/*
 * Products c = a^T b of two matrices with many rows, one of which has few columns. They are the gradients of low-rank
 * matrices. c is computed in pieces of kWide columns of the wide matrix. If a is the wide one, c^T = b^T a is computed
 * instead. Internal.
 *
 * Why not the loops of gemm.cpp: there a panel is copied for many strips, but here it would meet only one or two.
 * Instead a few rows of a panel are copied to the level-1 cache, and all that they contribute is added to the sums
 * before the next rows are copied. The chain of multiply-adds of an element goes on where it stopped, so it is the same
 * chain as in gemm.cpp. Operands are floats, or are converted to floats as they are copied.
 *
 * Measured in GFLOP/s (Emerald Rapids, one core, fastest calls; in brackets with the loops of gemm.cpp), for [k, m]^T x
 * [k, n] written as m x k x n: 256 x 1024 x 16 121 (69); 16 x 1024 x 256 129 (97); 16 x 1024 x 768 105 (82); 48 x 1024
 * x 256 170 (139); 768 x 1024 x 16 from rows of 1536, which come from the level-3 cache, 82 (68). Prefetching those
 * rows did not help.
 */
#ifndef ESPALIER_CPU_NARROW_PRODUCT_H
#define ESPALIER_CPU_NARROW_PRODUCT_H

#include "pack.h"
#include "tile_product.h"

namespace esp {

/* The most columns that the narrow matrix may have, and the columns of the wide one in a piece. */
constexpr int64_t kNarrow = 48, kWide = 128;
static_assert(kWide % kPanelColumns == 0, "a piece is whole panels");

/* The sums of one piece, [narrow, wide]. */
class NarrowProduct {
 public:
  NarrowProduct(int64_t narrow, int64_t wide) : narrow_(narrow), wide_(wide) {}

  /* Computes the sums over the rows [0, k) of the narrow matrix a and the wide matrix b. */
  template <typename T>
  void set(int64_t k, const T *a, int64_t lda, const T *b, int64_t ldb) {
    int64_t i = 0;
    do { /* runs once if k is 0: then the sums are 0 */
      const int64_t rows = std::min(kRows, k - i);
      if constexpr (std::is_same_v<T, float>) {
        add(i > 0, rows, a + i * lda, lda, b + i * ldb, ldb);
      } else {
        copy_rows(a + i * lda, lda, rows, narrow_, a_, kNarrow, narrow_);
        add(i > 0, rows, a_, kNarrow, b + i * ldb, ldb);
      }
      i += kRows;
    } while (i < k);
  }

  /* The sums of column i of the narrow matrix, [wide]. */
  const float *row(int64_t i) const { return sums_ + i * kWide; }

 private:
  static constexpr int64_t kRows = 48;

  /* Adds what a few rows contribute, with a in floats. If `more` is false the sums begin at 0. */
  template <typename T>
  void add(bool more, int64_t rows, const float *a, int64_t lda, const T *b, int64_t ldb) {
    for (int64_t j = 0; j < wide_; j += kPanelColumns) {
      pack_columns<kTileVectors>(false, b + j, ldb, rows, rows, wide_ - j, panel_);
      for_rows(narrow_, [=](int64_t i, auto count) {
        float *sums = sums_ + i * kWide + j;
        RegisterTile<float, decltype(count)::value, kTileVectors> tile;
        if (more) tile.load_from(sums, kWide);
        tile.add(rows, a + i, 1, lda, panel_, kPanelColumns);
        tile.store_to(sums, kWide, [](Lanes sum, const float *) { return sum; });
      });
    }
  }

  int64_t narrow_, wide_;
  alignas(64) float a_[kRows * kNarrow];
  alignas(64) float panel_[kRows * kPanelColumns];
  alignas(64) float sums_[kNarrow * kWide];
};

}  // namespace esp

#endif
