/*
 * Dense products by cuBLAS: c = alpha * op(a) op(b) + beta * c, 2 m n k FLOPs.
 *
 * cuBLAS expects matrices stored by columns. A row-major c [m, n] is then its transpose [n, m] = op(b)^T op(a)^T. So
 * the operands change places and keep their flags. Sums are float32 for both types (CUBLAS_COMPUTE_32F; TF32 is not
 * used unless NVIDIA_TF32_OVERRIDE forces it). A bfloat16 result is rounded once, for which the handle must have
 * CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION.
 */
#include "gemm.cuh"

#include <algorithm>
#include <climits>

namespace esp {
namespace {

/* The numbers are those of cublas_api.h and library_types.h. Java loads the library itself at run time. */
constexpr int kNoTranspose = 0, kTranspose = 1;
constexpr int kReal32F = 0, kReal16BF = 14;
constexpr int kCompute32F = 68;
constexpr int kDefaultAlgorithm = -1;

using GemmEx = int (*)(void *handle, int trans_a, int trans_b, int m, int n, int k, const void *alpha, const void *a,
                       int type_a, int lda, const void *b, int type_b, int ldb, const void *beta, void *c, int type_c,
                       int ldc, int compute, int algorithm);

GemmEx gemm_ex = nullptr;
void *handle = nullptr;

const char *words(int status) {
  switch (status) {
    case 1:
      return "CUBLAS_STATUS_NOT_INITIALIZED";
    case 3:
      return "CUBLAS_STATUS_ALLOC_FAILED";
    case 7:
      return "CUBLAS_STATUS_INVALID_VALUE";
    case 8:
      return "CUBLAS_STATUS_ARCH_MISMATCH";
    case 11:
      return "CUBLAS_STATUS_MAPPING_ERROR";
    case 13:
      return "CUBLAS_STATUS_EXECUTION_FAILED";
    case 14:
      return "CUBLAS_STATUS_INTERNAL_ERROR";
    case 15:
      return "CUBLAS_STATUS_NOT_SUPPORTED";
    default:
      return "a status unknown to this library";
  }
}

int real_type(int32_t dtype) { return dtype == ESP_BF16 ? kReal16BF : kReal32F; }

}  // namespace

int32_t require_gemm(const char *kernel) {
  return gemm_ex != nullptr ? ESP_OK
                            : fail(ESP_NOT_READY, "%s needs a matrix product: call esp_set_gemm first", kernel);
}

int32_t gemm(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, float alpha, const void *a, int64_t lda,
             const void *b, int64_t ldb, float beta, void *c, int64_t ldc, int32_t dtype_c, int32_t dtype) {
  const int status = gemm_ex(handle, trans_b ? kTranspose : kNoTranspose, trans_a ? kTranspose : kNoTranspose,
                             static_cast<int>(n), static_cast<int>(m), static_cast<int>(k), &alpha, b, real_type(dtype),
                             static_cast<int>(ldb), a, real_type(dtype), static_cast<int>(lda), &beta, c,
                             real_type(dtype_c), static_cast<int>(ldc), kCompute32F, kDefaultAlgorithm);
  if (status == 0) return ESP_OK;
  return fail(ESP_DEVICE_ERROR, "cublasGemmEx of m=%ld n=%ld k=%ld: %s (%d)", m, n, k, words(status), status);
}

}  // namespace esp

int32_t esp_set_gemm(void *function, void *handle) {
  ESP_REQUIRE(function != nullptr, "cublasGemmEx is NULL");
  ESP_REQUIRE(handle != nullptr, "the cuBLAS handle is NULL");
  esp::gemm_ex = reinterpret_cast<esp::GemmEx>(function);
  esp::handle = handle;
  return ESP_OK;
}

int32_t esp_gemm(int32_t trans_a, int32_t trans_b, int64_t m, int64_t n, int64_t k, float alpha, const void *a,
                 int64_t lda, const void *b, int64_t ldb, float beta, void *c, int64_t ldc, int32_t dtype_c,
                 int32_t dtype) {
  ESP_REQUIRE(dtype == ESP_F32 || dtype == ESP_BF16, "products are of float32 or bfloat16, not of type %d", dtype);
  ESP_REQUIRE(dtype_c == dtype || dtype_c == ESP_F32, "a product of type %d cannot have type %d", dtype, dtype_c);
  ESP_REQUIRE(m >= 0 && n >= 0 && k >= 0, "sizes must not be negative: m=%ld n=%ld k=%ld", m, n, k);
  ESP_REQUIRE(m <= INT_MAX && n <= INT_MAX && k <= INT_MAX && lda <= INT_MAX && ldb <= INT_MAX && ldc <= INT_MAX,
              "sizes must be below 2^31: m=%ld n=%ld k=%ld lda=%ld ldb=%ld ldc=%ld", m, n, k, lda, ldb, ldc);
  ESP_REQUIRE(lda >= std::max<int64_t>(1, trans_a != 0 ? m : k), "lda=%ld is shorter than a row of a", lda);
  ESP_REQUIRE(ldb >= std::max<int64_t>(1, trans_b != 0 ? k : n), "ldb=%ld is shorter than a row of b", ldb);
  ESP_REQUIRE(ldc >= std::max<int64_t>(1, n), "ldc=%ld is shorter than a row of c", ldc);
  if (int32_t status = esp::require_gemm("esp_gemm")) return status;
  if (m == 0 || n == 0) return ESP_OK;
  return esp::gemm(trans_a != 0, trans_b != 0, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc, dtype_c, dtype);
}
