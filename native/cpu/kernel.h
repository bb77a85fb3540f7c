/* What every kernel of the CPU library uses: errors, the parallel loops, dense products. Internal. */
#ifndef ESPALIER_CPU_KERNEL_H
#define ESPALIER_CPU_KERNEL_H

#include <algorithm>
#include <cstdint>

#include "espalier.h"
#include "pool.h"

namespace esp {

/* Sets this thread's error message and returns `status`. */
[[gnu::format(printf, 2, 3)]] int32_t fail(int32_t status, const char *format, ...);

/* For the start of a kernel: returns an error unless `condition`, a part of the contract, holds. The rest is a printf
 * message. */
#define ESP_REQUIRE(condition, ...)                                        \
  do {                                                                     \
    if (!(condition)) return esp::fail(ESP_INVALID_ARGUMENT, __VA_ARGS__); \
  } while (false)

/* A loop of fewer elementary operations than this, about 20 us, stays on the calling thread: the others may be asleep,
 * and waking them takes time, too (9 us, measured with OpenMP's threads). */
constexpr int64_t kParallelWork = 1 << 18;

/* Calls body(i) for every i in [0, n). For tasks that are large or uneven. Which thread runs a task does not change its
 * result. */
template <typename Body>
void parallel_tasks(int64_t n, const Body &body, Share share = Share::kInOrder) {
  run(
      n, share, [](const void *context, int64_t i) { (*static_cast<const Body *>(context))(i); }, &body);
}

/* Calls body(i) for every i in [0, n), rows of about `work` operations each. For even work. */
template <typename Body>
void parallel_rows(int64_t n, int64_t work, const Body &body) {
  if (n * work < kParallelWork) {
    for (int64_t i = 0; i < n; i++) body(i);
    return;
  }
  /* Not more, because tasks are taken one at a time and counted. */
  const int64_t tasks = std::min<int64_t>(n, 8 * threads());
  parallel_tasks(
      tasks,
      [&](int64_t task) {
        for (int64_t i = n * task / tasks, end = n * (task + 1) / tasks; i < end; i++) body(i);
      },
      Share::kOwnParts);
}

/* Calls body(begin, end) for pieces of [0, n) of `block` elements; the last piece may be shorter. */
template <typename Body>
void parallel_blocks(int64_t n, int64_t block, const Body &body) {
  parallel_rows((n + block - 1) / block, block, [&](int64_t i) { body(i * block, std::min(n, (i + 1) * block)); });
}

constexpr int64_t kElementBlock = 1 << 14;
constexpr int64_t kColumnBlock = 64;

/* The sum of partial(begin, end) over [0, n). n alone decides how it is cut, into at most kPartials pieces, and these
 * are added in order. */
template <typename Partial>
double blocked_sum(int64_t n, const Partial &partial) {
  constexpr int64_t kPartials = 256;
  int64_t block = std::max<int64_t>(4096, (n + kPartials - 1) / kPartials);
  double sums[kPartials];
  parallel_blocks(n, block, [&](int64_t begin, int64_t end) { sums[begin / block] = partial(begin, end); });
  double total = 0;
  for (int64_t i = 0; i * block < n; i++) total += sums[i];
  return total;
}

/* A matrix of T as it is stored, and whether op transposes it. */
template <typename T>
struct Matrix {
  const T *at;
  int64_t ld;
  bool transposed;

  /* The matrix that begins at element (i, j) of op. */
  Matrix from(int64_t i, int64_t j) const { return {transposed ? at + j * ld + i : at + i * ld + j, ld, transposed}; }
};

/* alpha * op(a)[m, k] op(b)[k, n], which is added to the columns [from, from + n) of a result. */
template <typename T>
struct Product {
  Matrix<T> a, b;
  int64_t from, n, k;
  float alpha;
};

/* c[m, n] = beta * c + the terms, in one pass over c and rounded once. The first term is for all columns. T and C are
 * both float, or T is bf16 (bf16.h) and C is bf16 or float. */
template <typename T, typename C>
void products(int64_t m, int64_t n, float beta, const Product<T> *terms, int64_t count, C *c, int64_t ldc);

/* Whether products of bfloat16 are computed with floats on this processor. */
bool bfloat16_as_floats();

/* The checks of sizes that esp_gemm makes. */
int32_t check_product(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, int64_t lda, int64_t ldb,
                      int64_t ldc);

/* esp_gemm without its checks, for kernels that have made their own. */
template <typename T, typename C>
void gemm(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, float alpha, const T *a, int64_t lda, const T *b,
          int64_t ldb, float beta, C *c, int64_t ldc) {
  const Product<T> product{{a, lda, trans_a}, {b, ldb, trans_b}, 0, n, k, alpha};
  products(m, n, beta, &product, 1, c, ldc);
}

}  // namespace esp

#endif
