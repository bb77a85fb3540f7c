/*
 * Stand-ins for the functions of cuBLAS that the engine calls, with the names and values of cublas_api.h. They compute
 * column-major products on the host, in the stream of their handle, and are captured into graphs like kernels.
 *
 * Sums are float32, over k in order, in pieces of kDepth that are then added. Their error is about that of a GPU's
 * product, but not their bits. CUBLAS_COMPUTE_32F_FAST_TF32 rounds its inputs to TF32 as tensor cores do. They refuse
 * what cuBLAS refuses: leading dimensions that are too short, and types that do not go together. Work is divided by
 * shape alone.
 */
#include <algorithm>
#include <cstring>
#include <set>

#include "cuda_bf16_emulator.h"
#include "runtime.h"

struct cublasContext {
  cudaStream_t stream = nullptr;
  int math = 0;
};

namespace emulator {
namespace {

enum Status { kSuccess = 0, kNotInitialized = 1, kInvalidValue = 7, kExecutionFailed = 13, kNotSupported = 15 };
enum Operation { kN = 0, kT = 1, kC = 2 };
enum Type { kF32 = 0, kBf16 = 14 };
enum Compute { kCompute32 = 68, kPedantic32 = 69, kFastTf32 = 77 };

constexpr int64_t kDepth = 256, kRows = 256, kColumns = 4;

std::set<cublasContext *> handles;

/* One operand of a product. */
struct Matrix {
  const void *data;
  int64_t ld;
  int type;
  bool transposed;

  float at(int64_t row, int64_t column) const {
    const int64_t i = transposed ? row * ld + column : column * ld + row;
    if (type == kF32) return static_cast<const float *>(data)[i];
    return __bfloat162float(static_cast<const __nv_bfloat16 *>(data)[i]);
  }
};

struct Product {
  int64_t m, n, k;
  float alpha, beta;
  Matrix a, b;
  void *c;
  int64_t ldc;
  int c_type;
  bool tf32;
};

/* Rounds to 10 bits of mantissa, ties away from zero (PTX cvt.rna.tf32). */
float to_tf32(float x) {
  const uint32_t bits = __float_as_uint(x);
  return (bits & 0x7f800000u) == 0x7f800000u ? x : __uint_as_float((bits + 0x1000u) & 0xffffe000u);
}

std::vector<float> packed(const Matrix &matrix, int64_t rows, int64_t columns, bool tf32) {
  std::vector<float> out(static_cast<size_t>(rows * columns));
#pragma omp parallel for if (rows * columns > 1 << 16)
  for (int64_t c = 0; c < columns; c++) {
    float *column = out.data() + c * rows;
    for (int64_t r = 0; r < rows; r++) column[r] = tf32 ? to_tf32(matrix.at(r, c)) : matrix.at(r, c);
  }
  return out;
}

void store(const Product &p, int64_t row, int64_t column, float sum) {
  const int64_t i = column * p.ldc + row;
  if (p.c_type == kF32) {
    float *c = static_cast<float *>(p.c) + i;
    *c = p.beta == 0 ? p.alpha * sum : p.alpha * sum + p.beta * *c;
  } else {
    __nv_bfloat16 *c = static_cast<__nv_bfloat16 *>(p.c) + i;
    *c = __float2bfloat16_rn(p.beta == 0 ? p.alpha * sum : p.alpha * sum + p.beta * __bfloat162float(*c));
  }
}

/* A tile of up to kRows x kColumns of c. a is [m, k] and b is [k, n], both stored by columns. */
void tile(const Product &p, const float *a, const float *b, int64_t row, int64_t column) {
  const int64_t rows = std::min(kRows, p.m - row), columns = std::min(kColumns, p.n - column);
  float total[kColumns][kRows] = {}, sum[kColumns][kRows];
  for (int64_t first = 0; first < p.k; first += kDepth) {
    std::memset(sum, 0, sizeof sum);
    for (int64_t l = first; l < std::min(first + kDepth, p.k); l++) {
      const float *left = a + l * p.m + row;
      for (int64_t j = 0; j < columns; j++) {
        const float factor = b[(column + j) * p.k + l];
        for (int64_t i = 0; i < rows; i++) sum[j][i] += left[i] * factor;
      }
    }
    for (int64_t j = 0; j < columns; j++) {
      for (int64_t i = 0; i < rows; i++) total[j][i] += sum[j][i];
    }
  }
  for (int64_t j = 0; j < columns; j++) {
    for (int64_t i = 0; i < rows; i++) store(p, row + i, column + j, total[j][i]);
  }
}

size_t extent(int64_t rows, int64_t columns, int64_t ld, int type) {
  return rows == 0 || columns == 0 ? 0 : static_cast<size_t>(((columns - 1) * ld + rows) * (type == kF32 ? 4 : 2));
}

bool is_reachable(const Matrix &x, int64_t rows, int64_t columns) {
  if (x.transposed) std::swap(rows, columns);
  const size_t bytes = extent(rows, columns, x.ld, x.type);
  return bytes == 0 || is_device(x.data, bytes);
}

cudaError_t multiply(const Product &p) {
  if (p.m == 0 || p.n == 0) return cudaSuccess;
  const bool reads = p.k > 0 && p.alpha != 0;
  if ((reads && (!is_reachable(p.a, p.m, p.k) || !is_reachable(p.b, p.k, p.n))) ||
      !is_device(p.c, extent(p.m, p.n, p.ldc, p.c_type))) {
    set_fault_message("a product of cuBLAS reaches beyond the device's memory: m=" + std::to_string(p.m) +
                      " n=" + std::to_string(p.n) + " k=" + std::to_string(p.k));
    return cudaErrorIllegalAddress;
  }
  Product q = p;
  if (!reads) q.k = 0;
  const std::vector<float> a = packed(q.a, q.m, q.k, q.tf32), b = packed(q.b, q.k, q.n, q.tf32);
  const int64_t down = (q.m + kRows - 1) / kRows, across = (q.n + kColumns - 1) / kColumns;
#pragma omp parallel for schedule(dynamic, 1) if (q.m * q.n * q.k > 1 << 16)
  for (int64_t t = 0; t < down * across; t++) tile(q, a.data(), b.data(), t % down * kRows, t / down * kColumns);
  return cudaSuccess;
}

bool is_operation(int operation) { return operation >= kN && operation <= kC; }

int gemm(const char *function, cublasContext *handle, int trans_a, int trans_b, int m, int n, int k, const float *alpha,
         const void *a, int a_type, int lda, const void *b, int b_type, int ldb, const float *beta, void *c, int c_type,
         int ldc, int compute) {
  const std::lock_guard<std::recursive_mutex> guard(lock());
  if (const int asked = injected(function)) return asked;
  if (handles.count(handle) == 0) return kNotInitialized;
  if (sticky() != cudaSuccess) return kExecutionFailed;
  if (!is_operation(trans_a) || !is_operation(trans_b) || m < 0 || n < 0 || k < 0 || alpha == nullptr ||
      beta == nullptr || lda < std::max(1, trans_a == kN ? m : k) || ldb < std::max(1, trans_b == kN ? k : n) ||
      ldc < std::max(1, m)) {
    return kInvalidValue;
  }
  const bool floats = a_type == kF32 && b_type == kF32 && c_type == kF32;
  const bool halves = a_type == kBf16 && b_type == kBf16 && (c_type == kBf16 || c_type == kF32);
  const bool exact = compute == kCompute32 || compute == kPedantic32;
  if (!(exact && (floats || halves)) && !(compute == kFastTf32 && floats)) return kNotSupported;
  const Product product{m,
                        n,
                        k,
                        *alpha,
                        *beta,
                        {a, lda, a_type, trans_a != kN},
                        {b, ldb, b_type, trans_b != kN},
                        c,
                        ldc,
                        c_type,
                        compute == kFastTf32};
  return enqueue(handle->stream, [=] { return multiply(product); }) == cudaSuccess ? kSuccess : kExecutionFailed;
}

}  // namespace

int64_t live_cublas() { return static_cast<int64_t>(handles.size()); }

/* A function of cuBLAS that takes a handle. */
template <typename Body>
int with_handle(const char *function, cublasContext *handle, Body body) {
  const std::lock_guard<std::recursive_mutex> guard(lock());
  if (const int asked = injected(function)) return asked;
  return handles.count(handle) == 0 ? static_cast<int>(kNotInitialized) : static_cast<int>(body());
}

}  // namespace emulator

using emulator::handles;
using emulator::with_handle;

#pragma GCC visibility push(default)
extern "C" {

/* cuBLAS allocates its workspace here, so this is refused where cudaMalloc would be. */
int cublasCreate_v2(cublasContext **handle) {
  const std::lock_guard<std::recursive_mutex> guard(emulator::lock());
  if (const int asked = emulator::injected("cublasCreate_v2")) return asked;
  if (handle == nullptr) return emulator::kInvalidValue;
  if (emulator::sticky() != cudaSuccess || emulator::refuse_during_capture() != cudaSuccess) {
    return emulator::kNotInitialized;
  }
  *handle = new cublasContext;
  handles.insert(*handle);
  return emulator::kSuccess;
}

int cublasDestroy_v2(cublasContext *handle) {
  return with_handle("cublasDestroy_v2", handle, [&] {
    handles.erase(handle);
    delete handle;
    return emulator::kSuccess;
  });
}

int cublasSetStream_v2(cublasContext *handle, cudaStream_t stream) {
  return with_handle("cublasSetStream_v2", handle, [&] {
    if (!emulator::is_stream(stream)) return emulator::kInvalidValue;
    handle->stream = stream;
    return emulator::kSuccess;
  });
}

int cublasSetWorkspace_v2(cublasContext *handle, void *workspace, size_t bytes) {
  return with_handle("cublasSetWorkspace_v2", handle, [&] {
    const bool aligned = reinterpret_cast<uintptr_t>(workspace) % 256 == 0;
    return aligned && (bytes == 0 || emulator::is_device(workspace, bytes)) ? emulator::kSuccess
                                                                            : emulator::kInvalidValue;
  });
}

int cublasSetMathMode(cublasContext *handle, int mode) {
  return with_handle("cublasSetMathMode", handle, [&] {
    handle->math = mode;
    return mode >= 0 && mode <= 31 ? emulator::kSuccess : emulator::kInvalidValue;
  });
}

const char *cublasGetStatusString(int status) {
  switch (status) {
    case 0:
      return "CUBLAS_STATUS_SUCCESS";
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
  }
  return "<unknown>";
}

int cublasSgemm_v2(cublasContext *handle, int trans_a, int trans_b, int m, int n, int k, const float *alpha,
                   const float *a, int lda, const float *b, int ldb, const float *beta, float *c, int ldc) {
  using namespace emulator;
  constexpr int kTf32Math = 3;
  const int compute = handles.count(handle) > 0 && handle->math == kTf32Math ? kFastTf32 : kCompute32;
  return gemm("cublasSgemm_v2", handle, trans_a, trans_b, m, n, k, alpha, a, kF32, lda, b, kF32, ldb, beta, c, kF32,
              ldc, compute);
}

/* alpha and beta are floats of the host, as for these compute types. */
int cublasGemmEx(cublasContext *handle, int trans_a, int trans_b, int m, int n, int k, const void *alpha, const void *a,
                 int a_type, int lda, const void *b, int b_type, int ldb, const void *beta, void *c, int c_type,
                 int ldc, int compute, int) {
  return emulator::gemm("cublasGemmEx", handle, trans_a, trans_b, m, n, k, static_cast<const float *>(alpha), a, a_type,
                        lda, b, b_type, ldb, static_cast<const float *>(beta), c, c_type, ldc, compute);
}
}
#pragma GCC visibility pop
