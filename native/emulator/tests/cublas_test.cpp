/* The stand-in of cuBLAS against loops in double precision. */
#include <cmath>

#include "bf16.cuh"
#include "check.h"

extern "C" {
int cublasCreate_v2(void **handle);
int cublasDestroy_v2(void *handle);
int cublasSetStream_v2(void *handle, cudaStream_t stream);
int cublasSgemm_v2(void *handle, int trans_a, int trans_b, int m, int n, int k, const float *alpha, const float *a,
                   int lda, const float *b, int ldb, const float *beta, float *c, int ldc);
int cublasGemmEx(void *handle, int trans_a, int trans_b, int m, int n, int k, const void *alpha, const void *a,
                 int a_type, int lda, const void *b, int b_type, int ldb, const void *beta, void *c, int c_type,
                 int ldc, int compute, int algorithm);
}

using esp::bf16;
using tests::Buffer;

namespace {

constexpr int kF32 = 0, kBf16 = 14, kCompute32 = 68, kPedantic = 69, kTf32 = 77;

struct Handle {
  void *cublas = nullptr;
  Handle() { CHECK_EQUAL(0, cublasCreate_v2(&cublas)); }
  Handle(const Handle &) = delete;
  Handle &operator=(const Handle &) = delete;
  ~Handle() { CHECK_EQUAL(0, cublasDestroy_v2(cublas)); }
};

template <typename T>
constexpr int type_of() {
  return sizeof(T) == 4 ? kF32 : kBf16;
}

template <typename T>
std::vector<T> random_matrix(int count, unsigned seed) {
  std::vector<T> values;
  for (int i = 0; i < count; i++) {
    seed = seed * 1664525u + 1013904223u;
    values.push_back(esp::rounded<T>(static_cast<float>(seed >> 8) / 16777216.0f - 0.4f));
  }
  return values;
}

/* |error| <= (gamma_k of sums in pieces + rounding of c) * sum of |terms|, each with room for the order of adding. */
template <typename In, typename Out>
void check_gemm(const Handle &handle, bool trans_a, bool trans_b, int m, int n, int k, float alpha, float beta,
                int compute, double epsilon) {
  const int rows_a = trans_a ? k : m, rows_b = trans_b ? n : k, lda = rows_a + 3, ldb = rows_b + 1, ldc = m + 2;
  const std::vector<In> a = random_matrix<In>(lda * (trans_a ? m : k), 1),
                        b = random_matrix<In>(ldb * (trans_b ? k : n), 2);
  const std::vector<Out> c = random_matrix<Out>(ldc * n, 3);
  const Buffer<In> device_a(a), device_b(b);
  const Buffer<Out> device_c(static_cast<size_t>(ldc * n)); /* NaN: beta = 0 must not read it */
  if (beta != 0) device_c.get(), const_cast<Buffer<Out> &>(device_c).set(c);
  CHECK_EQUAL(
      0, cublasGemmEx(handle.cublas, trans_a, trans_b, m, n, k, &alpha, device_a.device, type_of<In>(), lda,
                      device_b.device, type_of<In>(), ldb, &beta, device_c.device, type_of<Out>(), ldc, compute, -1));
  const std::vector<Out> result = device_c.get();
  for (int j = 0; j < n; j++) {
    for (int i = 0; i < m; i++) {
      double sum = 0, size = 0;
      for (int l = 0; l < k; l++) {
        const double x =
            static_cast<double>(esp::to_float(a[static_cast<size_t>(trans_a ? i * lda + l : l * lda + i)]));
        const double y =
            static_cast<double>(esp::to_float(b[static_cast<size_t>(trans_b ? l * ldb + j : j * ldb + l)]));
        sum += x * y;
        size += std::fabs(x * y);
      }
      const auto at = static_cast<size_t>(j * ldc + i);
      const double before = beta == 0 ? 0 : static_cast<double>(beta) * static_cast<double>(esp::to_float(c[at]));
      const double expected = static_cast<double>(alpha) * sum + before;
      const double bound = epsilon * (std::fabs(static_cast<double>(alpha)) * size + std::fabs(before));
      CHECK(std::fabs(static_cast<double>(esp::to_float(result[at])) - expected) <= bound);
    }
  }
}

}  // namespace

TEST(products_of_every_shape_and_type) {
  const Handle handle;
  const double f32 = 300 * 0x1p-24, bf16_out = 0x1p-8 + f32, tf32 = 2 * 0x1p-11 + f32;
  for (int transposed = 0; transposed < 4; transposed++) {
    const bool ta = (transposed & 1) != 0, tb = (transposed & 2) != 0;
    check_gemm<float, float>(handle, ta, tb, 65, 7, 300, 1, 0, kCompute32, f32);
    check_gemm<float, float>(handle, ta, tb, 300, 5, 33, 0.5f, 2, kPedantic, f32);
    check_gemm<float, float>(handle, ta, tb, 17, 9, 40, 1, 1, kTf32, tf32);
    check_gemm<bf16, float>(handle, ta, tb, 31, 12, 600, 1, 1, kCompute32, f32);
    check_gemm<bf16, bf16>(handle, ta, tb, 8, 8, 64, 1, 0, kCompute32, bf16_out);
    check_gemm<float, float>(handle, ta, tb, 5, 3, 0, 1, 2, kCompute32, f32); /* nothing to add */
  }
}

TEST(products_that_cublas_refuses) {
  const Handle handle;
  const Buffer<float> x(64);
  const float one = 1;
  const auto gemm = [&](int m, int lda, int a_type, int c_type, int compute) {
    return cublasGemmEx(handle.cublas, 0, 0, m, 4, 4, &one, x.device, a_type, lda, x.device, a_type, 4, &one, x.device,
                        c_type, 4, compute, -1);
  };
  constexpr int kInvalidValue = 7, kNotSupported = 15, kHalf = 2;
  CHECK_EQUAL(kInvalidValue, gemm(4, 3, kF32, kF32, kCompute32));
  CHECK_EQUAL(kInvalidValue, gemm(-1, 4, kF32, kF32, kCompute32));
  CHECK_EQUAL(kNotSupported, gemm(4, 4, kF32, kBf16, kCompute32));
  CHECK_EQUAL(kNotSupported, gemm(4, 4, kBf16, kF32, kTf32));
  CHECK_EQUAL(kNotSupported, gemm(4, 4, kHalf, kHalf, kCompute32));
  CHECK_EQUAL(1, cublasSgemm_v2(nullptr, 0, 0, 1, 1, 1, &one, x.device, 1, x.device, 1, &one, x.device, 1));
  CHECK(cudaDeviceSynchronize() == cudaSuccess);
  CHECK_EQUAL(0, gemm(4, 64, kF32, kF32, kCompute32)); /* beyond the buffer: found when it runs */
  CHECK(cudaDeviceSynchronize() == cudaErrorIllegalAddress);
}

TEST(products_are_captured_and_fail_as_asked) {
  const Handle handle;
  cudaStream_t stream = nullptr;
  CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
  CHECK_EQUAL(0, cublasSetStream_v2(handle.cublas, stream));
  const Buffer<float> a(std::vector<float>{2}), c(std::vector<float>{1});
  float one = 1;
  const auto multiply = [&] {
    return cublasSgemm_v2(handle.cublas, 0, 0, 1, 1, 1, &one, a.device, 1, a.device, 1, &one, c.device, 1);
  };
  CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
  CHECK_EQUAL(0, multiply()); /* c += 4 */
  one = 50;                   /* alpha was read by the call */
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  CHECK(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
  CHECK(cudaGraphInstantiate(&exec, graph, 0) == cudaSuccess);
  for (int i = 0; i < 2; i++) CHECK(cudaGraphLaunch(exec, stream) == cudaSuccess);
  CHECK(cudaStreamSynchronize(stream) == cudaSuccess);
  CHECK_EQUAL(9, c.get()[0]);
  espalier_emulator_fail("cublasSgemm_v2", 1, 13);
  CHECK_EQUAL(13, multiply());
  CHECK(cudaGraphExecDestroy(exec) == cudaSuccess);
  CHECK(cudaGraphDestroy(graph) == cudaSuccess);
  CHECK_EQUAL(0, cublasSetStream_v2(handle.cublas, nullptr));
  CHECK(cudaStreamDestroy(stream) == cudaSuccess);
}
