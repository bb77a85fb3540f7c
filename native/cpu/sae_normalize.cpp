/*
 * Normalisation of an SAE's input, and its undoing. With u = x - mean:
 *
 *   normalised = u / (spread + eps);   out = spread * decoded + mean + skip
 *
 * Gradients go through the statistics, too: the derivative of spread = |u| / sqrt(n) is u / (n spread).
 *
 * Bytes: 8 to 16 tokens d in float32, half of that in bfloat16: bound by memory. Threads take rows. Sums are float64.
 */
#include <cmath>

#include "bf16.h"

namespace {

/* What the statistics of a kind of normalisation are. */
struct Kind {
  bool centred;
  double eps;
  double n; /* spread^2 = |u|^2 / n */

  Kind(int32_t normalisation, int64_t d)
      : centred(normalisation == ESP_UNIT_VARIANCE),
        eps(centred ? 1e-5 : 0),
        n(static_cast<double>(centred ? d - 1 : d)) {}
};

int32_t check(int32_t normalisation, int64_t tokens, int64_t d) {
  ESP_REQUIRE(tokens >= 0 && d > 0, "bad sizes: tokens=%ld d=%ld", tokens, d);
  ESP_REQUIRE(normalisation == ESP_CONSTANT_NORM || normalisation == ESP_UNIT_VARIANCE, "no normalisation %d",
              normalisation);
  ESP_REQUIRE(normalisation != ESP_UNIT_VARIANCE || d > 1, "one value has no variance: d=%ld", d);
  return ESP_OK;
}

}  // namespace

int32_t esp_sae_normalize(const void *x_, int32_t normalisation, void *out_, float *mean, float *spread, int64_t tokens,
                          int64_t d, int32_t dtype) {
  if (int32_t status = check(normalisation, tokens, d)) return status;
  const Kind kind(normalisation, d);
  return esp::with_type(dtype, [=](auto type) {
    using T = decltype(type);
    const auto *x = static_cast<const T *>(x_);
    auto *out = static_cast<T *>(out_);
    esp::parallel_rows(tokens, 4 * d, [=](int64_t t) {
      const T *__restrict in = x + t * d;
      T *__restrict result = out + t * d;
      double sum = 0;
      if (kind.centred) {
#pragma omp simd reduction(+ : sum)
        for (int64_t c = 0; c < d; c++) sum += static_cast<double>(in[c]);
      }
      const double centre = sum / static_cast<double>(d);
      double squares = 0;
#pragma omp simd reduction(+ : squares)
      for (int64_t c = 0; c < d; c++) {
        const double u = static_cast<double>(in[c]) - centre;
        squares += u * u;
      }
      const double deviation = std::sqrt(squares / kind.n), inverse = 1 / (deviation + kind.eps);
      mean[t] = static_cast<float>(centre);
      spread[t] = static_cast<float>(deviation);
#pragma omp simd
      for (int64_t c = 0; c < d; c++) {
        const double u = static_cast<double>(in[c]) - centre;
        result[c] = static_cast<T>(static_cast<float>(u * inverse));
      }
    });
  });
}

int32_t esp_sae_normalize_backward(const void *x_, const float *mean, const float *spread, int32_t normalisation,
                                   const void *d_out_, const float *d_mean, const float *d_spread, const uint8_t *keep,
                                   const void *d_kept_, void *d_x_, int32_t accumulate, int64_t tokens, int64_t d,
                                   int32_t dtype) {
  if (int32_t status = check(normalisation, tokens, d)) return status;
  ESP_REQUIRE((d_mean == nullptr) == (d_spread == nullptr), "d_mean and d_spread: one is NULL, the other is not");
  ESP_REQUIRE(keep == nullptr || d_kept_ != nullptr, "keep needs d_kept");
  const Kind kind(normalisation, d);
  return esp::with_type(dtype, [=](auto type) {
    using T = decltype(type);
    const auto *x = static_cast<const T *>(x_), *d_out = static_cast<const T *>(d_out_);
    const auto *d_kept = static_cast<const T *>(d_kept_);
    auto *d_x = static_cast<T *>(d_x_);
    esp::parallel_rows(tokens, 6 * d, [=](int64_t t) {
      T *__restrict result = d_x + t * d;
      if (accumulate == 0) std::fill(result, result + d, T{});
      if (keep != nullptr && keep[t] != 0) {
        for (int64_t c = 0; c < d; c++) result[c] = static_cast<T>(result[c] + d_kept[t * d + c]);
        return;
      }
      const T *__restrict in = x + t * d;
      const T *__restrict gradient = d_out + t * d;
      const double centre = static_cast<double>(mean[t]), deviation = static_cast<double>(spread[t]);
      double sum = 0, dot = 0;
#pragma omp simd reduction(+ : sum, dot)
      for (int64_t c = 0; c < d; c++) {
        const double g = static_cast<double>(gradient[c]);
        sum += g;
        dot += g * (static_cast<double>(in[c]) - centre);
      }
      const double inverse = 1 / (deviation + kind.eps);
      double along = 0, level = 0; /* along: the factor of u; level: what every element gets */
      if (!kind.centred || deviation > 0) {
        const double beside = d_spread == nullptr ? 0 : static_cast<double>(d_spread[t]);
        along = (beside - dot * inverse * inverse) / (kind.n * deviation);
      }
      if (kind.centred) {
        const double beside = d_mean == nullptr ? 0 : static_cast<double>(d_mean[t]);
        level = (beside - sum * inverse) / static_cast<double>(d);
      }
#pragma omp simd
      for (int64_t c = 0; c < d; c++) {
        const double u = static_cast<double>(in[c]) - centre;
        const double own = static_cast<double>(gradient[c]) * inverse + u * along + level;
        result[c] = static_cast<T>(result[c] + static_cast<float>(own));
      }
    });
  });
}

int32_t esp_sae_restore(const void *y_, const float *mean, const float *spread, const void *skip_, const uint8_t *keep,
                        const void *x_, void *out_, int64_t tokens, int64_t d, int32_t dtype) {
  ESP_REQUIRE(tokens >= 0 && d > 0, "bad sizes: tokens=%ld d=%ld", tokens, d);
  ESP_REQUIRE((mean == nullptr) == (spread == nullptr), "mean and spread: one is NULL, the other is not");
  ESP_REQUIRE(keep == nullptr || x_ != nullptr, "keep needs x");
  return esp::with_type(dtype, [=](auto type) {
    using T = decltype(type);
    const auto *y = static_cast<const T *>(y_), *skip = static_cast<const T *>(skip_);
    const auto *x = static_cast<const T *>(x_);
    auto *out = static_cast<T *>(out_);
    esp::parallel_rows(tokens, 3 * d, [=](int64_t t) {
      T *__restrict result = out + t * d;
      if (keep != nullptr && keep[t] != 0) {
        std::copy(x + t * d, x + (t + 1) * d, result);
        return;
      }
      const T *__restrict decoded = y + t * d;
      const float factor = spread == nullptr ? 1 : spread[t], offset = mean == nullptr ? 0 : mean[t];
      if (skip == nullptr) {
#pragma omp simd
        for (int64_t c = 0; c < d; c++) result[c] = static_cast<T>(factor * decoded[c] + offset);
      } else {
        const T *__restrict beside = skip + t * d;
#pragma omp simd
        for (int64_t c = 0; c < d; c++) result[c] = static_cast<T>(factor * decoded[c] + offset + beside[c]);
      }
    });
  });
}

int32_t esp_sae_restore_backward(const void *d_out_, const void *y_, const float *spread, const uint8_t *keep,
                                 void *d_y_, void *d_skip_, float *d_mean, float *d_spread, int64_t tokens, int64_t d,
                                 int32_t dtype) {
  ESP_REQUIRE(tokens >= 0 && d > 0, "bad sizes: tokens=%ld d=%ld", tokens, d);
  const bool scaled = spread != nullptr;
  ESP_REQUIRE(scaled == (y_ != nullptr) && scaled == (d_mean != nullptr) && scaled == (d_spread != nullptr),
              "spread, y, d_mean and d_spread: some are NULL, others are not");
  return esp::with_type(dtype, [=](auto type) {
    using T = decltype(type);
    const auto *d_out = static_cast<const T *>(d_out_), *y = static_cast<const T *>(y_);
    auto *d_y = static_cast<T *>(d_y_), *d_skip = static_cast<T *>(d_skip_);
    esp::parallel_rows(tokens, 4 * d, [=](int64_t t) {
      T *__restrict result = d_y + t * d;
      const bool kept = keep != nullptr && keep[t] != 0;
      if (kept) {
        std::fill(result, result + d, T{});
        if (d_skip != nullptr) std::fill(d_skip + t * d, d_skip + (t + 1) * d, T{});
        if (scaled) d_mean[t] = d_spread[t] = 0;
        return;
      }
      const T *__restrict gradient = d_out + t * d;
      if (d_skip != nullptr) std::copy(gradient, gradient + d, d_skip + t * d);
      const float factor = scaled ? spread[t] : 1;
#pragma omp simd
      for (int64_t c = 0; c < d; c++) result[c] = static_cast<T>(factor * gradient[c]);
      if (!scaled) return;
      const T *__restrict decoded = y + t * d;
      double sum = 0, dot = 0;
#pragma omp simd reduction(+ : sum, dot)
      for (int64_t c = 0; c < d; c++) {
        sum += static_cast<double>(gradient[c]);
        dot += static_cast<double>(gradient[c]) * static_cast<double>(decoded[c]);
      }
      d_mean[t] = static_cast<float>(sum);
      d_spread[t] = static_cast<float>(dot);
    });
  });
}
