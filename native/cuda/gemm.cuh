/* Dense products for kernels of other families. Internal. */
#ifndef ESPALIER_CUDA_GEMM_CUH
#define ESPALIER_CUDA_GEMM_CUH

#include "device.cuh"

namespace esp {

/* ESP_OK if cublasGemmEx has been registered, else an error. */
int32_t require_gemm(const char *kernel);

/* esp_gemm without its checks, for kernels that have made their own. */
int32_t gemm(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, float alpha, const void *a, int64_t lda,
             const void *b, int64_t ldb, float beta, void *c, int64_t ldc, int32_t dtype_c, int32_t dtype);

}  // namespace esp

#endif
