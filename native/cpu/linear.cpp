/*
 * A linear map and its low-rank terms: one product for the map, then one for each term, added to its columns.
 *
 *   y = beta y + x op(w);  y[:, from .. from + n) += scale u op(v)
 *
 * 2 m n k + sum of 2 m n_p r_p FLOPs. What a second pass over y costs shows only where y is not in cache: the products'
 * tiles are (see gemm.cpp).
 */
#include <climits>

#include "kernel.h"

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

}  // namespace

int32_t esp_linear(int32_t transposed, int64_t m, int64_t n, int64_t k, const void *x_, int64_t ldx, const void *w,
                   int64_t ldw, const esp_low_rank *terms, int32_t count, float beta, void *y_, int64_t ldy,
                   int32_t way, int32_t dtype) {
  ESP_REQUIRE(dtype == ESP_F32, "only float32 is supported on this device, not type %d", dtype);
  ESP_REQUIRE(way == ESP_BY_SHAPE || way == ESP_SEPARATE, "way %d needs a GPU", way);
  ESP_REQUIRE(count >= 0 && count <= ESP_LARGEST_TERMS, "%d terms, at most %d", count, ESP_LARGEST_TERMS);
  for (int32_t p = 0; p < count; p++) {
    if (int32_t status = check(transposed, terms[p], n)) return status;
  }
  const int32_t status = esp_gemm(0, transposed, m, n, k, 1, x_, ldx, w, ldw, beta, y_, ldy, dtype, dtype);
  if (status != ESP_OK || m == 0) return status;
  for (int32_t p = 0; p < count; p++) {
    const esp_low_rank &term = terms[p];
    if (term.n == 0) continue;
    esp::gemm(false, transposed != 0, m, term.n, term.r, term.scale, static_cast<const float *>(term.u), term.ld_u,
              static_cast<const float *>(term.v), term.ld_v, 1, static_cast<float *>(y_) + term.from, ldy);
  }
  return ESP_OK;
}
