/*
 * Copies of blocks of matrices in the layouts that gemm.cpp's inner loop reads: one address after another, in words of
 * kTerms<T> terms of k (register_tile.h); a last word is filled up with 0. Internal.
 *
 *   panel   kPanelColumns columns of op(b): [words][kPanelColumns], zeros where the matrix ends before; one vector's
 *           columns, [words][kLanes], where no more are left
 *   strip   kTileRows rows of op(a), where a is stored transposed: [words][kTileRows]
 */
#ifndef ESPALIER_CPU_PACK_H
#define ESPALIER_CPU_PACK_H

#include <algorithm>
#include <utility>

#include "register_tile.h"

namespace esp {

constexpr int kPanelColumns = kTileVectors * kLanes;

/* Words that k terms fill. */
template <typename T>
constexpr int64_t words_of(int64_t k) {
  return (k + kTerms<T> - 1) / kTerms<T>;
}

/* Rows a and b, `half` apart, of squares of 2 half x 2 half beside each other: their off-diagonal quarters swapped.
 * (Places that the compiler knows become one or two instructions; if they come from a loop it takes three that are
 * slower.) */
template <int half, int... lane>
inline void swap_quarters(Lanes &a, Lanes &b, std::integer_sequence<int, lane...>) {
  typedef int32_t Places __attribute__((vector_size(kLanes * sizeof(int32_t)))); /* in a, and in b, numbered on */
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

/* Words turned round: word i of row j of s, whose rows are lds elements apart, becomes word j of row i of t, for i, j <
 * kLanes. Words of two terms become two rows of t, if that is of floats. */
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

/* The words, as P has them, of kLanes columns whose terms of one word lie in rows ld elements apart. */
template <typename P, typename T>
inline Lanes gathered_words(const T *s, int64_t ld) {
  if constexpr (kTerms<P> == 1) {
    return load(s);
  } else {
    return reinterpret_cast<Lanes>(load_halves(s) | load_halves(s + ld) << 16);
  }
}

/* The first kVectors * kLanes columns of op(b), of which there are n, as `all` words of P. Element (i, j) is b[j * ldb
 * + i] if transposed, else b[i * ldb + j]; i < k. */
template <int kVectors, typename T, typename P>
inline void pack_columns(bool transposed, const T *b, int64_t ldb, int64_t k, int64_t all, int64_t n, P *panel) {
  constexpr int64_t terms = kTerms<P>, columns = kVectors * kLanes, square = kLanes * kTerms<T>;
  int64_t i = 0; /* a term */
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

/* A panel of what is left of op(b), n columns, as `all` words: at least those that k terms fill. */
template <typename T, typename P>
inline void pack_panel(bool transposed, const T *b, int64_t ldb, int64_t k, int64_t all, int64_t n, P *panel) {
  if (n <= kLanes) return pack_columns<1>(transposed, b, ldb, k, all, n, panel);
  pack_columns<kTileVectors>(transposed, b, ldb, k, all, n, panel);
}

/* Rows [0, m) of op(a), m at most kLanes, which is stored transposed, as rows of `all` words, ld elements apart:
 * element (i, r) at a[i * lda + r] for i < k.
 *
 * readable: elements of a row of a that there are from a on */
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

/* m rows of `cols` elements, as P, in rows of `length`, filled up with 0, ld_target apart. */
template <typename T, typename P>
inline void copy_rows(const T *source, int64_t ld, int64_t m, int64_t cols, P *target, int64_t ld_target,
                      int64_t length) {
  for (int64_t r = 0; r < m; r++, source += ld, target += ld_target) {
#pragma omp simd
    for (int64_t c = 0; c < cols; c++) target[c] = static_cast<P>(source[c]);
    std::fill(target + cols, target + length, P(0.0f));
  }
}

/* Strips lie this many words further apart than they are long, lest they fall into the same few places of a cache. */
constexpr int64_t kApart = 16;

/* In words, of so many words of k. */
constexpr int64_t strip_length(int64_t k) { return k * kTileRows + kApart; }

/* Rows [0, m) of op(a), which is stored transposed, as strips: element (i, r) at a[i * lda + r] for i < k.
 *
 * readable: elements of a row of a that there are from a on */
template <typename T, typename P>
inline void pack_strips(const T *a, int64_t lda, int64_t k, int64_t m, int64_t readable, P *strips) {
  constexpr int64_t terms = kTerms<P>;
  const int64_t all = words_of<P>(k), length = strip_length(all) * terms;
  /* What a vector writes beyond its strip's row, the next row overwrites; what it reads beyond must be there. */
  const int64_t vectors = readable < kLanes ? 0 : (readable - kLanes) / kTileRows + 1;
  const int64_t whole = std::min(m / kTileRows, vectors) * kTileRows;
  for (int64_t i = 0; i < all; i++) { /* rows outside: they are read as they lie */
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
