/*
 * RMSNorm (Zhang & Sennrich 2019): out = x * rstd * (weight_offset + weight), rstd = 1 / sqrt(mean(x^2) + eps). There
 * are also variants whose input is a sum, which they store on the way; what is added may first pass through a norm of
 * its own.
 *
 * Bytes: 8 rows d forward, 16 to 20 rows d backward in float32, half of that in bfloat16. About 3 and 10 FLOPs an
 * element: bound by memory. Threads take rows. The gradient of the weight is a sum over rows; for it, threads take
 * blocks of columns, and each adds its rows in order. Sums are float64, because rows that hold an attention sink span
 * five orders of magnitude.
 *
 * The functions that work on one row are not inlined. So each is compiled once per type, and rounds alike in all
 * kernels that call it.
 *
 * Measured (Zen 5, one core, in cache, float32): 52 GB/s forward, 67 backward.
 */
#include <cmath>

#include "bf16.h"

namespace {

/* result = RMSNorm of the row `in`. Returns rstd. */
template <typename T>
[[gnu::noinline]] float normalise(const T *in, const float *weight, float weight_offset, float eps,
                                  T *__restrict result, int64_t d) {
  double squares = 0;
#pragma omp simd reduction(+ : squares)
  for (int64_t c = 0; c < d; c++) squares += static_cast<double>(in[c]) * static_cast<double>(in[c]);
  const float scale = static_cast<float>(1 / std::sqrt(squares / static_cast<double>(d) + static_cast<double>(eps)));
#pragma omp simd
  for (int64_t c = 0; c < d; c++) result[c] = static_cast<T>(in[c] * scale * (weight_offset + weight[c]));
  return scale;
}

/* total = x + y. total may be x or y. */
template <typename T>
[[gnu::noinline]] void add(const T *x, const T *y, T *total, int64_t d) {
#pragma omp simd
  for (int64_t c = 0; c < d; c++) total[c] = static_cast<T>(x[c] + y[c]);
}

/* y is added to x first, and sum receives the result; or both are NULL. */
int32_t forward(const void *x_, const void *y_, const float *weight, float weight_offset, float eps, void *sum_,
                void *out_, int64_t ld_out, float *rstd, int64_t rows, int64_t d, int32_t dtype) {
  ESP_REQUIRE(rows >= 0 && d > 0, "bad sizes: rows=%ld d=%ld", rows, d);
  ESP_REQUIRE(ld_out >= d, "ld_out=%ld is shorter than a row of %ld", ld_out, d);
  return esp::with_type(dtype, [=](auto type) {
    using T = decltype(type);
    const auto *x = static_cast<const T *>(x_), *y = static_cast<const T *>(y_);
    auto *sum = static_cast<T *>(sum_), *out = static_cast<T *>(out_);
    esp::parallel_rows(rows, 2 * d, [=](int64_t r) {
      const T *in = x + r * d;
      if (sum != nullptr) {
        add(in, y + r * d, sum + r * d, d);
        in = sum + r * d;
      }
      rstd[r] = normalise(in, weight, weight_offset, eps, out + r * ld_out, d);
    });
  });
}

/* result (+)= the gradient of a row that was normalised with rstd = scale. */
template <typename T>
[[gnu::noinline]] void row_gradient(const T *__restrict in, const float *__restrict gain, float weight_offset,
                                    float scale, const T *__restrict gradient, T *__restrict result, bool accumulate,
                                    int64_t d) {
  double dot = 0; /* sum of g * xhat */
#pragma omp simd reduction(+ : dot)
  for (int64_t c = 0; c < d; c++) {
    dot += static_cast<double>(gradient[c] * (weight_offset + gain[c])) * static_cast<double>(in[c]);
  }
  /* rstd * (g - xhat * mean(g * xhat)) = rstd * g - x * (rstd^3 * sum(g * x) / d) */
  const double cube = static_cast<double>(scale) * static_cast<double>(scale) * static_cast<double>(scale);
  const float along = static_cast<float>(cube * dot / static_cast<double>(d));
  if (accumulate) {
#pragma omp simd
    for (int64_t c = 0; c < d; c++) {
      result[c] = static_cast<T>(result[c] + (scale * (gradient[c] * (weight_offset + gain[c])) - in[c] * along));
    }
  } else {
#pragma omp simd
    for (int64_t c = 0; c < d; c++) {
      result[c] = static_cast<T>(scale * (gradient[c] * (weight_offset + gain[c])) - in[c] * along);
    }
  }
}

/* d_weight += sum over rows of d_out * xhat. Does nothing if d_weight is NULL. */
template <typename T>
void weight_gradient(const T *x, const float *rstd, const T *d_out, float *d_weight, int64_t rows, int64_t d) {
  if (d_weight == nullptr) return;
  const int64_t blocks = (d + esp::kColumnBlock - 1) / esp::kColumnBlock;
  esp::parallel_rows(blocks, rows * esp::kColumnBlock, [=](int64_t block) {
    const int64_t begin = block * esp::kColumnBlock, width = std::min(esp::kColumnBlock, d - begin);
    double sums[esp::kColumnBlock] = {};
    for (int64_t r = 0; r < rows; r++) {
      const T *__restrict in = x + r * d + begin;
      const T *__restrict gradient = d_out + r * d + begin;
      const double scale = static_cast<double>(rstd[r]);
#pragma omp simd
      for (int64_t c = 0; c < width; c++) sums[c] += static_cast<double>(gradient[c] * in[c]) * scale;
    }
    for (int64_t c = 0; c < width; c++) {
      d_weight[begin + c] = static_cast<float>(static_cast<double>(d_weight[begin + c]) + sums[c]);
    }
  });
}

}  // namespace

int32_t esp_rms_norm_forward(const void *x, const float *weight, float weight_offset, float eps, void *out,
                             int64_t ld_out, float *rstd, int64_t rows, int64_t d, int32_t dtype) {
  return forward(x, nullptr, weight, weight_offset, eps, nullptr, out, ld_out, rstd, rows, d, dtype);
}

int32_t esp_add_rms_norm_forward(const void *x, const void *y, const float *weight, float weight_offset, float eps,
                                 void *sum, void *out, int64_t ld_out, float *rstd, int64_t rows, int64_t d,
                                 int32_t dtype) {
  return forward(x, y, weight, weight_offset, eps, sum, out, ld_out, rstd, rows, d, dtype);
}

int32_t esp_rms_norm_backward(const void *x_, const float *weight, float weight_offset, const float *rstd,
                              const void *d_out_, void *d_x_, int32_t accumulate, float *d_weight, int64_t rows,
                              int64_t d, int32_t dtype) {
  ESP_REQUIRE(rows >= 0 && d > 0, "bad sizes: rows=%ld d=%ld", rows, d);
  return esp::with_type(dtype, [=](auto type) {
    using T = decltype(type);
    const auto *x = static_cast<const T *>(x_), *d_out = static_cast<const T *>(d_out_);
    auto *d_x = static_cast<T *>(d_x_);
    esp::parallel_rows(rows, 4 * d, [=](int64_t r) {
      row_gradient(x + r * d, weight, weight_offset, rstd[r], d_out + r * d, d_x + r * d, accumulate != 0, d);
    });
    weight_gradient(x, rstd, d_out, d_weight, rows, d);
  });
}

int32_t esp_add_normed_forward(const void *branch_, const float *branch_weight, float *branch_rstd, const void *x_,
                               void *sum_, const float *weight, float weight_offset, float eps, void *out_,
                               int64_t ld_out, float *rstd, int64_t rows, int64_t d, int32_t dtype) {
  ESP_REQUIRE(rows >= 0 && d > 0, "bad sizes: rows=%ld d=%ld", rows, d);
  ESP_REQUIRE(out_ == nullptr || ld_out >= d, "ld_out=%ld is shorter than a row of %ld", ld_out, d);
  return esp::with_type(dtype, [=](auto type) {
    using T = decltype(type);
    const auto *branch = static_cast<const T *>(branch_), *x = static_cast<const T *>(x_);
    auto *sum = static_cast<T *>(sum_), *out = static_cast<T *>(out_);
    esp::parallel_rows(rows, 4 * d, [=](int64_t r) {
      T *total = sum + r * d;
      branch_rstd[r] = normalise(branch + r * d, branch_weight, weight_offset, eps, total, d);
      add(x + r * d, total, total, d);
      if (out != nullptr) rstd[r] = normalise(total, weight, weight_offset, eps, out + r * ld_out, d);
    });
  });
}

int32_t esp_add_normed_backward(const void *sum_, const float *weight, const float *rstd, const void *d_out_,
                                void *d_sum_, int32_t accumulate, float *d_weight, const void *branch_,
                                const float *branch_weight, const float *branch_rstd, float weight_offset,
                                void *d_branch_, float *d_branch_weight, int64_t rows, int64_t d, int32_t dtype) {
  ESP_REQUIRE(rows >= 0 && d > 0, "bad sizes: rows=%ld d=%ld", rows, d);
  return esp::with_type(dtype, [=](auto type) {
    using T = decltype(type);
    const auto *sum = static_cast<const T *>(sum_), *d_out = static_cast<const T *>(d_out_);
    const auto *branch = static_cast<const T *>(branch_);
    auto *d_sum = static_cast<T *>(d_sum_), *d_branch = static_cast<T *>(d_branch_);
    esp::parallel_rows(rows, 8 * d, [=](int64_t r) {
      T *total = d_sum + r * d;
      row_gradient(sum + r * d, weight, weight_offset, rstd[r], d_out + r * d, total, accumulate != 0, d);
      row_gradient(branch + r * d, branch_weight, weight_offset, branch_rstd[r], total, d_branch + r * d, false, d);
    });
    weight_gradient(sum, rstd, d_out, d_weight, rows, d);
    weight_gradient(branch, branch_rstd, d_sum, d_branch_weight, rows, d);
  });
}
