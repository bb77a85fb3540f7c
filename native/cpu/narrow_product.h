/*
 * Products a^T b of two matrices of many rows, of which one has few columns: the gradients of low-rank matrices. c is
 * made in pieces of kWide columns of the wide one, and of its transpose if a is the wide one. Internal.
 *
 * In the loops of gemm.cpp each copied panel would meet but one or two strips. Here a few rows of a panel are copied to
 * the level-1 cache, and what they add to its sums is added before the next ones. The chain of multiply-adds of an
 * element goes on where it was, so it is the one of gemm.cpp. Operands are floats, or become floats as they are copied.
 *
 * Measured (Emerald Rapids, one core, fastest calls; in brackets by the loops of gemm.cpp), [k, m]^T x [k, n] as m x k
 * x n: 256 x 1024 x 16 makes 121 GFLOP/s (69), 16 x 1024 x 256 129 (97), 16 x 1024 x 768 105 (82), 48 x 1024 x 256 170
 * (139), 768 x 1024 x 16 from rows of 1536, which come from the level-3 cache, 82 (68). Prefetching those did not help.
 */
#ifndef ESPALIER_CPU_NARROW_PRODUCT_H
#define ESPALIER_CPU_NARROW_PRODUCT_H

#include "pack.h"
#include "tile_product.h"

namespace esp {

/* The most columns of the narrow matrix, and of the wide one in a piece. */
constexpr int64_t kNarrow = 48, kWide = 128;
static_assert(kWide % kPanelColumns == 0, "a piece is whole panels");

/* A piece's sums. */
class NarrowProduct {
 public:
  NarrowProduct(int64_t narrow, int64_t wide) : narrow_(narrow), wide_(wide) {}

  /* Sums of rows [0, k) of the narrow matrix a and the wide one, b. */
  template <typename T>
  void set(int64_t k, const T *a, int64_t lda, const T *b, int64_t ldb) {
    int64_t i = 0;
    do { /* once where k is 0: then they are 0 */
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

  /* Those of column i of the narrow matrix, [wide]. */
  const float *row(int64_t i) const { return sums_ + i * kWide; }

 private:
  static constexpr int64_t kRows = 48;

  /* Adds those of a few rows, a of floats; without `more` to nothing. */
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
