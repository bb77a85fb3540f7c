/*
 * A linear map and its low-rank terms: which way is taken, and the ways through cuBLAS.
 *
 *   ESP_SEPARATE       y = x op(w) by cuBLAS, then for each term y += scale u op(v) on its columns. It costs one more
 *                      launch for each term, and y is read and written once more, 2 m n_p elements
 *
 *   ESP_EXTRA_COLUMNS  one product by cuBLAS, in which u is more columns of x, and v more of w. Nothing is read twice,
 *                      but all m n sums run over the ranks of all terms. u must lie beside x in memory, and v beside w,
 *                      so whoever allocates x and w leaves room there: frozen weights cannot be copied every step
 *
 *   fused              linear_fused.cu: a sum runs only over the rank of its own term, and operands may lie anywhere.
 *                      But on Hopper it uses mma.sync, where cuBLAS uses wgmma
 *
 * The rule compares three estimates, which a few rates give. `espalier bench --kernels` times every way, and names each
 * shape for which the rule is wrong.
 *
 * Measured on an H200 (1f7a513), all shapes of Gemma-2-2B: extra columns were the fastest everywhere and took 1.01 to
 * 1.07 times as long as the map alone. Separate products took 1.04 to 1.5 times as long as the map. Fused kernels made
 * 60 to 210 TFLOP/s, cuBLAS about 700. The rates of other GPUs are assumed: 250 and 210 for an A100 (Ampere), about 150
 * and 130 for an Ada card.
 *
 * Timing the ways when a process starts would choose better, but by noise. The ways round differently, and a run must
 * repeat bit for bit: resumed or not, on one rank or several.
 */
#include "linear.cuh"

#include <algorithm>
#include <climits>

#include "extra_columns.h"
#include "vector.cuh"

namespace esp::linear {
namespace {

constexpr int kRows = 128, kNarrow = 128, kWide = 256;

struct Rates {
  double cublas, fused; /* FLOP/s when the GPU is full of tiles */
  double bytes;         /* per second, to and from memory */
};

Rates rates(const Hardware &gpu) {
  if (gpu.capability >= 90) return {700e12, 200e12, 4.0e12};
  if (gpu.capability == 80) return {250e12, 210e12, 1.6e12};
  return {150e12, 130e12, 0.8e12};
}

constexpr double kLaunch = 2e-6;

int64_t rounded_up(int64_t size, int64_t tile) { return (size + tile - 1) / tile; }

/* The seconds that c[m, n] takes with `inner` terms a sum. Multiprocessors take tiles one at a time. */
double tiles_take(int64_t m, int64_t n, int64_t inner, int64_t tile, double rate, const Hardware &gpu) {
  const int64_t tiles = rounded_up(m, kRows) * rounded_up(n, tile);
  const int64_t waves = rounded_up(tiles, gpu.multiprocessors);
  return static_cast<double>(waves * gpu.multiprocessors * kRows * tile) * 2.0 * static_cast<double>(inner) / rate;
}

/*
 * fits: whether the fused kernels take this shape extra: how many columns the terms add to those of x; -1 if they do
 * not lie that way
 */
int32_t choose(int64_t m, int64_t n, int64_t k, const esp_low_rank *terms, int32_t count, bool fits, int64_t extra) {
  const Hardware gpu = hardware();
  const Rates rate = rates(gpu);
  double separate = tiles_take(m, n, k, kNarrow, rate.cublas, gpu);
  int64_t rank = 0; /* the largest rank that a tile can meet */
  for (int32_t p = 0; p < count; p++) {
    const double outputs = static_cast<double>(m) * static_cast<double>(terms[p].n);
    separate += kLaunch +
                std::max(outputs * 4.0 / rate.bytes, tiles_take(m, terms[p].n, terms[p].r, kNarrow, rate.cublas, gpu));
    rank = std::max(rank, terms[p].r);
  }
  double least = separate;
  int32_t best = ESP_SEPARATE;
  auto consider = [&](int32_t way, int64_t inner, int64_t tile, double tensor_rate) {
    const double seconds = tiles_take(m, n, inner, tile, tensor_rate, gpu);
    if (seconds < least) {
      least = seconds;
      best = way;
    }
  };
  if (extra >= 0) consider(ESP_EXTRA_COLUMNS, k + extra, kNarrow, rate.cublas);
  if (fits) {
    consider(ESP_FUSED_NARROW, k + rank, kNarrow, rate.fused);
    consider(ESP_FUSED_WIDE, k + rank, kWide, rate.fused);
  }
  return best;
}

int32_t check(bool transposed, const esp_low_rank &term, int64_t n) {
  ESP_REQUIRE(term.from >= 0 && term.n >= 0 && term.r >= 0 && term.n <= n - term.from && term.r <= INT_MAX,
              "a term of rank %ld for columns [%ld, %ld) of %ld", term.r, term.from, term.from + term.n, n);
  ESP_REQUIRE(term.ld_u >= std::max<int64_t>(1, term.r) && term.ld_u <= INT_MAX, "ld_u=%ld for a rank of %ld",
              term.ld_u, term.r);
  ESP_REQUIRE(term.ld_v >= std::max<int64_t>(1, transposed ? term.r : term.n) && term.ld_v <= INT_MAX,
              "ld_v=%ld is shorter than a row of v", term.ld_v);
  return ESP_OK;
}

bool whole_packs(std::initializer_list<int64_t> sizes, std::initializer_list<const void *> addresses) {
  return std::all_of(sizes.begin(), sizes.end(), [](int64_t size) { return size % 8 == 0; }) &&
         in_packs<bf16>(0, addresses);
}

/* What the arguments allow: whether the fused kernels take them, and how many columns ESP_EXTRA_COLUMNS adds, or -1. */
struct Allowed {
  bool fused;
  int64_t extra;
};

int32_t check(bool transposed, int64_t n, int64_t k, const void *x, int64_t ldx, const void *w, int64_t ldw,
              const esp_low_rank *terms, int32_t count, const void *y, int64_t ldy, int32_t dtype, Allowed &allowed) {
  ESP_REQUIRE(count >= 0 && count <= ESP_LARGEST_TERMS, "%d terms, at most %d", count, ESP_LARGEST_TERMS);
  allowed.fused = dtype == ESP_BF16 && whole_packs({n, k, ldx, ldw, ldy}, {x, w, y});
  for (int32_t p = 0; p < count; p++) {
    const esp_low_rank &term = terms[p];
    if (int32_t status = check(transposed, term, n)) return status;
    allowed.fused = allowed.fused && whole_packs({term.from, term.n, term.r, term.ld_u, term.ld_v}, {term.u, term.v});
  }
  allowed.extra = extra_columns(transposed, k, x, ldx, w, ldw, terms, count, dtype == ESP_BF16 ? 2 : 4);
  return ESP_OK;
}

int32_t by_shape(int64_t m, int64_t n, int64_t k, const esp_low_rank *terms, int32_t count, const Allowed &allowed) {
  return count > 0 ? choose(m, n, k, terms, count, allowed.fused, allowed.extra) : ESP_SEPARATE;
}

}  // namespace
}  // namespace esp::linear

namespace linear = esp::linear;

int32_t esp_linear_by_shape(int32_t transposed, int64_t m, int64_t n, int64_t k, const void *x, int64_t ldx,
                            const void *w, int64_t ldw, const esp_low_rank *terms, int32_t count, const void *y,
                            int64_t ldy, int32_t dtype, int32_t *way) {
  linear::Allowed allowed;
  if (int32_t status = linear::check(transposed != 0, n, k, x, ldx, w, ldw, terms, count, y, ldy, dtype, allowed)) {
    return status;
  }
  *way = linear::by_shape(m, n, k, terms, count, allowed);
  return ESP_OK;
}

int32_t esp_linear(int32_t transposed, int64_t m, int64_t n, int64_t k, const void *x, int64_t ldx, const void *w,
                   int64_t ldw, const esp_low_rank *terms, int32_t count, float beta, void *y, int64_t ldy, int32_t way,
                   int32_t dtype) {
  ESP_REQUIRE(way >= ESP_BY_SHAPE && way <= ESP_EXTRA_COLUMNS, "no such way: %d", way);
  linear::Allowed allowed;
  if (int32_t status = linear::check(transposed != 0, n, k, x, ldx, w, ldw, terms, count, y, ldy, dtype, allowed)) {
    return status;
  }
  if (way == ESP_BY_SHAPE) way = linear::by_shape(m, n, k, terms, count, allowed);
  ESP_REQUIRE(allowed.fused || (way != ESP_FUSED_NARROW && way != ESP_FUSED_WIDE),
              "way %d needs bfloat16 in multiples of 8 elements", way);
  ESP_REQUIRE(allowed.extra >= 0 || way != ESP_EXTRA_COLUMNS, "the terms are no extra columns of x and w");

  if (way == ESP_EXTRA_COLUMNS) {
    return esp_gemm(0, transposed, m, n, k + allowed.extra, 1, x, ldx, w, ldw, beta, y, ldy, dtype, dtype);
  }
  if (way == ESP_SEPARATE) {
    const int32_t status = esp_gemm(0, transposed, m, n, k, 1, x, ldx, w, ldw, beta, y, ldy, dtype, dtype);
    if (status != ESP_OK || m == 0) return status;
    const int64_t bytes = dtype == ESP_BF16 ? 2 : 4;
    for (int32_t p = 0; p < count; p++) {
      const esp_low_rank &term = terms[p];
      if (term.n == 0) continue;
      const int32_t added = esp_gemm(0, transposed, m, term.n, term.r, term.scale, term.u, term.ld_u, term.v, term.ld_v,
                                     1, static_cast<char *>(y) + bytes * term.from, ldy, dtype, dtype);
      if (added != ESP_OK) return added;
    }
    return ESP_OK;
  }

  ESP_REQUIRE(m >= 0 && n >= 0 && k >= 0 && m <= INT_MAX && n <= INT_MAX && k <= INT_MAX,
              "sizes must be in [0, 2^31): m=%ld n=%ld k=%ld", m, n, k);
  ESP_REQUIRE(ldx >= k && ldw >= (transposed != 0 ? k : n) && ldy >= n, "ldx=%ld, ldw=%ld or ldy=%ld is too short", ldx,
              ldw, ldy);
  linear::Map map{static_cast<const esp::bf16 *>(x),
                  static_cast<const esp::bf16 *>(w),
                  static_cast<esp::bf16 *>(y),
                  ldx,
                  ldw,
                  ldy,
                  static_cast<int>(m),
                  static_cast<int>(n),
                  static_cast<int>(k),
                  count,
                  beta,
                  {}};
  for (int32_t p = 0; p < count; p++) {
    const esp_low_rank &term = terms[p];
    map.terms[p] = {static_cast<const esp::bf16 *>(term.u),
                    static_cast<const esp::bf16 *>(term.v),
                    term.ld_u,
                    term.ld_v,
                    static_cast<int>(term.from),
                    static_cast<int>(term.n),
                    static_cast<int>(term.r),
                    term.scale};
  }
  return linear::fused(map, transposed != 0, way == ESP_FUSED_WIDE);
}
