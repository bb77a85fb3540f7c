/*
 * Dense products: c = alpha * op(a) op(b) + beta * c.
 *
 * 2 m n k FLOPs. The registered cblas_sgemm computes tiles of c on the calling thread; OpenMP threads take tiles.
 * One pool of threads serves all kernels, and the cut into tiles depends on the shape alone, so that results have the
 * same bits for any number of threads.
 */
#include <atomic>
#include <climits>

#include "kernel.h"

namespace esp {
namespace {

using Sgemm = void (*)(int order, int trans_a, int trans_b, int m, int n, int k, float alpha, const float *a, int lda,
                       const float *b, int ldb, float beta, float *c, int ldc);
constexpr int kRowMajor = 101, kNoTrans = 111, kTrans = 112;

std::atomic<Sgemm> sgemm{nullptr};

/* Pieces that [0, size) is cut into: about `target` long, equal up to a multiple of 16. */
int64_t piece(int64_t size, int64_t target) {
  int64_t pieces = std::max<int64_t>(1, (size + target / 2) / target);
  return ((size + pieces - 1) / pieces + 15) / 16 * 16;
}

}  // namespace

int32_t require_sgemm(const char *kernel) {
  return sgemm.load(std::memory_order_acquire) != nullptr
             ? ESP_OK
             : fail(ESP_NOT_READY, "%s needs a matrix product: call esp_set_sgemm first", kernel);
}

void gemm(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, float alpha, const float *a, int64_t lda,
          const float *b, int64_t ldb, float beta, float *c, int64_t ldc) {
  const Sgemm product = sgemm.load(std::memory_order_acquire);
  const int64_t tile_m = piece(m, 256), tile_n = piece(n, 512);
  const int64_t tiles_m = (m + tile_m - 1) / tile_m, tiles_n = (n + tile_n - 1) / tile_n;
  parallel_tasks(tiles_m * tiles_n, [&](int64_t tile) {
    const int64_t i = tile / tiles_n * tile_m, j = tile % tiles_n * tile_n;
    product(kRowMajor, trans_a ? kTrans : kNoTrans, trans_b ? kTrans : kNoTrans,
            static_cast<int>(std::min(tile_m, m - i)), static_cast<int>(std::min(tile_n, n - j)), static_cast<int>(k),
            alpha, trans_a ? a + i : a + i * lda, static_cast<int>(lda), trans_b ? b + j * ldb : b + j,
            static_cast<int>(ldb), beta, c + i * ldc + j, static_cast<int>(ldc));
  });
}

}  // namespace esp

int32_t esp_set_sgemm(void *cblas_sgemm) {
  ESP_REQUIRE(cblas_sgemm != nullptr, "cblas_sgemm is NULL");
  esp::sgemm.store(reinterpret_cast<esp::Sgemm>(cblas_sgemm), std::memory_order_release);
  return ESP_OK;
}

int32_t esp_gemm(int32_t trans_a, int32_t trans_b, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
                 int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc) {
  ESP_REQUIRE(m >= 0 && n >= 0 && k >= 0, "sizes must not be negative: m=%ld n=%ld k=%ld", m, n, k);
  ESP_REQUIRE(m <= INT_MAX && n <= INT_MAX && k <= INT_MAX && lda <= INT_MAX && ldb <= INT_MAX && ldc <= INT_MAX,
              "sizes must be below 2^31: m=%ld n=%ld k=%ld lda=%ld ldb=%ld ldc=%ld", m, n, k, lda, ldb, ldc);
  ESP_REQUIRE(lda >= std::max<int64_t>(1, trans_a ? m : k), "lda=%ld is shorter than a row of a", lda);
  ESP_REQUIRE(ldb >= std::max<int64_t>(1, trans_b ? k : n), "ldb=%ld is shorter than a row of b", ldb);
  ESP_REQUIRE(ldc >= std::max<int64_t>(1, n), "ldc=%ld is shorter than a row of c", ldc);
  if (int32_t status = esp::require_sgemm("esp_gemm")) return status;
  if (m == 0 || n == 0) return ESP_OK;
  esp::gemm(trans_a != 0, trans_b != 0, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
  return ESP_OK;
}
