/*
 * Copies blocks of matrices to the layouts that the inner loop of gemm.cpp reads from the first address to the last.
 * Both consist of words of kTerms<T> terms of k (register_tile.h); the last word is filled up with 0. Internal.
 *
 *   panel   kPanelColumns columns of op(b): [words][kPanelColumns], with zeros where the matrix ends earlier. If at
 *           most kLanes columns are left it has one vector of columns, [words][kLanes]
 *   strip   kTileRows rows of op(a), where a is stored transposed: [words][kTileRows]
 */
#ifndef ESPALIER_CPU_PACK_H
#define ESPALIER_CPU_PACK_H

#include <algorithm>
#include <utility>

#include "register_tile.h"

namespace esp {

constexpr int kPanelColumns = kTileVectors * kLanes;

/* The words that k terms fill. */
template <typename T>
constexpr int64_t words_of(int64_t k) {
  return (k + kTerms<T> - 1) / kTerms<T>;
}

/* A step of a transposition in registers. Rows a and b are `half` apart; of each square of 2 half x 2 half in them the
 * off-diagonal quarters are swapped. (Places that are compile-time constants become one or two instructions. From a
 * loop they would become three slower ones.) */
template <int half, int... lane>
inline void swap_quarters(Lanes &a, Lanes &b, std::integer_sequence<int, lane...>) {
  typedef int32_t Places __attribute__((vector_size(kLanes * sizeof(int32_t)))); /* lanes of a, then those of b */
  const Lanes upper = __builtin_shuffle(a, b, Places{((lane & half) != 0 ? kLanes + lane - half : lane)...});
  b = __builtin_shuffle(a, b, Places{((lane & half) != 0 ? kLanes + lane : lane + half)...});
  a = upper;
}

template <int half>
inline void transpose_squares(Lanes *rows) {
#pragma GCC unroll 16
  for (int r = 0; r < kLanes; r++) {
    if ((r & half) == 0) swap_quarters<half>(rows[r], rows[r + half], std::make_integer_sequence<int, kLanes>());
  }
  if constexpr (half > 1) transpose_squares<half / 2>(rows);
}

/* Transposes a square of words: word i of row j of s, whose rows are lds elements apart, becomes word j of row i of t,
 * for i, j < kLanes. If s has words of two terms and t has floats, each such word row becomes two rows of t. */
template <typename T, typename P>
inline void transpose(const T *s, int64_t lds, P *t, int64_t ldt) {
  Lanes rows[kLanes];
#pragma GCC unroll 16
  for (int r = 0; r < kLanes; r++) rows[r] = words(s + r * lds);
  transpose_squares<kLanes / 2>(rows);
#pragma GCC unroll 16
  for (int r = 0; r < kLanes; r++) {
    if constexpr (kTerms<T> == kTerms<P>) {
      store_words(t + r * ldt, rows[r]);
    } else {
      const Words two = reinterpret_cast<Words>(rows[r]);
      store(t + 2 * r * ldt, first_terms(two));
      store(t + (2 * r + 1) * ldt, second_terms(two));
    }
  }
}

/* Words of P for kLanes columns. The terms of a word lie in consecutive rows, ld elements apart. */
template <typename P, typename T>
inline Lanes gathered_words(const T *s, int64_t ld) {
  if constexpr (kTerms<P> == 1) {
    return load(s);
  } else {
    return reinterpret_cast<Lanes>(load_halves(s) | load_halves(s + ld) << 16);
  }
}

/* The first kVectors * kLanes columns of op(b), which has n columns, as `all` words of P. Element (i, j), i < k, is b[j
 * * ldb + i] if transposed, else b[i * ldb + j]. */
template <int kVectors, typename T, typename P>
inline void pack_columns(bool transposed, const T *b, int64_t ldb, int64_t k, int64_t all, int64_t n, P *panel) {
  constexpr int64_t terms = kTerms<P>, columns = kVectors * kLanes, square = kLanes * kTerms<T>;
  int64_t i = 0; /* the next term */
  if (n >= columns && transposed) {
    for (; i + square <= k; i += square) {
      for (int j = 0; j < columns; j += kLanes)
        transpose(b + j * ldb + i, ldb, panel + i * columns + j * terms, columns * terms);
    }
  } else if (n >= columns) {
    for (; i + terms <= k; i += terms) {
      for (int j = 0; j < columns; j += kLanes)
        store_words(panel + i * columns + j * terms, gathered_words<P>(b + i * ldb + j, ldb));
    }
  }
  for (; i < all * terms; i += terms) {
    for (int64_t j = 0; j < columns; j++) {
      for (int64_t term = i; term < i + terms; term++) {
        const bool there = j < n && term < k;
        panel[i * columns + j * terms + term % terms] =
            static_cast<P>(!there ? 0.0f : static_cast<float>(transposed ? b[j * ldb + term] : b[term * ldb + j]));
      }
    }
  }
}

/* A panel of the first of the n columns that are left of op(b), as `all` words, which are at least as many as k terms
 * fill. */
template <typename T, typename P>
inline void pack_panel(bool transposed, const T *b, int64_t ldb, int64_t k, int64_t all, int64_t n, P *panel) {
  if (n <= kLanes) return pack_columns<1>(transposed, b, ldb, k, all, n, panel);
  pack_columns<kTileVectors>(transposed, b, ldb, k, all, n, panel);
}

/* Rows [0, m) of op(a), m <= kLanes, where a is stored transposed: element (i, r), i < k, is a[i * lda + r]. They
 * become rows of `all` words, ld elements apart.
 *
 * readable: the elements that may be read of each row of a, counted from a */
template <typename T>
inline void pack_rows_turned(const T *a, int64_t lda, int64_t k, int64_t all, int64_t m, int64_t readable, T *rows,
                             int64_t ld) {
  constexpr int64_t terms = kTerms<T>;
  const int64_t whole = m == kLanes && readable >= kLanes ? k / terms / kLanes * kLanes : 0;
  for (int64_t i = 0; i < whole; i += kLanes) {
    Lanes square[kLanes];
#pragma GCC unroll 16
    for (int j = 0; j < kLanes; j++) square[j] = gathered_words<T>(a + (i + j) * terms * lda, lda);
    transpose_squares<kLanes / 2>(square);
#pragma GCC unroll 16
    for (int r = 0; r < kLanes; r++) store_words(rows + r * ld + i * terms, square[r]);
  }
  for (int64_t r = 0; r < m; r++) {
    for (int64_t i = whole * terms; i < all * terms; i++) rows[r * ld + i] = i < k ? a[i * lda + r] : T(0.0f);
  }
}

/* Copies m rows of `cols` elements as P, to rows of `length` elements that are ld_target apart and filled up with 0. */
template <typename T, typename P>
inline void copy_rows(const T *source, int64_t ld, int64_t m, int64_t cols, P *target, int64_t ld_target,
                      int64_t length) {
  for (int64_t r = 0; r < m; r++, source += ld, target += ld_target) {
#pragma omp simd
    for (int64_t c = 0; c < cols; c++) target[c] = static_cast<P>(source[c]);
    std::fill(target + cols, target + length, P(0.0f));
  }
}

/* The words left free between a strip and the next one, lest strips fall into the same few sets of a cache. */
constexpr int64_t kApart = 16;

/* From one strip of k words to the next, in words. */
constexpr int64_t strip_length(int64_t k) { return k * kTileRows + kApart; }

/* Rows [0, m) of op(a), where a is stored transposed, as strips: element (i, r), i < k, is a[i * lda + r].
 *
 * readable: the elements that may be read of each row of a, counted from a */
template <typename T, typename P>
inline void pack_strips(const T *a, int64_t lda, int64_t k, int64_t m, int64_t readable, P *strips) {
  constexpr int64_t terms = kTerms<P>;
  const int64_t all = words_of<P>(k), length = strip_length(all) * terms;
  /* A vector is wider than a strip. What it writes beyond the strip's row is overwritten by the next row; what it reads
   * beyond must exist. */
  const int64_t vectors = readable < kLanes ? 0 : (readable - kLanes) / kTileRows + 1;
  const int64_t whole = std::min(m / kTileRows, vectors) * kTileRows;
  for (int64_t i = 0; i < all; i++) { /* rows of a in the outer loop, so that they are read in order */
    const T *row = a + i * terms * lda;
    P *target = strips + i * kTileRows * terms;
    const bool full = (i + 1) * terms <= k;
    int64_t r = 0;
    for (; full && r < whole; r += kTileRows, target += length) store_words(target, gathered_words<P>(row + r, lda));
    for (; r < m; r += kTileRows, target += length) {
      for (int64_t j = 0; j < std::min<int64_t>(kTileRows, m - r); j++) {
        for (int64_t term = 0; term < terms; term++) {
          const bool there = i * terms + term < k;
          target[j * terms + term] = static_cast<P>(there ? static_cast<float>(row[term * lda + r + j]) : 0.0f);
        }
      }
    }
  }
}

}  // namespace esp

#endif
