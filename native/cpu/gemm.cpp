/*
 * Dense products: c = alpha * op(a) op(b) + beta * c.
 *
 * 2 m n k FLOPs. The registered cblas_sgemm computes tiles of c on the calling thread; OpenMP threads take tiles.
 * One pool of threads serves all kernels, and the cut into tiles depends on the shape alone, so that results have the
 * same bits for any number of threads.
 *
 * Measured (Zen 5, OpenBLAS 0.3.31, GFLOP/s of one core): one call for everything 190 to 205 at the sizes of a
 * transformer's layers, in tiles 91 to 100 % of that; with a LoRA rank of 16 as one side 50 to 120 in one call, and in
 * tiles 1.2 to 1.7 times as much. Few rows cost speed, as the other operand is copied for them all the same:
 * [rows, 576] x [576, 49152] makes 130 with 80 rows, 180 with 256, 200 with 512.
 */
#include <atomic>
#include <climits>

#include "kernel.h"

namespace esp {
namespace {

using Sgemm = void (*)(int order, int trans_a, int trans_b, int m, int n, int k, float alpha, const float *a, int lda,
                       const float *b, int ldb, float beta, float *c, int ldc);

/* Below this many multiplications, about 20 us, nothing is cut: see kParallelWork. */
constexpr int64_t kOneTile = 1 << 21;
/* Tiles of about 512 x 512, but at least 4. */
constexpr int64_t kTileArea = 1 << 18;
/* Where a side is at most this, as LoRA's rank is, small tiles reach OpenBLAS's kernels that copy nothing. */
constexpr int64_t kSkinny = 32, kSkinnyTile = 1 << 19;
/* A call of sgemm copies its rows of op(a) and columns of op(b) into a layout of its own: that costs as much as this
 * many more rows and columns of products (measured). */
constexpr int64_t kPacking = 20;

constexpr int kRowMajor = 101, kNoTrans = 111, kTrans = 112;

std::atomic<Sgemm> sgemm{nullptr};

struct Cut {
  int64_t tile_m, tile_n;
};

/* About size / count, a multiple of 16: what sgemm's inner kernel takes at a time. */
int64_t piece(int64_t size, int64_t count) { return ((size + count - 1) / count + 15) / 16 * 16; }

int64_t pieces(int64_t size, int64_t length) { return (size + length - 1) / length; }

/* By shape alone: of all grids with the wanted number of tiles, the one that four threads finish first. */
Cut cut(int64_t m, int64_t n, int64_t k) {
  if (m * n * k < kOneTile) return {m, n};
  const bool skinny = std::min({m, n, k}) <= kSkinny;
  const int64_t wanted = skinny ? m * n * k / kSkinnyTile : m * n / kTileArea;
  const int64_t tiles = std::max<int64_t>(4, (wanted + 3) / 4 * 4);
  Cut best{};
  int64_t best_cost = INT64_MAX;
  for (int64_t rows = 1; rows <= tiles; rows++) {
    if (tiles % rows != 0) continue;
    const Cut grid{piece(m, rows), piece(n, tiles / rows)};
    const int64_t waves = (pieces(m, grid.tile_m) * pieces(n, grid.tile_n) + 3) / 4;
    const int64_t cost = waves * (grid.tile_m * grid.tile_n + kPacking * (grid.tile_m + grid.tile_n));
    if (cost < best_cost) {
      best = grid;
      best_cost = cost;
    }
  }
  return best;
}

}  // namespace

int32_t require_sgemm(const char *kernel) {
  return sgemm.load(std::memory_order_acquire) != nullptr
             ? ESP_OK
             : fail(ESP_NOT_READY, "%s needs a matrix product: call esp_set_gemm first", kernel);
}

void gemm(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, float alpha, const float *a, int64_t lda,
          const float *b, int64_t ldb, float beta, float *c, int64_t ldc) {
  const Sgemm product = sgemm.load(std::memory_order_acquire);
  const Cut grid = cut(m, n, k);
  const int64_t tile_m = grid.tile_m, tile_n = grid.tile_n, columns = pieces(n, tile_n);
  parallel_tasks(pieces(m, tile_m) * columns, [&](int64_t tile) {
    const int64_t i = tile / columns * tile_m, j = tile % columns * tile_n;
    product(kRowMajor, trans_a ? kTrans : kNoTrans, trans_b ? kTrans : kNoTrans,
            static_cast<int>(std::min(tile_m, m - i)), static_cast<int>(std::min(tile_n, n - j)), static_cast<int>(k),
            alpha, trans_a ? a + i : a + i * lda, static_cast<int>(lda), trans_b ? b + j * ldb : b + j,
            static_cast<int>(ldb), beta, c + i * ldc + j, static_cast<int>(ldc));
  });
}

}  // namespace esp

int32_t esp_set_gemm(void *function, void *handle) {
  ESP_REQUIRE(function != nullptr, "cblas_sgemm is NULL");
  ESP_REQUIRE(handle == nullptr, "cblas_sgemm has no handle");
  esp::sgemm.store(reinterpret_cast<esp::Sgemm>(function), std::memory_order_release);
  return ESP_OK;
}

int32_t esp_gemm(int32_t trans_a, int32_t trans_b, int64_t m, int64_t n, int64_t k, float alpha, const void *a,
                 int64_t lda, const void *b, int64_t ldb, float beta, void *c, int64_t ldc, int32_t dtype_c,
                 int32_t dtype) {
  ESP_REQUIRE(dtype == ESP_F32 && dtype_c == ESP_F32, "only float32 is supported on this device, not type %d to %d",
              dtype, dtype_c);
  ESP_REQUIRE(m >= 0 && n >= 0 && k >= 0, "sizes must not be negative: m=%ld n=%ld k=%ld", m, n, k);
  ESP_REQUIRE(m <= INT_MAX && n <= INT_MAX && k <= INT_MAX && lda <= INT_MAX && ldb <= INT_MAX && ldc <= INT_MAX,
              "sizes must be below 2^31: m=%ld n=%ld k=%ld lda=%ld ldb=%ld ldc=%ld", m, n, k, lda, ldb, ldc);
  ESP_REQUIRE(lda >= std::max<int64_t>(1, trans_a ? m : k), "lda=%ld is shorter than a row of a", lda);
  ESP_REQUIRE(ldb >= std::max<int64_t>(1, trans_b ? k : n), "ldb=%ld is shorter than a row of b", ldb);
  ESP_REQUIRE(ldc >= std::max<int64_t>(1, n), "ldc=%ld is shorter than a row of c", ldc);
  if (int32_t status = esp::require_sgemm("esp_gemm")) return status;
  if (m == 0 || n == 0) return ESP_OK;
  esp::gemm(trans_a != 0, trans_b != 0, m, n, k, alpha, static_cast<const float *>(a), lda,
            static_cast<const float *>(b), ldb, beta, static_cast<float *>(c), ldc);
  return ESP_OK;
}
