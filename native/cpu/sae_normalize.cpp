/*
 * Normalisation of an SAE's input and its undoing, with u = x - mean:
 *
 *   normalised = u / (spread + eps);   out = spread * decoded + mean + skip
 *
 * Gradients go through the statistics: spread = |u| / sqrt(n) has the derivative u / (n spread).
 * Bytes: 8 to 16 tokens d; bound by memory. Threads take rows. Sums in float64.
 */
#include <cmath>

#include "kernel.h"

namespace {

/* Statistics and constants of a kind. */
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
  ESP_REQUIRE(dtype == ESP_F32, "only float32 is supported on this device, not type %d", dtype);
  const auto *x = static_cast<const float *>(x_);
  auto *out = static_cast<float *>(out_);
  if (int32_t status = check(normalisation, tokens, d)) return status;
  const Kind kind(normalisation, d);
  esp::parallel_rows(tokens, 4 * d, [=](int64_t t) {
    const float *__restrict in = x + t * d;
    float *__restrict result = out + t * d;
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
      result[c] = static_cast<float>((static_cast<double>(in[c]) - centre) * inverse);
    }
  });
  return ESP_OK;
}

int32_t esp_sae_normalize_backward(const void *x_, const float *mean, const float *spread, int32_t normalisation,
                                   const void *d_out_, const float *d_mean, const float *d_spread, const uint8_t *keep,
                                   const void *d_kept_, void *d_x_, int32_t accumulate, int64_t tokens, int64_t d,
                                   int32_t dtype) {
  ESP_REQUIRE(dtype == ESP_F32, "only float32 is supported on this device, not type %d", dtype);
  const auto *x = static_cast<const float *>(x_);
  const auto *d_out = static_cast<const float *>(d_out_);
  const auto *d_kept = static_cast<const float *>(d_kept_);
  auto *d_x = static_cast<float *>(d_x_);
  if (int32_t status = check(normalisation, tokens, d)) return status;
  ESP_REQUIRE((d_mean == nullptr) == (d_spread == nullptr), "d_mean and d_spread: one is NULL, the other is not");
  ESP_REQUIRE(keep == nullptr || d_kept != nullptr, "keep needs d_kept");
  const Kind kind(normalisation, d);
  esp::parallel_rows(tokens, 6 * d, [=](int64_t t) {
    float *__restrict result = d_x + t * d;
    if (accumulate == 0) std::fill(result, result + d, 0.0f);
    if (keep != nullptr && keep[t] != 0) {
      for (int64_t c = 0; c < d; c++) result[c] += d_kept[t * d + c];
      return;
    }
    const float *__restrict in = x + t * d;
    const float *__restrict gradient = d_out + t * d;
    const double centre = static_cast<double>(mean[t]), deviation = static_cast<double>(spread[t]);
    double sum = 0, dot = 0;
#pragma omp simd reduction(+ : sum, dot)
    for (int64_t c = 0; c < d; c++) {
      const double g = static_cast<double>(gradient[c]);
      sum += g;
      dot += g * (static_cast<double>(in[c]) - centre);
    }
    const double inverse = 1 / (deviation + kind.eps);
    double along = 0, level = 0; /* factor of u, and what every element gets */
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
      result[c] += static_cast<float>(static_cast<double>(gradient[c]) * inverse + u * along + level);
    }
  });
  return ESP_OK;
}

int32_t esp_sae_restore(const void *y_, const float *mean, const float *spread, const void *skip_, const uint8_t *keep,
                        const void *x_, void *out_, int64_t tokens, int64_t d, int32_t dtype) {
  ESP_REQUIRE(dtype == ESP_F32, "only float32 is supported on this device, not type %d", dtype);
  const auto *y = static_cast<const float *>(y_);
  const auto *skip = static_cast<const float *>(skip_);
  const auto *x = static_cast<const float *>(x_);
  auto *out = static_cast<float *>(out_);
  ESP_REQUIRE(tokens >= 0 && d > 0, "bad sizes: tokens=%ld d=%ld", tokens, d);
  ESP_REQUIRE((mean == nullptr) == (spread == nullptr), "mean and spread: one is NULL, the other is not");
  ESP_REQUIRE(keep == nullptr || x != nullptr, "keep needs x");
  esp::parallel_rows(tokens, 3 * d, [=](int64_t t) {
    float *__restrict result = out + t * d;
    if (keep != nullptr && keep[t] != 0) {
      std::copy(x + t * d, x + (t + 1) * d, result);
      return;
    }
    const float *__restrict decoded = y + t * d;
    const float factor = spread == nullptr ? 1 : spread[t], offset = mean == nullptr ? 0 : mean[t];
    if (skip == nullptr) {
#pragma omp simd
      for (int64_t c = 0; c < d; c++) result[c] = factor * decoded[c] + offset;
    } else {
      const float *__restrict beside = skip + t * d;
#pragma omp simd
      for (int64_t c = 0; c < d; c++) result[c] = factor * decoded[c] + offset + beside[c];
    }
  });
  return ESP_OK;
}

int32_t esp_sae_restore_backward(const void *d_out_, const void *y_, const float *spread, const uint8_t *keep,
                                 void *d_y_, void *d_skip_, float *d_mean, float *d_spread, int64_t tokens, int64_t d,
                                 int32_t dtype) {
  ESP_REQUIRE(dtype == ESP_F32, "only float32 is supported on this device, not type %d", dtype);
  const auto *d_out = static_cast<const float *>(d_out_);
  const auto *y = static_cast<const float *>(y_);
  auto *d_y = static_cast<float *>(d_y_);
  auto *d_skip = static_cast<float *>(d_skip_);
  ESP_REQUIRE(tokens >= 0 && d > 0, "bad sizes: tokens=%ld d=%ld", tokens, d);
  const bool scaled = spread != nullptr;
  ESP_REQUIRE(scaled == (y != nullptr) && scaled == (d_mean != nullptr) && scaled == (d_spread != nullptr),
              "spread, y, d_mean and d_spread: some are NULL, others are not");
  esp::parallel_rows(tokens, 4 * d, [=](int64_t t) {
    float *__restrict result = d_y + t * d;
    const bool kept = keep != nullptr && keep[t] != 0;
    if (kept) {
      std::fill(result, result + d, 0.0f);
      if (d_skip != nullptr) std::fill(d_skip + t * d, d_skip + (t + 1) * d, 0.0f);
      if (scaled) d_mean[t] = d_spread[t] = 0;
      return;
    }
    const float *__restrict gradient = d_out + t * d;
    if (d_skip != nullptr) std::copy(gradient, gradient + d, d_skip + t * d);
    const float factor = scaled ? spread[t] : 1;
#pragma omp simd
    for (int64_t c = 0; c < d; c++) result[c] = factor * gradient[c];
    if (!scaled) return;
    const float *__restrict decoded = y + t * d;
    double sum = 0, dot = 0;
#pragma omp simd reduction(+ : sum, dot)
    for (int64_t c = 0; c < d; c++) {
      sum += static_cast<double>(gradient[c]);
      dot += static_cast<double>(gradient[c]) * static_cast<double>(decoded[c]);
    }
    d_mean[t] = static_cast<float>(sum);
    d_spread[t] = static_cast<float>(dot);
  });
  return ESP_OK;
}
