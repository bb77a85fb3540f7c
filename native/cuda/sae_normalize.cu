/*
 * Normalisation of an SAE's input and its undoing, with u = x - mean:
 *
 *   normalised = u / (spread + eps);   out = spread * decoded + mean + skip
 *
 * Gradients go through the statistics: spread = |u| / sqrt(n) has the derivative u / (n spread).
 * Bytes: 8 to 16 tokens d; bound by memory. A block takes a row. Sums in float64.
 */
#include "device.cuh"

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

__global__ void normalize(const float *x, Kind kind, float *out, float *mean, float *spread, int64_t d) {
  const int64_t t = blockIdx.x;
  const float *in = x + t * d;
  double centre = 0;
  if (kind.centred) {
    double sum = 0;
    for (int64_t c = threadIdx.x; c < d; c += esp::kThreads) sum += static_cast<double>(in[c]);
    centre = esp::block_sum(sum) / static_cast<double>(d);
  }
  double squares = 0;
  for (int64_t c = threadIdx.x; c < d; c += esp::kThreads) {
    const double u = static_cast<double>(in[c]) - centre;
    squares += u * u;
  }
  const double deviation = sqrt(esp::block_sum(squares) / kind.n), inverse = 1 / (deviation + kind.eps);
  if (threadIdx.x == 0) {
    mean[t] = static_cast<float>(centre);
    spread[t] = static_cast<float>(deviation);
  }
  for (int64_t c = threadIdx.x; c < d; c += esp::kThreads) {
    out[t * d + c] = static_cast<float>((static_cast<double>(in[c]) - centre) * inverse);
  }
}

__global__ void normalize_backward(const float *x, const float *mean, const float *spread, Kind kind,
                                   const float *d_out, const float *d_mean, const float *d_spread, const uint8_t *keep,
                                   const float *d_kept, float *d_x, bool accumulate, int64_t d) {
  const int64_t t = blockIdx.x;
  float *result = d_x + t * d;
  if (keep != nullptr && keep[t] != 0) { /* the whole block */
    for (int64_t c = threadIdx.x; c < d; c += esp::kThreads) {
      result[c] = (accumulate ? result[c] : 0.0f) + d_kept[t * d + c];
    }
    return;
  }
  const float *in = x + t * d, *gradient = d_out + t * d;
  const double centre = static_cast<double>(mean[t]), deviation = static_cast<double>(spread[t]);
  double sum = 0, dot = 0;
  for (int64_t c = threadIdx.x; c < d; c += esp::kThreads) {
    const double g = static_cast<double>(gradient[c]);
    sum += g;
    dot += g * (static_cast<double>(in[c]) - centre);
  }
  sum = esp::block_sum(sum);
  dot = esp::block_sum(dot);
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
  for (int64_t c = threadIdx.x; c < d; c += esp::kThreads) {
    const double u = static_cast<double>(in[c]) - centre;
    const float value = static_cast<float>(static_cast<double>(gradient[c]) * inverse + u * along + level);
    result[c] = (accumulate ? result[c] : 0.0f) + value;
  }
}

__global__ void restore(const float *y, const float *mean, const float *spread, const float *skip, const uint8_t *keep,
                        const float *x, float *out, int64_t n, int64_t d) {
  ESP_FOR_EACH(i, n) {
    const int64_t t = i / d;
    if (keep != nullptr && keep[t] != 0) {
      out[i] = x[i];
      continue;
    }
    const float factor = spread == nullptr ? 1.0f : spread[t], offset = mean == nullptr ? 0.0f : mean[t];
    const float value = factor * y[i] + offset;
    out[i] = skip == nullptr ? value : value + skip[i];
  }
}

__global__ void restore_backward(const float *d_out, const float *y, const float *spread, const uint8_t *keep,
                                 float *d_y, float *d_skip, float *d_mean, float *d_spread, int64_t d) {
  const int64_t t = blockIdx.x;
  const bool kept = keep != nullptr && keep[t] != 0;
  const float factor = spread != nullptr ? spread[t] : 1.0f;
  double sum = 0, dot = 0;
  for (int64_t c = threadIdx.x; c < d; c += esp::kThreads) {
    const float gradient = kept ? 0.0f : d_out[t * d + c];
    d_y[t * d + c] = kept ? 0.0f : factor * gradient;
    if (d_skip != nullptr) d_skip[t * d + c] = gradient;
    if (spread != nullptr && !kept) {
      sum += static_cast<double>(gradient);
      dot += static_cast<double>(gradient) * static_cast<double>(y[t * d + c]);
    }
  }
  if (spread == nullptr) return; /* the whole block */
  sum = esp::block_sum(sum);
  dot = esp::block_sum(dot);
  if (threadIdx.x == 0) {
    d_mean[t] = static_cast<float>(sum);
    d_spread[t] = static_cast<float>(dot);
  }
}

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
  return ESP_LAUNCH(normalize, tokens, esp::kThreads, x, Kind(normalisation, d), out, mean, spread, d);
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
  return ESP_LAUNCH(normalize_backward, tokens, esp::kThreads, x, mean, spread, Kind(normalisation, d), d_out, d_mean,
                    d_spread, keep, d_kept, d_x, accumulate != 0, d);
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
  return ESP_LAUNCH(restore, esp::blocks_for(tokens * d), esp::kThreads, y, mean, spread, skip, keep, x, out,
                    tokens * d, d);
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
  return ESP_LAUNCH(restore_backward, tokens, esp::kThreads, d_out, y, spread, keep, d_y, d_skip, d_mean, d_spread, d);
}
