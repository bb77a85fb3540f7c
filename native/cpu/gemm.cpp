/*
 * Dense products: c = alpha * op(a) op(b) + beta * c, 2 m n k FLOPs.
 *
 * The loops around the tile in registers (register_tile.h) are those of Goto and van de Geijn, "Anatomy of
 * High-Performance Matrix Multiplication" (2008). A task computes some columns of c, for all rows or for a piece of
 * them (rows_of_task). From the outermost loop to the innermost it goes over
 *
 *   pieces of k, at most kDepth    the task's columns of op(b) are copied to panels, which stay in the level-2 cache
 *   blocks of kBlockRows rows      op(a) is read where it lies; if its strips would be scattered there it is copied
 *                                  first, once for all tasks that read the same rows
 *   panels                         they stay in the level-1 cache if they fit, else they come from the level-2 cache
 *   strips                         a strip and a panel make one tile
 *
 * Bits. For each piece of k an element of c is one chain of multiply-adds (with AMX those of amx.h), and pieces are cut
 * by k alone. So its bits depend neither on the number of threads nor on m, n or its place in c. (Those of a map with
 * low-rank terms depend on n: it decides whether a chain begins with a term's.)
 *
 * Narrow products. Where c has few rows or columns and a is transposed, narrow_product.h takes the place of these
 * loops, except for words of bfloat16.
 *
 * Low-rank terms. A map's sums begin with its low-rank term while they are in registers, if there is a term whose
 * columns begin and end where panels do (begins_with). Other terms are added to a block of c in the level-1 cache.
 *
 * bfloat16. The same loops read words of two terms (register_tile.h), tiles of AMX (amx.h), or copies converted to
 * floats: bfloat16_products chooses. Sums are float32. A c in bfloat16 with more than one product or piece of k is
 * summed up in float32 elsewhere, and rounded once.
 *
 * Measured, in GFLOP/s, for [m, k] x [k, n] written as m x k x n:
 *
 *   Zen 3, one core, 102 possible, before two steps made a turn (in brackets OpenBLAS 0.3.31 in one call): 1024 x 256
 *   x 1536 93 (90); 1024 x 1536 x 256 with b not transposed 96 (90); 256 x 576 x 49152 85 (83); with a LoRA rank as
 *   one side 1024 x 768 x 16 95 (49), 1024 x 16 x 768 76 (42).
 *
 *   Two cores of a Zen 3 whose speed changes from minute to minute: with two steps a turn, c fetched ahead, and tiles
 *   without a call each, a step of `adapt` takes 0.85 of the time (d 256), 0.87 (d 512) and 0.92 (SmolLM2-135M).
 *   Fetching c alone: 0.97. Fetching the next rows of op(a) as well: no less; tasks of 64 columns: 1.02. Threads wait
 *   for one another 4 % of the time. The last tasks cut in halves or quarters: 0.985 to 1.00. op(b) copied once for all
 *   tasks, which may then be 48 rows each: threads wait under 2 %, but a step takes 0.98 to 1.005. Neither was taken.
 *
 *   Emerald Rapids with AVX-512, one core, beside other guests, fastest calls of several runs (in brackets OpenBLAS):
 *   1024 x 256 x 1536 185 (169); 1024 x 1536 x 256 with b not transposed 201 (169); 1024 x 256 x 16 153 (102).
 *   Two threads, with tasks cut so that threads end together (in brackets cut by columns alone): 512 x 1536 x 576 355
 *   (332); 512 x 960 x 576 with b not transposed 359 (332); 1024 x 256 x 704 340 (311).
 *   One core, scattered rows of op(a) copied once (in brackets copied for each task), medians: 512 x 2048 x 2048 154
 *   (144); 512 x 8192 x 2048 163 (150).
 *   Two threads, a map with two terms of rank 16, time over that of the map alone (in brackets with all terms added in
 *   the level-1 cache): 1024 x 256 x 1536 1.07 to 1.08 (1.09 to 1.12); 512 x 576 x 3072 1.01 to 1.02 (1.05).
 */
#include <climits>
#include <cstdlib>
#include <limits>
#include <memory>
#include <string_view>
#include <vector>

#include "amx.h"
#include "kernel.h"
#include "narrow_product.h"
#include "pack.h"

namespace esp {
namespace {

/* The most words of k in a piece. */
constexpr int64_t kDepth = 640;
constexpr int64_t kBlockRows = 48, kBlockColumns = 128;
static_assert(kBlockRows % kTileRows == 0 && kBlockColumns % kPanelColumns == 0, "blocks are whole strips and panels");

/* The most words of k of a low-rank term that a map's sums begin with. */
constexpr int64_t kLowDepth = 64;

/* A map and its low-rank terms. */
constexpr int64_t kMostProducts = 1 + ESP_LARGEST_TERMS;

/* A product of fewer multiplications than this, about 20 us, is computed by the calling thread alone: see
 * kParallelWork. */
constexpr int64_t kOneTask = 1 << 20;

/* The most elements that spread_rows copies: 64 MB of floats. */
constexpr int64_t kMostSpread = 1 << 24;

/* Whether rows fall into the same few sets of a cache. */
template <typename T>
bool scattered(const Matrix<T> &a) {
  return a.ld * static_cast<int64_t>(sizeof(T)) % 4096 == 0;
}

/* The memory that a thread copies operands to. It is allocated at the thread's first product. Sizes are in words,
 * whatever the type. */
struct Copies {
  alignas(64) float panels[kDepth * kBlockColumns];
  alignas(64) float low_panels[kLowDepth * kBlockColumns];
  alignas(64) float rows[(kDepth + kApart) * kBlockRows];
  alignas(64) float low_rows[(kLowDepth + kApart) * kBlockRows];
  std::vector<float> sums;   /* of a task's part of c */
  std::vector<float> spread; /* a whole operand: spread_rows */
};

Copies &copies() {
  static thread_local const std::unique_ptr<Copies> mine(new Copies);
  return *mine;
}

int64_t pieces(int64_t size, int64_t length) { return (size + length - 1) / length; }

/* size / count, rounded up to a multiple of unit. */
int64_t piece(int64_t size, int64_t count, int64_t unit) { return pieces(pieces(size, count), unit) * unit; }

/* How k is cut: into pieces of this many terms; the last may be shorter. */
template <typename T>
int64_t depth_of(int64_t k) {
  constexpr int64_t most = kDepth * kTerms<T>;
  return k <= most ? most : piece(k, pieces(k, most), kTerms<T>);
}

/* The rows of op(a) for one piece of k: word (r, i) of a strip is at[number of strip * strip + r * row + i * step]. */
template <typename T>
struct Rows {
  const T *at;
  int64_t strip, row, step;

  /* The rows from one on that begins a strip. */
  Rows from(int64_t first) const { return {at + first / kTileRows * strip, strip, row, step}; }
};

/* alpha * sum + beta * c, where c is not read if beta is 0. A vector and a single number are rounded alike. */
template <typename C>
inline Lanes combined(float alpha, Lanes sum, float beta, const C *c) {
  return beta == 0 ? alpha * sum : fused_multiply_add(Lanes{} + alpha, sum, beta * load(c));
}

template <typename C>
inline float combined(float alpha, float sum, float beta, const C *c) {
  return beta == 0 ? alpha * sum : fused_multiply_add(alpha, sum, beta * static_cast<float>(*c));
}

/* The low-rank term for the columns of one panel, with k words (0: there is none). Word (r, i) of its a is at a[r * row
 * + i * kTerms<P>]. */
template <typename P>
struct LowRank {
  int64_t k = 0;
  float alpha = 0;
  const P *a = nullptr;
  int64_t row = 0;
  const P *panel = nullptr;
};

/* c[kRows, kVectors * kLanes] = alpha * (low + a panel) + beta * c, with a as in Rows and k in words. An element's
 * chain begins with the low-rank term, if there is one. */
template <int kVectors, int kRows, typename T, typename C>
[[gnu::always_inline]] inline void tile(const LowRank<T> &low, int64_t k, float alpha, const T *a, int64_t row,
                                        int64_t step, const T *panel, float beta, C *c, int64_t ldc) {
  constexpr int64_t kColumns = kVectors * kLanes * kTerms<T>;
  if constexpr (kLanes == 8) { /* stores that wait for their lines would fill the queue, and hold up the next tile */
    for (int r = 0; r < kRows; r++) __builtin_prefetch(c + r * ldc, 1);
  }
  RegisterTile<T, kRows, kVectors> tile;
  if (low.k > 0) {
    tile.add_few(low.k, low.a, low.row, kTerms<T>, low.panel, kColumns);
    tile.scale(low.alpha);
  }
  tile.add(k, a, row, step, panel, kColumns);
  if (beta == 0) { /* asked once, not for every vector */
    tile.store_to(c, ldc, [=](Lanes sum, const C *) { return alpha * sum; });
  } else {
    tile.store_to(c, ldc, [=](Lanes sum, const C *before) { return combined(alpha, sum, beta, before); });
  }
}

/* `count` tiles, one below the other. */
template <int kVectors, int kRows, typename T, typename C>
[[gnu::noinline]] void tiles(int64_t count, LowRank<T> low, int64_t k, float alpha, Rows<T> a, const T *panel,
                             float beta, C *c, int64_t ldc) {
  constexpr int64_t word = kTerms<T>;
  const auto all = [&](int64_t row, int64_t step) {
    for (int64_t i = 0; i < count; i++, a.at += a.strip, low.a += kRows * low.row, c += kRows * ldc) {
      tile<kVectors, kRows>(low, k, alpha, a.at, row, step, panel, beta, c, ldc);
    }
  };
  /* If the compiler knows a step, the address costs no instruction. */
  if (a.step == word) return all(a.row, word);
  all(word, kTileRows * word);
}

/* One tile of `rows` rows, at most kMost. (With a lambda, as in tile_product.h, the addresses in the loop would not
 * stay in registers.) */
template <int kVectors, int kMost, typename T, typename C>
inline void tile_of(int64_t rows, const LowRank<T> &low, int64_t k, float alpha, const Rows<T> &a, const T *panel,
                    float beta, C *c, int64_t ldc) {
  if (rows == kMost) return tiles<kVectors, kMost>(1, low, k, alpha, a, panel, beta, c, ldc);
  if constexpr (kMost > 1) tile_of<kVectors, kMost - 1>(rows, low, k, alpha, a, panel, beta, c, ldc);
}

/* Where the rows [0, m) of op(a) lie for the terms [0, k). They are copied if need be. readable: the rows that exist
 * from a on. */
template <typename T, typename P>
Rows<P> rows_of(const Matrix<T> &a, int64_t m, int64_t k, int64_t readable, P *copy) {
  constexpr int64_t word = kTerms<P>;
  const int64_t length = words_of<P>(k) * word;
  if (a.transposed) {
    pack_strips(a.at, a.ld, k, m, readable, copy);
    return {copy, strip_length(length / word) * word, word, kTileRows * word};
  }
  if constexpr (std::is_same_v<T, P>) {
    if (!scattered(a) && length == k) return {a.at, a.ld * kTileRows, a.ld, word};
  }
  const int64_t ld = length + kApart * word;
  copy_rows(a.at, a.ld, m, k, copy, ld, length);
  return {copy, ld * kTileRows, ld, word};
}

/* c[rows, width] by a tile; if c ends within the tile, the tile is computed elsewhere and its part copied. */
template <int kVectors, typename T, typename C>
void edge_tile(int64_t rows, int64_t width, const LowRank<T> &low, int64_t k, float alpha, const Rows<T> &a,
               const T *panel, float beta, C *c, int64_t ldc) {
  constexpr int64_t kColumns = kVectors * kLanes;
  if (width == kColumns) return tile_of<kVectors, kTileRows>(rows, low, k, alpha, a, panel, beta, c, ldc);
  float whole[kTileRows * kColumns];
  tile_of<kVectors, kTileRows>(rows, low, k, 1, a, panel, 0, whole, kColumns);
  for (int64_t r = 0; r < rows; r++) {
    for (int64_t l = 0; l < width; l++) {
      C *target = c + r * ldc + l;
      *target = static_cast<C>(combined(alpha, whole[r * kColumns + l], beta, target));
    }
  }
}

/* The low-rank term for a panel's columns, if there is one, and the panel of its own b. */
template <typename T, typename P>
struct LowPanel {
  const Product<T> *term = nullptr;
  const P *panel = nullptr;
};

/* Products of T by vector instructions (register_tile.h). Operands are copied as P, which is T or float. */
template <typename T, typename P = T>
struct ByVectors {
  using Operand = P;

  /* Whether sums may begin with a low-rank term. */
  static constexpr bool kTakesLowRank = true;

  /* The words that a panel has for k terms. */
  static int64_t words(int64_t k) { return words_of<P>(k); }

  /* c[m, n] for m <= kBlockRows, n <= kBlockColumns and one piece of k. readable: the rows of op(a) that exist from a
   * on. low: for each panel the low-rank term that its sums begin with. row: the first of these rows in that term. */
  template <typename C>
  static void row_block(int64_t m, int64_t n, int64_t terms, float alpha, const Matrix<T> &a, int64_t readable,
                        const P *panels, const LowPanel<T, P> *low, int64_t row, float beta, C *c, int64_t ldc) {
    const int64_t length = words(terms);
    const Rows<P> rows = rows_of(a, m, terms, readable, reinterpret_cast<P *>(copies().rows));
    Rows<P> low_rows{};
    for (int64_t j = 0; j < n; j += kPanelColumns, low++) {
      const P *panel = panels + j * length * kTerms<P>;
      LowRank<P> of_panel;
      if (const Product<T> *const term = low->term; term != nullptr) {
        if (j == 0 || low[-1].term != term) { /* otherwise its rows have been copied already */
          low_rows = rows_of(term->a.from(row, 0), m, term->k, readable, reinterpret_cast<P *>(copies().low_rows));
        }
        of_panel = {words(term->k), term->alpha, low_rows.at, low_rows.row, low->panel};
      }
      const int64_t width = std::min<int64_t>(kPanelColumns, n - j);
      const int64_t full = width == kPanelColumns ? m / kTileRows : 0;
      tiles<kTileVectors, kTileRows>(full, of_panel, length, alpha, rows, panel, beta, c + j, ldc);
      for (int64_t i = full * kTileRows; i < m; i += kTileRows) {
        const int64_t height = std::min<int64_t>(kTileRows, m - i);
        const Rows<P> strip = rows.from(i);
        LowRank<P> low_strip = of_panel;
        low_strip.a += i * low_strip.row;
        C *target = c + i * ldc + j;
        if (width <= kLanes) { /* the second of two vectors would be zeros */
          edge_tile<1>(height, width, low_strip, length, alpha, strip, panel, beta, target, ldc);
        } else {
          edge_tile<kTileVectors>(height, width, low_strip, length, alpha, strip, panel, beta, target, ldc);
        }
      }
    }
  }

  /* What a thread has to set up for this way: nothing. */
  struct Session {};
};

#if defined(ESPALIER_AMX)
/* Products of bfloat16 by the matrix unit (amx.h). */
struct ByMatrixUnit {
  using T = bf16;
  using Operand = bf16;
  static constexpr bool kTakesLowRank = false; /* the matrix unit cannot scale sums */
  static_assert(kLanes == amx::kWords && kBlockRows % amx::kRows == 0, "tiles are as wide as vectors");

  /* Whole tiles; missing terms are zeros. */
  static int64_t words(int64_t k) { return pieces(words_of<T>(k), amx::kWords) * amx::kWords; }

  /* As in ByVectors. */
  template <typename C>
  static void row_block(int64_t m, int64_t n, int64_t terms, float alpha, const Matrix<T> &a, int64_t readable,
                        const T *panels, const LowPanel<T, T> *, int64_t, float beta, C *c, int64_t ldc) {
    constexpr int64_t kDown = 2 * amx::kRows;
    const int64_t length = words(terms);
    const Rows<T> rows = whole_rows(a, m, terms, readable, reinterpret_cast<T *>(copies().rows));
    float sums[kDown * kPanelColumns];
    for (int64_t j = 0; j < n; j += kPanelColumns) {
      const T *panel = panels + j * length * kTerms<T>;
      const int64_t width = std::min<int64_t>(kPanelColumns, n - j), across = width <= kLanes ? 1 : 2;
      for (int64_t i = 0; i < m; i += kDown) {
        const int64_t height = std::min(kDown, m - i), down = height <= amx::kRows ? 1 : 2;
        const auto product = down == 1 ? (across == 1 ? amx::product<1, 1> : amx::product<1, 2>)
                                       : (across == 1 ? amx::product<2, 1> : amx::product<2, 2>);
        product(length / amx::kWords, reinterpret_cast<const char *>(rows.at + i * rows.row),
                rows.row * static_cast<int64_t>(sizeof(T)), reinterpret_cast<const char *>(panel),
                across * kLanes * static_cast<int64_t>(sizeof(float)), sums);
        for (int64_t r = 0; r < height; r++) {
          const float *sum = sums + r * across * kLanes;
          C *target = c + (i + r) * ldc + j;
          int64_t l = 0;
          for (; l + kLanes <= width; l += kLanes) store(target + l, combined(alpha, load(sum + l), beta, target + l));
          for (; l < width; l++) target[l] = static_cast<C>(combined(alpha, sum[l], beta, target + l));
        }
      }
    }
  }

  struct Session {
    Session() { amx::configure(); }
    ~Session() { amx::release(); }
  };

 private:
  /* The rows of op(a) in whole tiles, some of whose rows may not exist: in place, or copied and filled up with zeros.
   */
  static Rows<T> whole_rows(const Matrix<T> &a, int64_t m, int64_t k, int64_t readable, T *copy) {
    constexpr int64_t word = kTerms<T>;
    const int64_t length = words(k) * word, tall = pieces(m, amx::kRows) * amx::kRows;
    if (!a.transposed && !scattered(a) && length == k && tall == m) return {a.at, a.ld * kTileRows, a.ld, word};
    const int64_t ld = length + kApart * word;
    for (int64_t i = 0; a.transposed && i < m; i += amx::kRows) {
      pack_rows_turned(a.at + i, a.ld, k, length / word, std::min(amx::kRows, m - i), readable - i, copy + i * ld, ld);
    }
    if (!a.transposed) copy_rows(a.at, a.ld, m, k, copy, ld, length);
    for (int64_t i = m; i < tall; i++) std::fill_n(copy + i * ld, length, T(0.0f));
    return {copy, ld * kTileRows, ld, word};
  }
};
#endif

/* Copies n <= kBlockColumns columns of op(b), for `terms` terms of k, to panels at `panels`. Returns where they end. */
template <typename Way, typename T>
typename Way::Operand *pack_panels(const Matrix<T> &b, int64_t n, int64_t terms, typename Way::Operand *panels) {
  const int64_t words = Way::words(terms), length = words * kTerms<typename Way::Operand>;
  for (int64_t j = 0; j < n; j += kPanelColumns) {
    pack_panel(b.transposed, b.from(0, j).at, b.ld, terms, words, n - j, panels + j * length);
  }
  return panels + pieces(n, kPanelColumns) * kPanelColumns * length;
}

/* Whether the sums of map's first piece of k begin with those of a low-rank term, in c with n columns. This depends on
 * sizes alone, so that the result does not depend on the borders of tasks. */
template <typename Way, typename T>
bool begins_with(const Product<T> &map, const Product<T> &term, int64_t n) {
  const int64_t end = term.from + term.n;
  return Way::kTakesLowRank && map.alpha == 1 && !map.a.transposed && !term.a.transposed && term.k > 0 &&
         Way::words(term.k) <= kLowDepth && term.from % kPanelColumns == 0 && (end % kPanelColumns == 0 || end == n);
}

/* Rows [i, i + height) and columns [begin, end) of the sum of products, which has m rows and n columns. c may be
 * bfloat16 only for one product with one piece of k. */
template <typename Way, typename T, typename C>
void sum_of_terms(int64_t m, int64_t n, int64_t i, int64_t height, int64_t begin, int64_t end, float beta,
                  const Product<T> *terms, int64_t count, C *c, int64_t ldc) {
  [[maybe_unused]] const typename Way::Session session{};
  using P = typename Way::Operand;
  P *const panels = reinterpret_cast<P *>(copies().panels);
  /* Adds the terms [first, first + length) of k of one product to the rows [top, top + rows). */
  const auto add = [=](const Product<T> &term, const P *packed, const LowPanel<T, P> *low, int64_t first,
                       int64_t length, float scale, int64_t top, int64_t rows) {
    const int64_t from = std::max(begin, term.from), to = std::min(end, term.from + term.n);
    for (int64_t row = top; row < top + rows; row += kBlockRows) {
      Way::row_block(std::min(kBlockRows, top + rows - row), to - from, length, term.alpha, term.a.from(row, first),
                     m - row, packed, low, row, scale, c + (row - i) * ldc + from - begin, ldc);
    }
  };
  const auto columns = [=](const Product<T> &term) {
    return std::max<int64_t>(0, std::min(end, term.from + term.n) - std::max(begin, term.from));
  };
  const auto panels_of = [=](const Product<T> &term, int64_t first, int64_t length, P *at) {
    return pack_panels<Way>(term.b.from(first, std::max(begin, term.from) - term.from), columns(term), length, at);
  };

  LowPanel<T, P> low[kBlockColumns / kPanelColumns];
  const LowPanel<T, P> none[kBlockColumns / kPanelColumns];
  const Product<T> *apart[kMostProducts]; /* the products that no sum begins with */
  int64_t others = 0, words = 0;
  P *at = reinterpret_cast<P *>(copies().low_panels);
  for (int64_t p = 0; p < count; p++) {
    const Product<T> &term = terms[p];
    if (columns(term) == 0) continue;
    if (p == 0 || !begins_with<Way>(terms[0], term, n)) {
      apart[others++] = &term;
      words += Way::words(term.k);
      continue;
    }
    P *const end_of_panels = panels_of(term, 0, term.k, at);
    for (LowPanel<T, P> *of = low + std::max<int64_t>(0, term.from - begin) / kPanelColumns; at < end_of_panels;
         at += kPanelColumns * Way::words(term.k) * kTerms<P>) {
      *of++ = {&term, at};
    }
  }
  if (others > 1 && words <= kDepth) {
    /* All panels are packed first. Then all products are added to a block of rows while it is in the level-1 cache. */
    const P *packed[kMostProducts];
    P *next = panels;
    for (int64_t p = 0; p < others; p++) {
      packed[p] = next;
      next = panels_of(*apart[p], 0, apart[p]->k, next);
    }
    for (int64_t top = i; top < i + height; top += kBlockRows) {
      const int64_t rows = std::min(kBlockRows, i + height - top);
      for (int64_t p = 0; p < others; p++) {
        add(*apart[p], packed[p], p == 0 ? low : none, 0, apart[p]->k, p == 0 ? beta : 1, top, rows);
      }
    }
    return;
  }
  for (int64_t p = 0; p < others; p++) { /* one product after another, while c is in the cache */
    const Product<T> &term = *apart[p];
    const int64_t depth = depth_of<P>(term.k);
    int64_t first = 0;
    do { /* runs once if k is 0, to make c = beta c */
      const bool at_first = p == 0 && first == 0;
      const int64_t length = std::min(depth, term.k - first);
      panels_of(term, first, length, panels);
      add(term, panels, at_first ? low : none, first, length, at_first ? beta : 1, i, height);
      first += depth;
    } while (first < term.k);
  }
}

/* How products of bfloat16 are computed: by the matrix unit; from words, by VDPBF16PS or what stands in for it; or by
 * multiply-adds of floats. */
enum class With { kMatrixUnit, kWords, kFloats };

/* Chooses the fastest way that there is, unless ESPALIER_BF16 in the environment is words or floats. */
With bfloat16_products() {
  static const With with = [] {
    const char *const named = std::getenv("ESPALIER_BF16");
    const std::string_view wanted = named == nullptr ? "" : named;
    if (wanted == "words") return With::kWords;
    if (wanted == "floats") return With::kFloats;
    if (amx::permitted()) return With::kMatrixUnit;
    /* Measured on Emerald Rapids: with VDPBF16PS one core reaches 102 GFLOP/s, with multiply-adds of floats 137. */
    const bool slow = __builtin_cpu_is("intel") && !__builtin_cpu_is("cooperlake");
    return kHasDotProducts && slow ? With::kFloats : With::kWords;
  }();
  return with;
}

/* Estimates how long the threads take for c [m, n] in tasks of `width` columns and 1 / pieces_of_rows of the rows. The
 * unit is one thread's time for `width` columns of all rows. Tasks are taken in order; those of the last columns, which
 * may be fewer than `width`, come at the end. */
double duration(int64_t m, int64_t n, int64_t width, int64_t pieces_of_rows) {
  constexpr double kCopied = 24; /* copying op(b), once for each piece, takes as long as computing so many rows */
  const int64_t users = threads(), whole = pieces_of_rows * (n / width), idle = (users - whole % users) % users;
  const double part = static_cast<double>(n % width) / static_cast<double>(width);
  /* The tasks of fewer columns: threads without one of the last whole tasks begin with them; `left` are those that are
   * still to be done when the whole tasks end. */
  const int64_t narrow = part == 0 ? 0 : pieces_of_rows;
  const int64_t left = part == 0 ? 0 : narrow - std::min(narrow, idle * static_cast<int64_t>(1 / part));
  const double tasks = static_cast<double>(pieces(whole, users)) + part * static_cast<double>(pieces(left, users));
  return tasks * (1 / static_cast<double>(pieces_of_rows) + kCopied / static_cast<double>(m));
}

/* How many rows a task has: so many that there are two tasks for each thread, or fewer where the threads would then end
 * sooner, because they end at the same time. */
int64_t rows_of_task(int64_t m, int64_t n, int64_t width) {
  const int64_t fewest = pieces(2 * threads(), pieces(n, width));
  int64_t best = m;
  double least = std::numeric_limits<double>::infinity();
  for (int64_t cuts = fewest; cuts <= 4 * fewest; cuts++) {
    const int64_t height = piece(m, cuts, kBlockRows);
    const double time = duration(m, n, width, pieces(m, height));
    if (time >= least) continue;
    best = height;
    least = time;
  }
  return best;
}

/* Calls task(i) for every i in [0, count). `work`: the multiplications of all tasks together. */
template <typename Task>
void run_tasks(int64_t count, int64_t work, const Task &task) {
  if (work >= kOneTask) return parallel_tasks(count, task);
  for (int64_t index = 0; index < count; index++) task(index);
}

/* c[m, n] = alpha * a^T b + beta * c, with a [k, m] and b [k, n] as they are stored. One of them has at most kNarrow
 * columns. */
template <typename T, typename C>
void narrow_product(int64_t m, int64_t n, int64_t k, float alpha, const T *a, int64_t lda, const T *b, int64_t ldb,
                    float beta, C *c, int64_t ldc) {
  const bool turned = n < m;
  if (turned) {
    std::swap(a, b);
    std::swap(lda, ldb);
  }
  const int64_t narrow = std::min(m, n), wide = std::max(m, n), depth = depth_of<float>(k);
  const int64_t width = std::min(kWide, piece(wide, 2 * threads(), kPanelColumns));
  const auto task = [=](int64_t index) {
    const int64_t j = index * width, count = std::min(width, wide - j);
    NarrowProduct product(narrow, count);
    int64_t first = 0;
    do { /* runs once if k is 0 */
      product.set(std::min(depth, k - first), a + first * lda, lda, b + first * ldb + j, ldb);
      const float scale = first == 0 ? beta : 1;
      for (int64_t i = 0; i < narrow; i++) {
        const float *sums = product.row(i);
        C *const target = turned ? c + j * ldc + i : c + i * ldc + j;
        const int64_t step = turned ? ldc : 1;
        for (int64_t l = 0; l < count; l++) {
          target[l * step] = static_cast<C>(combined(alpha, sums[l], scale, target + l * step));
        }
      }
      first += depth;
    } while (first < k);
  };
  run_tasks(pieces(wide, width), m * n * k, task);
}

/* Copies the rows of a to memory of the calling thread, with a distance between them at which they are not scattered.
 */
template <typename T>
Matrix<T> spread_rows(const Matrix<T> &a, int64_t m, int64_t k) {
  const int64_t ld = k + kApart * kTerms<T>;
  std::vector<float> &copy = copies().spread;
  const size_t floats = static_cast<size_t>(m * ld) * sizeof(T) / sizeof(float) + 1;
  if (copy.size() < floats) copy.resize(floats);
  T *const rows = reinterpret_cast<T *>(copy.data());
  parallel_rows(m, k, [=](int64_t r) { std::copy_n(a.at + r * a.ld, k, rows + r * ld); });
  return {rows, ld, false};
}

/* See kernel.h. */
template <typename Way, typename T, typename C>
void products_by(int64_t m, int64_t n, float beta, const Product<T> *terms, int64_t count, C *c, int64_t ldc) {
  const Product<T> &first = terms[0];
  const bool in_place = std::is_same_v<C, float> || (count == 1 && first.k <= depth_of<typename Way::Operand>(first.k));
  if constexpr (std::is_same_v<typename Way::Operand, float>) {
    if (count == 1 && in_place && first.a.transposed && !first.b.transposed && std::min(m, n) <= kNarrow) {
      return narrow_product(m, n, first.k, first.alpha, first.a.at, first.a.ld, first.b.at, first.b.ld, beta, c, ldc);
    }
  }
  int64_t work = 0;
  for (int64_t p = 0; p < count; p++) work += m * terms[p].n * terms[p].k;
  const bool alone = work < kOneTask;
  const int64_t width = piece(n, pieces(n, kBlockColumns), kPanelColumns), columns = pieces(n, width);
  const int64_t height = alone ? m : rows_of_task(m, n, width), rows = pieces(m, height);
  Product<T> own[kMostProducts];
  std::copy(terms, terms + count, own);
  Matrix<T> &a = own[0].a;
  if (std::is_same_v<T, typename Way::Operand> && !alone && columns > 1 && !a.transposed && scattered(a)) {
    if (const int64_t most = std::max(kBlockRows, kMostSpread / std::max<int64_t>(1, own[0].k)); m > most) {
      for (int64_t i = 0; i < m; i += most) {
        products_by<Way>(std::min(most, m - i), n, beta, own, count, c + i * ldc, ldc);
        for (int64_t p = 0; p < count; p++) own[p].a = own[p].a.from(most, 0);
      }
      return;
    }
    a = spread_rows(a, m, own[0].k); /* once, not once per task of columns */
  }
  const auto task = [&](int64_t index) {
    const int64_t i = index % rows * height, j = index / rows * width;
    const int64_t bottom = std::min(i + height, m), right = std::min(j + width, n);
    if (in_place) return sum_of_terms<Way>(m, n, i, bottom - i, j, right, beta, own, count, c + i * ldc + j, ldc);
    std::vector<float> &sums = copies().sums;
    sums.resize(static_cast<size_t>(height * width));
    for (int64_t r = i; beta != 0 && r < bottom; r++)
      std::copy(c + r * ldc + j, c + r * ldc + right, &sums[(r - i) * width]);
    sum_of_terms<Way>(m, n, i, bottom - i, j, right, beta, own, count, sums.data(), width);
    for (int64_t r = i; r < bottom; r++) {
      round_row(&sums[static_cast<size_t>((r - i) * width)], c + r * ldc + j, right - j);
    }
  };
  run_tasks(rows * columns, work, task);
}

}  // namespace

template <typename T, typename C>
void products(int64_t m, int64_t n, float beta, const Product<T> *terms, int64_t count, C *c, int64_t ldc) {
  if constexpr (std::is_same_v<T, bf16>) {
    const With with = bfloat16_products();
#if defined(ESPALIER_AMX)
    if (with == With::kMatrixUnit) return products_by<ByMatrixUnit>(m, n, beta, terms, count, c, ldc);
#endif
    if (with == With::kFloats) return products_by<ByVectors<T, float>>(m, n, beta, terms, count, c, ldc);
  }
  products_by<ByVectors<T>>(m, n, beta, terms, count, c, ldc);
}

template void products(int64_t, int64_t, float, const Product<float> *, int64_t, float *, int64_t);
template void products(int64_t, int64_t, float, const Product<bf16> *, int64_t, bf16 *, int64_t);
template void products(int64_t, int64_t, float, const Product<bf16> *, int64_t, float *, int64_t);

bool bfloat16_as_floats() { return bfloat16_products() == With::kFloats; }

int32_t check_product(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, int64_t lda, int64_t ldb,
                      int64_t ldc) {
  ESP_REQUIRE(m >= 0 && n >= 0 && k >= 0, "sizes must not be negative: m=%ld n=%ld k=%ld", m, n, k);
  ESP_REQUIRE(m <= INT_MAX && n <= INT_MAX && k <= INT_MAX && lda <= INT_MAX && ldb <= INT_MAX && ldc <= INT_MAX,
              "sizes must be below 2^31: m=%ld n=%ld k=%ld lda=%ld ldb=%ld ldc=%ld", m, n, k, lda, ldb, ldc);
  ESP_REQUIRE(lda >= std::max<int64_t>(1, trans_a ? m : k), "lda=%ld is shorter than a row of a", lda);
  ESP_REQUIRE(ldb >= std::max<int64_t>(1, trans_b ? k : n), "ldb=%ld is shorter than a row of b", ldb);
  ESP_REQUIRE(ldc >= std::max<int64_t>(1, n), "ldc=%ld is shorter than a row of c", ldc);
  return ESP_OK;
}

}  // namespace esp

int32_t esp_set_gemm(void *function, void *handle) {
  ESP_REQUIRE(function == nullptr && handle == nullptr, "the CPU's products are the library's own");
  return ESP_OK;
}

int32_t esp_has_products(int32_t dtype) {
  if (dtype == ESP_BF16) {
    return esp::bfloat16_products() == esp::With::kMatrixUnit ? 2 : esp::kHasDotProducts ? 1 : 0;
  }
  return dtype == ESP_F32 ? 1 : 0;
}

int32_t esp_gemm(int32_t trans_a, int32_t trans_b, int64_t m, int64_t n, int64_t k, float alpha, const void *a,
                 int64_t lda, const void *b, int64_t ldb, float beta, void *c, int64_t ldc, int32_t dtype_c,
                 int32_t dtype) {
  ESP_REQUIRE(dtype_c == dtype || dtype_c == ESP_F32, "a product of type %d is not of type %d", dtype, dtype_c);
  if (int32_t refused = esp::check_product(trans_a, trans_b, m, n, k, lda, ldb, ldc)) return refused;
  return esp::with_type(dtype, [=](auto type) {
    using T = decltype(type);
    const auto product = [=](auto *target) {
      esp::gemm(trans_a != 0, trans_b != 0, m, n, k, alpha, static_cast<const T *>(a), lda, static_cast<const T *>(b),
                ldb, beta, target, ldc);
    };
    if (m == 0 || n == 0) return;
    if (dtype_c == ESP_F32)
      product(static_cast<float *>(c));
    else
      product(static_cast<T *>(c));
  });
}
