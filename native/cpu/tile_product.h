/*
 * Small dense products of tiles that lie in the cache, c (+)= a b. They are for attention: its tiles are too small for
 * a call of gemm each, and they are read where they lie. Internal.
 */
#ifndef ESPALIER_CPU_TILE_PRODUCT_H
#define ESPALIER_CPU_TILE_PRODUCT_H

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "register_tile.h"

namespace esp {

/* How a tile of a lies in memory, in words (register_tile.h). kRows: word (row, i) is at element row * ld + i * kTerms.
 * kTransposed: it is at element i * ld + row * kTerms. */
enum class Layout { kRows, kTransposed };

/* The elements from one row to the next, and from one word of a row to the next. */
template <Layout layout, typename T>
constexpr int64_t row_step(int64_t ld) {
  return layout == Layout::kRows ? ld : kTerms<T>;
}

template <Layout layout, typename T>
constexpr int64_t word_step(int64_t ld) {
  return layout == Layout::kRows ? kTerms<T> : ld;
}

/* One register tile of c, [kRowCount, kVectors * kLanes]. */
template <Layout layout, int kRowCount, int kVectors, typename T>
[[gnu::always_inline]] inline void register_block(int64_t k, const T *a, int64_t lda, const T *b, int64_t ldb, float *c,
                                                  int64_t ldc, bool accumulate) {
  const RegisterTile<T, kRowCount, kVectors> tile(k, a, row_step<layout, T>(lda), word_step<layout, T>(lda), b, ldb);
  if (accumulate) { /* asked once, not for every vector */
    tile.store_to(c, ldc, [](Lanes sum, const float *before) { return load(before) + sum; });
  } else {
    tile.store_to(c, ldc, [](Lanes sum, const float *) { return sum; });
  }
}

/* The last columns of c, if they are fewer than kLanes. */
template <Layout layout, typename T>
inline void narrow_block(int64_t rows, int64_t cols, int64_t k, const T *a, int64_t lda, const T *b, int64_t ldb,
                         float *c, int64_t ldc, bool accumulate) {
  for (int64_t r = 0; r < rows; r++) {
    float sum[kLanes] = {};
    for (int64_t i = 0; i < k; i++) {
      const T *factor = a + r * row_step<layout, T>(lda) + i * word_step<layout, T>(lda);
      for (int64_t term = kTerms<T> - 1; term >= 0; term--) { /* the second term first, as in multiply_add */
        for (int64_t j = 0; j < cols; j++) sum[j] += factor[term] * b[i * ldb + j * kTerms<T> + term];
      }
    }
    for (int64_t j = 0; j < cols; j++) c[r * ldc + j] = accumulate ? c[r * ldc + j] + sum[j] : sum[j];
  }
}

template <Layout layout, int kRowCount, typename T>
inline void row_block(int64_t n, int64_t k, const T *a, int64_t lda, const T *b, int64_t ldb, float *c, int64_t ldc,
                      bool accumulate) {
  int64_t j = 0;
  for (; j + 2 * kLanes <= n; j += 2 * kLanes) {
    register_block<layout, kRowCount, 2>(k, a, lda, b + j * kTerms<T>, ldb, c + j, ldc, accumulate);
  }
  for (; j + kLanes <= n; j += kLanes) {
    register_block<layout, kRowCount, 1>(k, a, lda, b + j * kTerms<T>, ldb, c + j, ldc, accumulate);
  }
  if (j < n) narrow_block<layout>(kRowCount, n - j, k, a, lda, b + j * kTerms<T>, ldb, c + j, ldc, accumulate);
}

/* Which part of a product is wanted, or which part of a is not zero: all, or what lies on one side of the diagonal. */
enum class Part {
  kAll,
  kColumnsFromRow, /* c[i, j] with j >= i; other elements may keep their value or get any */
  kColumnsToRow,   /* c[i, j] with j <= i; other elements may keep their value or get any */
  kTermsFromRow,   /* a[i, k] is 0 for k < i */
  kTermsToRow      /* a[i, k] is 0 for k > i */
};

/* Rows [i, i + kRowCount) of tile_product. A part is cut at whole vectors and words. */
template <Layout layout, int kRowCount, typename T>
inline void part_block(int64_t i, int64_t n, int64_t k, const T *a, int64_t lda, const T *b, int64_t ldb, float *c,
                       int64_t ldc, bool accumulate, Part part) {
  const int64_t end = i + kRowCount;
  const int64_t column = part == Part::kColumnsFromRow ? std::min(n, i / kLanes * kLanes) : 0;
  const int64_t columns = part == Part::kColumnsToRow ? std::min(n, (end + kLanes - 1) / kLanes * kLanes) : n;
  const int64_t first = part == Part::kTermsFromRow ? std::min(k, i / kTerms<T>) : 0;
  const int64_t last = part == Part::kTermsToRow ? std::min(k, (end + kTerms<T> - 1) / kTerms<T>) : k;
  row_block<layout, kRowCount>(columns - column, last - first,
                               a + i * row_step<layout, T>(lda) + first * word_step<layout, T>(lda), lda,
                               b + first * ldb + column * kTerms<T>, ldb, c + i * ldc + column, ldc, accumulate);
}

/* Calls body(rows) with rows, which is 1 to kMost, as a compile-time constant. */
template <int kMost = kTileRows, typename Body>
inline void with_rows(int64_t rows, const Body &body) {
  if (rows == kMost) return body(std::integral_constant<int, kMost>());
  if constexpr (kMost > 1) with_rows<kMost - 1>(rows, body);
}

/* Divides the rows [0, m) into blocks and calls body(first, count) for each, with count as a compile-time constant. */
template <typename Body>
inline void for_rows(int64_t m, const Body &body) {
  for (int64_t i = 0, rows; i < m; i += rows) {
    /* If what is left is more than one block and less than two it is halved: a block of few rows would not keep the
     * multiply-adds busy. */
    const int64_t left = m - i;
    rows = left <= kTileRows ? left : left < 2 * kTileRows ? (left + 1) / 2 : kTileRows;
    with_rows(rows, [&body, i](auto count) { body(i, count); });
  }
}

/* c[m, n] (+)= a[m, k] b[k, n], or a part of it, on the calling thread. k counts words, and b is k rows of n words. */
template <Layout layout, typename T>
inline void tile_product(int64_t m, int64_t n, int64_t k, const T *a, int64_t lda, const T *b, int64_t ldb, float *c,
                         int64_t ldc, bool accumulate, Part part) {
  for_rows(m, [=](int64_t i, auto count) {
    part_block<layout, decltype(count)::value>(i, n, k, a, lda, b, ldb, c, ldc, accumulate, part);
  });
}

}  // namespace esp

#endif
