/*
 * Causal grouped-query attention with online softmax (Milakov & Gimelshein 2018; Dao et al. 2022, algorithms 1 and 4).
 *
 *   s = scale q k^T, then softcap * tanh(s / softcap) if softcap > 0;  p = softmax(s);  out = p v
 *   backward: dv = p^T do;  dp = do v^T;  ds = p (dp - rowsum(do out)) * ds/d(scale q k^T);  dq = ds k;  dk = ds^T q
 *
 * FLOPs. Causal means half of the square. The forward pass makes 2 products and the backward pass 5, each of tokens *
 * seq_len * n_heads * head_dim FLOPs.
 *
 * Bytes. q, k, v and out are read or written once. Besides, k and v are read again for each tile of queries, and q,
 * d_out and d_q for each tile of keys; these come from the cache.
 *
 * Tasks. A tile is 64 x 64 scores and lies on the stack. A task of the forward pass is (sequence, head, tile of 64
 * queries), one of the backward pass (sequence, kv head, tile of 64 keys). The longest tasks are started first. Tiles
 * above the diagonal or outside the window are never visited. In a tile on the diagonal only those blocks and vectors
 * are computed that hold a pair which is not masked.
 *
 * Order of sums. The gradients of a key belong to one task. Those of a query are sums over tiles of keys, which several
 * tasks compute: they add in ascending order and wait for each other where they must (Turns). So no sum depends on
 * which task comes first.
 *
 * Layout. Each product needs one operand whose vectors are contiguous. The tile that a task keeps is transposed once
 * for that. What the task streams past it is read in place as the other operand. It is copied only where its rows serve
 * as vectors, because rows a power of two apart fall into the same few sets of a cache.
 *
 * Types. The operands of products are words of the type T of activations (register_tile.h), or floats converted from
 * them. In words of bfloat16, p and ds are rounded for the products that they go into. Scores and sums, also those of
 * gradients, are float32 and are rounded once all terms are added.
 *
 * Measured in GFLOP/s, counting the causal half only (Zen 3, one core, 102 possible):
 *
 *   tokens, heads               forward   backward   backward with scores computed twice
 *   512, 9 heads of 64               67         75                                   53
 *   512, 8 heads of 128              70         73                                   53
 *   2048, heads of 64                70         75                                   55
 *   256, heads of 32                 53         67                                   45
 *
 * Since then a turn of the tile's loop became two steps, and attention takes 0.90 to 0.94 of the time. Without
 * exponentials the forward pass made 70 to 75. The last column is a backward pass that computed the scores
 * once for the gradients of keys and once more for those of queries. Products through gemm would copy every tile first.
 */
#include <atomic>
#include <cmath>
#include <thread>
#include <vector>

#include "kernel.h"
#include "pack.h"
#include "tile_product.h"
#include "vector_math.h"

namespace {

using esp::kTerms;
using esp::Layout;
using esp::Part;
using esp::words_of;

constexpr int64_t kTile = 64, kMaxHeadDim = 256;
/* The elements in a row of kTile words. */
template <typename T>
constexpr int64_t kLine = kTile *kTerms<T>;
constexpr float kLog2E = 1.44269504088896341f;
constexpr double kLn2 = 0.69314718055994531;
constexpr float kMasked = -1e30f; /* far below every score, and finite: -inf - -inf would be NaN */

struct Shape {
  int64_t batch, seq_len, n_heads, n_kv_heads, head_dim, ld_q, ld_kv;
  int64_t ld_out; /* of out forward, of d_out backward */
  float scale, softcap;
  int64_t window; /* 0: none */

  int64_t tiles() const { return (seq_len + kTile - 1) / kTile; }
  int64_t group() const { return n_heads / n_kv_heads; }
  /* The first key that query i sees. */
  int64_t first_key(int64_t i) const { return window > 0 ? std::max<int64_t>(0, i - window + 1) : 0; }
  /* One past the last query that sees key j. */
  int64_t end_query(int64_t j) const { return window > 0 ? std::min(seq_len, j + window) : seq_len; }
};

/* Lanes [begin, end) of a row of a tile. */
struct Span {
  int64_t begin, end;

  /* Widened to whole vectors, so that loops have no remainder. */
  Span widened() const {
    if (begin >= end) return {0, 0};
    return {begin / esp::kLanes * esp::kLanes, (end + esp::kLanes - 1) / esp::kLanes * esp::kLanes};
  }
};

Span within_tile(int64_t begin, int64_t end) {
  return {std::clamp<int64_t>(begin, 0, kTile), std::clamp<int64_t>(end, 0, kTile)};
}

/* Which of the kTile queries from `first` on see a key. */
Span queries_seeing(const Shape &shape, int64_t first, int64_t key) {
  return within_tile(key - first, shape.window > 0 ? key + shape.window - first : kTile);
}

/* Which of the kTile keys from `first` on a query sees. */
Span keys_seen(const Shape &shape, int64_t first, int64_t query) {
  return within_tile(shape.first_key(query) - first, query + 1 - first);
}

/* Writes value to those lanes of `outer` that are not in `inner`. */
void fill_outside(float *row, Span inner, Span outer, float value) {
  if (inner.begin >= inner.end) inner = {outer.end, outer.end};
  std::fill(row + outer.begin, row + inner.begin, value);
  std::fill(row + inner.end, row + outer.end, value);
}

constexpr Span kAllLanes{0, kTile};

/* Calls body(i) for every lane; lanes must be whole vectors, so that no loop has a remainder. */
template <typename Body>
inline void each_lane(Span lanes, const Body &body) {
  for (int64_t first = lanes.begin; first < lanes.end; first += esp::kLanes) {
#pragma omp simd
    for (int64_t i = first; i < first + esp::kLanes; i++) body(i);
  }
}

/* Transposes rows into words of P: word (c, r) of target [words of cols, kTile] is word c of row r of source, for r <
 * rows. Beyond rows and cols target is 0. */
template <typename T, typename P>
void transpose(const T *source, int64_t ld, int64_t rows, int64_t cols, P *target) {
  constexpr int64_t lanes = esp::kLanes, terms = kTerms<P>, square = lanes * kTerms<T>;
  const int64_t blocks = rows / lanes * lanes, whole = cols / square * square;
  for (int64_t r = 0; r < blocks; r += lanes) {
    for (int64_t c = 0; c < whole; c += square)
      esp::transpose(source + r * ld + c, ld, target + c / terms * kLine<P> + r * terms, kLine<P>);
  }
  for (int64_t c = 0; c < words_of<P>(cols); c++) {
    P *line = target + c * kLine<P>;
    for (int64_t r = c * terms < whole ? blocks : 0; r < kTile; r++) {
      for (int64_t term = 0; term < terms; term++) {
        const bool there = r < rows && c * terms + term < cols;
        line[r * terms + term] = static_cast<P>(there ? static_cast<float>(source[r * ld + c * terms + term]) : 0.0f);
      }
    }
  }
}

/* Gathers rows into words of P: word (i, c) of target [words of rows, cols] holds column c of those rows of source that
 * make word i. Beyond rows target is 0. */
template <typename T, typename P>
void gather(const T *source, int64_t ld, int64_t rows, int64_t cols, P *target) {
  if constexpr (kTerms<P> == 1) {
    constexpr int64_t kTwo = 2 * esp::kLanes; /* one by one they would become a call of memcpy, for a short row */
    for (int64_t r = 0; r < rows; r++) {
      int64_t c = 0;
      for (; c + kTwo <= cols; c += kTwo) {
        const esp::Lanes one = esp::load(source + r * ld + c), two = esp::load(source + r * ld + c + esp::kLanes);
        esp::store(target + r * cols + c, one);
        esp::store(target + r * cols + c + esp::kLanes, two);
      }
      for (; c < cols; c++) target[r * cols + c] = source[r * ld + c];
    }
  } else {
    for (int64_t r = 0; r < rows; r += 2) {
      const T *row = source + r * ld;
      P *line = target + r * cols;
      const bool two = r + 1 < rows;
      int64_t c = 0;
      for (; two && c + esp::kLanes <= cols; c += esp::kLanes)
        esp::store_words(line + 2 * c, esp::gathered_words<P>(row + c, ld));
      for (; c < cols; c++) {
        line[2 * c] = row[c];
        line[2 * c + 1] = two ? row[ld + c] : P(0.0f);
      }
    }
  }
}

/* Rows of a tile, each a whole number of words. */
template <typename P>
struct RowTile {
  const P *at;
  int64_t ld;
};

/* The rows in place if possible. They are copied if they are of another type or end within a word. */
template <typename T, typename P>
RowTile<P> rows_in_words(const T *source, int64_t ld, int64_t rows, int64_t cols, P *copy) {
  const int64_t length = words_of<P>(cols) * kTerms<P>;
  if constexpr (std::is_same_v<T, P>) {
    if (length == cols) return {source, ld};
  }
  esp::copy_rows(source, ld, rows, cols, copy, length, length);
  return {copy, length};
}

/* Turns floats [rows, kTile] into the first operand of a product: factors as [rows, kTile], factors_transposed as
 * [words of rows, kTile], whose words take their terms from consecutive rows. For operands that are floats both are the
 * same memory. */
template <typename P>
const P *factors(const float *source, int64_t rows, P *target) {
  if constexpr (kTerms<P> == 1) {
    return source;
  } else {
    esp::round_row(source, target, rows * kTile);
    return target;
  }
}

template <typename P>
const P *factors_transposed(const P *rounded, int64_t rows, P *target) {
  if constexpr (kTerms<P> == 1) {
    return rounded;
  } else {
    gather(rounded, kTile, rows, kTile, target);
    return target;
  }
}

/* What a product q k^T is multiplied by so that p = 2^score. If scores are capped the base comes later, with the cap.
 */
float score_factor(const Shape &shape) { return shape.softcap > 0 ? shape.scale : shape.scale * kLog2E; }

/* Whether the scores have to be scaled. Otherwise a factor of the product is scaled beforehand, which is cheaper; in
 * bfloat16 that would round once more. */
template <typename P>
constexpr bool kScaled = !std::is_same_v<P, float>;

/* Scales the columns of q or k so that products with them are scores. */
template <typename P>
void scale_columns([[maybe_unused]] P *columns, const Shape &shape) {
  if constexpr (!kScaled<P>) {
    const float factor = score_factor(shape);
#pragma omp simd
    for (int64_t i = 0; i < shape.head_dim * kTile; i++) columns[i] *= factor;
  }
}

/* Scales products to scores, where the columns were not scaled. */
template <typename P>
void scale_scores([[maybe_unused]] float *s, Span lanes, const Shape &shape) {
  if constexpr (kScaled<P>) {
    const float factor = score_factor(shape);
    each_lane(lanes, [=](int64_t i) { s[i] *= factor; });
  }
}

/* s = softcap * tanh(s / softcap), in place and for base 2, that is times log2(e). slope, if given, receives the
 * derivative of the capped score without that factor. */
void cap_scores(float *s, Span lanes, float softcap, float *slope) {
  const float inverse = 1 / softcap;
#pragma omp simd
  for (int64_t i = lanes.begin; i < lanes.end; i++) s[i] = esp::tanh(s[i] * inverse);
  if (slope != nullptr) {
#pragma omp simd
    for (int64_t i = lanes.begin; i < lanes.end; i++) slope[i] = 1.0f - s[i] * s[i];
  }
#pragma omp simd
  for (int64_t i = lanes.begin; i < lanes.end; i++) s[i] *= softcap * kLog2E;
}

/* Which of the keys from `key` on any of the kLanes queries from `query` on sees. */
Span keys_of_lanes(const Shape &shape, int64_t key, int64_t keys, int64_t query) {
  const int64_t end = std::clamp<int64_t>(query + esp::kLanes - key, 0, keys);
  return {std::clamp<int64_t>(shape.first_key(query) - key, 0, end), end};
}

/* Online softmax of kLanes queries, which are columns of `keys` rows of scores. Scores become weights 2^(score -
 * maximum), 0 where a key is not seen. maximum and total are brought up to date; shrink receives the factor for what
 * was summed up under the maximum of before. */
inline void softmax_columns(float *scores, int64_t keys, Span seen, float *maximum, float *total, float *shrink) {
  using esp::Lanes;
  const Lanes before = esp::load(maximum);
  Lanes highest = before;
  for (int64_t j = seen.begin; j < seen.end; j++) {
    const Lanes s = esp::load(scores + j * kTile);
    highest = s > highest ? s : highest;
  }
  const Lanes smaller = esp::exp2(before - highest);
  Lanes sum = esp::load(total) * smaller;
  for (int64_t j = 0; j < seen.begin; j++) esp::store(scores + j * kTile, Lanes{});
  for (int64_t j = seen.begin; j < seen.end; j++) {
    const Lanes p = esp::exp2(esp::load(scores + j * kTile) - highest);
    esp::store(scores + j * kTile, p);
    sum += p;
  }
  for (int64_t j = seen.end; j < keys; j++) esp::store(scores + j * kTile, Lanes{});
  esp::store(maximum, highest);
  esp::store(total, sum);
  esp::store(shrink, smaller);
}

/* One task of the forward pass. T is the type of activations, P that of the operands of products. */
template <typename T, typename P>
void forward_tile(const Shape &shape, const T *q, const T *k, const T *v, T *out, float *lse, int64_t first,
                  int64_t queries) {
  const int64_t d = shape.head_dim;
  P q_columns[kMaxHeadDim * kTile]; /* [d, queries] */
  float scores[kTile * kTile];      /* [keys, queries]: a query is a lane, so its maximum needs no shuffle */
  float sums[kTile * kMaxHeadDim];  /* [queries, d] */
  P v_rows[kTile * kMaxHeadDim], copy[kTile * kMaxHeadDim], p[kTile * kTile], p_words[kTile * kTile];
  float maximum[kTile], total[kTile], shrink[kTile];
  transpose(q + first * shape.ld_q, shape.ld_q, queries, d, q_columns);
  scale_columns(q_columns, shape);
  std::fill(sums, sums + queries * d, 0.0f);
  std::fill(maximum, maximum + kTile, kMasked);
  std::fill(total, total + kTile, 0.0f);

  for (int64_t key = shape.first_key(first) / kTile * kTile; key < first + queries; key += kTile) {
    const int64_t keys = std::min(kTile, shape.seq_len - key);
    const RowTile<P> k_rows = rows_in_words(k + key * shape.ld_kv, shape.ld_kv, keys, d, copy);
    esp::tile_product<Layout::kRows>(keys, kTile, words_of<P>(d), k_rows.at, k_rows.ld, q_columns, kLine<P>, scores,
                                     kTile, false, key == first ? Part::kColumnsFromRow : Part::kAll);
    const bool all_seen = key + keys <= first + 1 && shape.first_key(first + queries - 1) <= key;
    const bool as_they_are = all_seen && !kScaled<P> && shape.softcap == 0;
    for (int64_t j = 0; j < keys && !as_they_are; j++) {
      float *row = scores + j * kTile;
      const Span seen = queries_seeing(shape, first, key + j), wide = seen.widened();
      scale_scores<P>(row, wide, shape);
      if (shape.softcap > 0) cap_scores(row, wide, shape.softcap, nullptr);
      fill_outside(row, seen, wide, 2 * kMasked);
    }
    for (int64_t i = 0; i < kTile; i += esp::kLanes) {
      softmax_columns(scores + i, keys, keys_of_lanes(shape, key, keys, first + i), maximum + i, total + i, shrink + i);
    }
    for (int64_t i = 0; i < queries; i++) {
      if (shrink[i] == 1.0f) continue;
      float *row = sums + i * d;
#pragma omp simd
      for (int64_t c = 0; c < d; c++) row[c] *= shrink[i];
    }
    gather(v + key * shape.ld_kv, shape.ld_kv, keys, d, v_rows);
    const P *weights = factors_transposed(factors(scores, keys, p), keys, p_words);
    esp::tile_product<Layout::kTransposed>(queries, d, words_of<P>(keys), weights, kLine<P>, v_rows, d * kTerms<P>,
                                           sums, d, true, key == first ? Part::kTermsToRow : Part::kAll);
  }
  for (int64_t i = 0; i < queries; i++) {
    const float inverse = 1.0f / total[i];
    const float *row = sums + i * d;
    T *target = out + (first + i) * shape.ld_out;
#pragma omp simd
    for (int64_t c = 0; c < d; c++) target[c] = static_cast<T>(row[c] * inverse);
    lse[(first + i) * shape.n_heads] =
        static_cast<float>(static_cast<double>(maximum[i]) * kLn2 + std::log(static_cast<double>(total[i])));
  }
}

/* Some lanes of a query's row, in place: s goes from scores before the cap to p, and dp becomes ds = p (dp - delta) *
 * d(score) / d(q k^T). */
void gradient_row(float *s, float *dp, Span lanes, const Shape &shape, float lse, float delta) {
  float slope[kTile];
  const float scale = shape.scale, lse_2 = lse * kLog2E;
  if (shape.softcap > 0) cap_scores(s, lanes, shape.softcap, slope);
  each_lane(lanes, [=](int64_t i) {
    const float p = esp::exp2(s[i] - lse_2);
    s[i] = p;
    dp[i] = p * (dp[i] - delta) * scale;
  });
  if (shape.softcap > 0) each_lane(lanes, [&](int64_t i) { dp[i] *= slope[i]; });
}

/* Whose turn it is to add to dq. For each head's tile of queries it counts the tiles of keys, which add in ascending
 * order whichever thread computes them. A task waits only for tasks that have begun before it. */
class Turns {
 public:
  explicit Turns(const Shape &shape)
      : tiles_(shape.tiles()), next_(static_cast<size_t>(shape.batch * shape.n_heads * tiles_)) {
    for (size_t i = 0; i < next_.size(); i++) next_[i] = first(shape, static_cast<int64_t>(i) % tiles_);
  }

  /* The first tile of keys that a tile of queries sees. */
  static int64_t first(const Shape &shape, int64_t tile) { return shape.first_key(tile * kTile) / kTile; }

  void wait(int64_t head, int64_t tile, int64_t turn) const {
    while (next_[index(head, tile)].load(std::memory_order_acquire) != turn) std::this_thread::yield();
  }
  void pass(int64_t head, int64_t tile, int64_t turn) {
    next_[index(head, tile)].store(turn + 1, std::memory_order_release);
  }

 private:
  size_t index(int64_t head, int64_t tile) const { return static_cast<size_t>(head * tiles_ + tile); }

  int64_t tiles_;
  std::vector<std::atomic<int64_t>> next_; /* [head of any sequence, tile of queries] */
};

/* Where a task gathers its sums [kTile, d]: in the result's own place if that is of floats, else in memory here, from
 * which they are rounded at the end. */
template <typename T>
struct Sums {
  float here[std::is_same_v<T, float> ? 1 : kTile * kMaxHeadDim];
  T *result;
  int64_t ld_result, d;

  Sums(T *target, int64_t ld_target, int64_t width) : result(target), ld_result(ld_target), d(width) {}

  float *at() {
    if constexpr (std::is_same_v<T, float>)
      return result;
    else
      return here;
  }
  int64_t ld() const { return std::is_same_v<T, float> ? ld_result : d; }

  void store(int64_t rows) const {
    if constexpr (!std::is_same_v<T, float>) {
      for (int64_t r = 0; r < rows; r++) esp::round_row(here + r * d, result + r * ld_result, d);
    }
  }
};

/* One task of the backward pass: dk and dv of a tile of keys, and what this tile adds to dq. It streams the queries of
 * all heads of the group, from the last tile to the first, so that the next tile of keys can follow closely. head is
 * the number of the group's first head among the heads of all sequences. The rows of d_q are ld_d_q apart, and heads
 * lie in them as in q. */
template <typename T, typename P>
void key_tile(const Shape &shape, const T *q, const T *k, const T *v, const T *d_out, const float *lse,
              const float *delta, float *d_q, int64_t ld_d_q, T *d_k, T *d_v, int64_t first, int64_t keys, int64_t head,
              Turns &turns) {
  const int64_t d = shape.head_dim, words = words_of<P>(d), tile = first / kTile;
  P k_columns[kMaxHeadDim * kTile], v_columns[kMaxHeadDim * kTile]; /* [d, keys] */
  P k_rows[kTile * kMaxHeadDim], q_rows[kTile * kMaxHeadDim], d_out_rows[kTile * kMaxHeadDim];
  P copy[kTile * kMaxHeadDim], p[kTile * kTile], ds[kTile * kTile], turned[kTile * kTile];
  float scores[kTile * kTile], gradients[kTile * kTile]; /* [queries, keys] */
  k += first * shape.ld_kv, v += first * shape.ld_kv;
  transpose(k, shape.ld_kv, keys, d, k_columns);
  scale_columns(k_columns, shape);
  transpose(v, shape.ld_kv, keys, d, v_columns);
  gather(k, shape.ld_kv, keys, d, k_rows);
  Sums<T> k_sums(d_k + first * shape.ld_kv, shape.ld_kv, d), v_sums(d_v + first * shape.ld_kv, shape.ld_kv, d);
  bool accumulate = false;
  for (int64_t member = 0; member < shape.group(); member++) {
    const int64_t last = (shape.end_query(first + keys - 1) - 1) / kTile;
    for (int64_t query_tile = last; query_tile >= tile; query_tile--) {
      const int64_t query = query_tile * kTile, queries = std::min(kTile, shape.seq_len - query);
      const bool diagonal = query_tile == tile;
      const Part columns = diagonal ? Part::kColumnsToRow : Part::kAll;
      const auto product = [&](const T *source, int64_t ld, P *gathered, const P *with, float *result) {
        gather(source, ld, queries, d, gathered);
        /* Gathered floats are rows, too, and they are in the cache. */
        const RowTile<P> rows = kTerms<P> == 1 ? RowTile<P>{gathered, d} : rows_in_words(source, ld, queries, d, copy);
        esp::tile_product<Layout::kRows>(queries, kTile, words, rows.at, rows.ld, with, kLine<P>, result, kTile, false,
                                         columns);
      };
      product(q + query * shape.ld_q + member * d, shape.ld_q, q_rows, k_columns, scores);
      product(d_out + query * shape.ld_out + member * d, shape.ld_out, d_out_rows, v_columns, gradients);
      for (int64_t i = 0; i < queries; i++) {
        const Span seen = keys_seen(shape, first, query + i), wide = seen.widened();
        const int64_t statistics = (query + i) * shape.n_heads + member;
        scale_scores<P>(scores + i * kTile, wide, shape);
        gradient_row(scores + i * kTile, gradients + i * kTile, wide, shape, lse[statistics], delta[statistics]);
        fill_outside(scores + i * kTile, seen, kAllLanes, 0);
        fill_outside(gradients + i * kTile, seen, kAllLanes, 0);
      }
      const P *weights = factors(scores, queries, p), *score_gradients = factors(gradients, queries, ds);
      const auto add = [&](const P *with, const P *gathered, Sums<T> &sums) {
        esp::tile_product<Layout::kTransposed>(keys, d, words_of<P>(queries), factors_transposed(with, queries, turned),
                                               kLine<P>, gathered, d * kTerms<P>, sums.at(), sums.ld(), accumulate,
                                               diagonal ? Part::kTermsFromRow : Part::kAll);
      };
      add(weights, d_out_rows, v_sums);
      add(score_gradients, q_rows, k_sums);
      accumulate = true;
      turns.wait(head + member, query_tile, tile);
      esp::tile_product<Layout::kRows>(queries, d, words_of<P>(keys), score_gradients, kTile, k_rows, d * kTerms<P>,
                                       d_q + query * ld_d_q + member * d, ld_d_q,
                                       tile > Turns::first(shape, query_tile),
                                       diagonal ? Part::kTermsToRow : Part::kAll);
      turns.pass(head + member, query_tile, tile);
    }
  }
  k_sums.store(keys);
  v_sums.store(keys);
}

/* Where dq is summed up in float32, [tokens, ld]: in its own place if it is of floats, else in memory that the calling
 * thread keeps. */
template <typename T>
float *query_sums([[maybe_unused]] T *d_q, [[maybe_unused]] int64_t size) {
  if constexpr (std::is_same_v<T, float>) {
    return d_q;
  } else {
    static thread_local std::vector<float> sums;
    if (sums.size() < static_cast<size_t>(size)) sums.resize(static_cast<size_t>(size));
    return sums.data();
  }
}

/* Calls body(T{}, P{}) with the type of activations and that of the operands of products. */
template <typename Body>
int32_t with_types(int32_t dtype, const Body &body) {
  return esp::with_type(dtype, [&](auto type) {
    using T = decltype(type);
    if constexpr (!std::is_same_v<T, float>) {
      if (esp::bfloat16_as_floats()) return body(type, float{});
    }
    body(type, type);
  });
}

int32_t check(const Shape &shape) {
  ESP_REQUIRE(shape.batch >= 0 && shape.seq_len > 0 && shape.n_heads > 0 && shape.n_kv_heads > 0,
              "bad sizes: batch=%ld seq_len=%ld n_heads=%ld n_kv_heads=%ld", shape.batch, shape.seq_len, shape.n_heads,
              shape.n_kv_heads);
  ESP_REQUIRE(shape.n_heads % shape.n_kv_heads == 0, "n_kv_heads=%ld does not divide n_heads=%ld", shape.n_kv_heads,
              shape.n_heads);
  ESP_REQUIRE(shape.head_dim > 0 && shape.head_dim <= kMaxHeadDim, "head_dim must be in [1, %ld], got %ld", kMaxHeadDim,
              shape.head_dim);
  ESP_REQUIRE(shape.ld_q >= shape.n_heads * shape.head_dim, "ld_q=%ld is shorter than a row of %ld", shape.ld_q,
              shape.n_heads * shape.head_dim);
  ESP_REQUIRE(shape.ld_kv >= shape.n_kv_heads * shape.head_dim, "ld_kv=%ld is shorter than a row of %ld", shape.ld_kv,
              shape.n_kv_heads * shape.head_dim);
  ESP_REQUIRE(shape.ld_out >= shape.n_heads * shape.head_dim, "ld_out=%ld is shorter than a row of %ld", shape.ld_out,
              shape.n_heads * shape.head_dim);
  ESP_REQUIRE(shape.window >= 0, "window must not be negative, got %ld", shape.window);
  return ESP_OK;
}

}  // namespace

int32_t esp_attention_forward(const void *q_, int64_t ld_q, const void *k_, const void *v_, int64_t ld_kv, void *out_,
                              int64_t ld_out, float *lse, int64_t batch, int64_t seq_len, int64_t n_heads,
                              int64_t n_kv_heads, int64_t head_dim, float scale, float softcap, int64_t window,
                              int32_t dtype) {
  const Shape shape{batch, seq_len, n_heads, n_kv_heads, head_dim, ld_q, ld_kv, ld_out, scale, softcap, window};
  if (int32_t status = check(shape)) return status;
  return with_types(dtype, [&](auto type, auto operand) {
    using T = decltype(type);
    using P = decltype(operand);
    const auto *q = static_cast<const T *>(q_), *k = static_cast<const T *>(k_), *v = static_cast<const T *>(v_);
    auto *out = static_cast<T *>(out_);
    const int64_t tiles = shape.tiles();
    esp::parallel_tasks(batch * n_heads * tiles, [&](int64_t task) {
      const int64_t first = (tiles - 1 - task / (batch * n_heads)) * kTile, lane = task % (batch * n_heads);
      const int64_t head = lane % n_heads, row = lane / n_heads * seq_len;
      const int64_t kv = head / shape.group() * head_dim;
      forward_tile<T, P>(shape, q + row * ld_q + head * head_dim, k + row * ld_kv + kv, v + row * ld_kv + kv,
                         out + row * shape.ld_out + head * head_dim, lse + row * n_heads + head, first,
                         std::min(kTile, seq_len - first));
    });
  });
}

int32_t esp_attention_backward(const void *q_, int64_t ld_q, const void *k_, const void *v_, int64_t ld_kv,
                               const void *out_, int64_t ld_out, const float *lse, const void *d_out_, float *delta,
                               void *d_q_, void *d_k_, void *d_v_, int64_t batch, int64_t seq_len, int64_t n_heads,
                               int64_t n_kv_heads, int64_t head_dim, float scale, float softcap, int64_t window,
                               int32_t dtype) {
  const Shape shape{batch, seq_len, n_heads, n_kv_heads, head_dim, ld_q, ld_kv, n_heads * head_dim,
                    scale, softcap, window};
  if (int32_t status = check(shape)) return status;
  ESP_REQUIRE(ld_out >= shape.ld_out, "ld_out=%ld is shorter than a row of %ld", ld_out, shape.ld_out);
  return with_types(dtype, [&](auto type, auto operand) {
    using T = decltype(type);
    using P = decltype(operand);
    const auto *q = static_cast<const T *>(q_), *k = static_cast<const T *>(k_), *v = static_cast<const T *>(v_);
    const auto *out = static_cast<const T *>(out_), *d_out = static_cast<const T *>(d_out_);
    auto *d_q = static_cast<T *>(d_q_), *d_k = static_cast<T *>(d_k_), *d_v = static_cast<T *>(d_v_);
    esp::parallel_rows(batch * seq_len, 2 * shape.ld_out, [&](int64_t t) {
      for (int64_t head = 0; head < n_heads; head++) {
        const T *y = out + t * ld_out + head * head_dim, *dy = d_out + t * shape.ld_out + head * head_dim;
        float dot = 0;
#pragma omp simd reduction(+ : dot)
        for (int64_t c = 0; c < head_dim; c++) dot += y[c] * dy[c];
        delta[t * n_heads + head] = dot;
      }
    });
    const int64_t ld_sums = std::is_same_v<T, float> ? ld_q : n_heads * head_dim;
    float *sums = query_sums(d_q, batch * seq_len * ld_sums);
    /* The first keys come first, because most queries see them: theirs are the longest tasks. */
    Turns turns(shape);
    const int64_t lanes = batch * n_kv_heads;
    esp::parallel_tasks(lanes * shape.tiles(), [&](int64_t task) {
      const int64_t first = task / lanes * kTile, kv_head = task % n_kv_heads, sequence = task % lanes / n_kv_heads;
      const int64_t row = sequence * seq_len, head = kv_head * shape.group();
      const int64_t kv = row * ld_kv + kv_head * head_dim;
      key_tile<T, P>(shape, q + row * ld_q + head * head_dim, k + kv, v + kv,
                     d_out + row * shape.ld_out + head * head_dim, lse + row * n_heads + head,
                     delta + row * n_heads + head, sums + row * ld_sums + head * head_dim, ld_sums, d_k + kv, d_v + kv,
                     first, std::min(kTile, seq_len - first), sequence * n_heads + head, turns);
    });
    if constexpr (!std::is_same_v<T, float>) {
      esp::parallel_rows(batch * seq_len, ld_sums,
                         [=](int64_t t) { esp::round_row(sums + t * ld_sums, d_q + t * ld_q, n_heads * head_dim); });
    }
  });
}
