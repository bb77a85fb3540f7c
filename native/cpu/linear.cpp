/*
 * A linear map and its low-rank terms, y = beta y + x op(w) + sum of scale u op(v), in one of two ways:
 *
 *   ESP_SEPARATE       first y = beta y + x op(w), then y[:, from .. from + n) += scale u op(v) for each term. FLOPs:
 *                      2 m n k + sum of 2 m n_p r_p. Where possible a sum begins with its term, while in registers;
 *                      other terms are added to some columns of y while these are in the cache (gemm.cpp)
 *   ESP_EXTRA_COLUMNS  one product whose sums have k + sum of r_p terms. FLOPs: 2 m n (k + sum of r_p)
 *
 * A rule over the shape chooses (esp_linear_by_shape).
 */
#include <climits>

#include "bf16.h"
#include "extra_columns.h"

namespace {

int32_t check(int32_t transposed, const esp_low_rank &term, int64_t n) {
  ESP_REQUIRE(term.from >= 0 && term.n >= 0 && term.r >= 0 && term.n <= n - term.from && term.r <= INT_MAX,
              "a term of rank %ld for columns [%ld, %ld) of %ld", term.r, term.from, term.from + term.n, n);
  ESP_REQUIRE(term.ld_u >= std::max<int64_t>(1, term.r) && term.ld_u <= INT_MAX, "ld_u=%ld for a rank of %ld",
              term.ld_u, term.r);
  const int64_t row = transposed ? term.r : term.n;
  ESP_REQUIRE(term.ld_v >= std::max<int64_t>(1, row) && term.ld_v <= INT_MAX, "ld_v=%ld is shorter than a row of v",
              term.ld_v);
  return ESP_OK;
}

/* Whether all terms are for all columns. In one product a term for some columns would be multiplied with zeros in the
 * others. Measured when OpenBLAS computed the products (Zen 3, fastest of 60, rank 64, 256 rows): with one term for all
 * columns one product takes 0.85 to 1.03 of the time of separate ones; with two and three terms for some columns each
 * it takes 1.06 and 1.08 of it. */
bool has_no_zeros(int64_t n, const esp_low_rank *terms, int32_t count) {
  return std::all_of(terms, terms + count, [n](const esp_low_rank &term) { return term.n == n; });
}

int64_t bytes(int32_t dtype) { return dtype == ESP_F32 ? sizeof(float) : sizeof(esp::bf16); }

int32_t check(int32_t transposed, int64_t n, const esp_low_rank *terms, int32_t count, int32_t dtype) {
  if (int32_t refused = esp::with_type(dtype, [](auto) {})) return refused;
  ESP_REQUIRE(count >= 0 && count <= ESP_LARGEST_TERMS, "%d terms, at most %d", count, ESP_LARGEST_TERMS);
  for (int32_t p = 0; p < count; p++) {
    if (int32_t status = check(transposed, terms[p], n)) return status;
  }
  return ESP_OK;
}

}  // namespace

int32_t esp_linear_by_shape(int32_t transposed, int64_t, int64_t n, int64_t k, const void *x, int64_t ldx,
                            const void *w, int64_t ldw, const esp_low_rank *terms, int32_t count, const void *, int64_t,
                            int32_t dtype, int32_t *way) {
  if (int32_t status = check(transposed, n, terms, count, dtype)) return status;
  const bool beside = esp::extra_columns(transposed != 0, k, x, ldx, w, ldw, terms, count, bytes(dtype)) > 0;
  *way = beside && has_no_zeros(n, terms, count) ? ESP_EXTRA_COLUMNS : ESP_SEPARATE;
  return ESP_OK;
}

int32_t esp_linear(int32_t transposed, int64_t m, int64_t n, int64_t k, const void *x, int64_t ldx, const void *w,
                   int64_t ldw, const esp_low_rank *terms, int32_t count, float beta, void *y, int64_t ldy, int32_t way,
                   int32_t dtype) {
  ESP_REQUIRE(way == ESP_BY_SHAPE || way == ESP_SEPARATE || way == ESP_EXTRA_COLUMNS, "way %d needs a GPU", way);
  if (int32_t refused = check(transposed, n, terms, count, dtype)) return refused;
  if (way == ESP_BY_SHAPE) {
    esp_linear_by_shape(transposed, m, n, k, x, ldx, w, ldw, terms, count, y, ldy, dtype, &way);
  }
  if (way == ESP_EXTRA_COLUMNS) {
    const int64_t extra = esp::extra_columns(transposed != 0, k, x, ldx, w, ldw, terms, count, bytes(dtype));
    ESP_REQUIRE(extra >= 0, "the terms are no extra columns of x and w");
    return esp_gemm(0, transposed, m, n, k + extra, 1, x, ldx, w, ldw, beta, y, ldy, dtype, dtype);
  }
  const bool trans = transposed != 0;
  if (int32_t refused = esp::check_product(false, trans, m, n, k, ldx, ldw, ldy)) return refused;
  if (m == 0 || n == 0) return ESP_OK;
  return esp::with_type(dtype, [=](auto type) {
    using T = decltype(type);
    const auto at = [](const void *memory) { return static_cast<const T *>(memory); };
    esp::Product<T> products[1 + ESP_LARGEST_TERMS];
    products[0] = {{at(x), ldx, false}, {at(w), ldw, trans}, 0, n, k, 1};
    for (int32_t p = 0; p < count; p++) {
      const esp_low_rank &term = terms[p];
      products[1 + p] = {
          {at(term.u), term.ld_u, false}, {at(term.v), term.ld_v, trans}, term.from, term.n, term.r, term.scale};
    }
    esp::products(m, n, beta, products, 1 + count, static_cast<T *>(y), ldy);
  });
}
