/*
 * Normalisation of an SAE's input, and its undoing. With u = x - mean:
 *
 *   normalised = u / (spread + eps);   out = spread * decoded + mean + skip
 *
 * Gradients go through the statistics, too: the derivative of spread = |u| / sqrt(n) is u / (n spread).
 *
 * 2 to 5 elements are moved for each column of a token: bound by memory. A block takes a row, a thread packs of 16
 * bytes of it; the second reading comes from cache. Sums are float64.
 */
#include "vector.cuh"

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

template <typename T, int N>
__global__ void normalize(const T *x, Kind kind, T *out, float *mean, float *spread, int64_t d) {
  const int64_t t = blockIdx.x, first = threadIdx.x * N, step = blockDim.x * N;
  const T *in = x + t * d;
  double centre = 0;
  if (kind.centred) {
    double sum = 0;
    for (int64_t c = first; c < d; c += step) {
      const esp::Pack<N> row = esp::load<N>(in + c);
      for (int i = 0; i < N; i++) sum += static_cast<double>(row[i]);
    }
    centre = esp::block_sum(sum) / static_cast<double>(d);
  }
  double squares = 0;
  for (int64_t c = first; c < d; c += step) {
    const esp::Pack<N> row = esp::load<N>(in + c);
    for (int i = 0; i < N; i++) {
      const double u = static_cast<double>(row[i]) - centre;
      squares += u * u;
    }
  }
  const double deviation = sqrt(esp::block_sum(squares) / kind.n), inverse = 1 / (deviation + kind.eps);
  if (threadIdx.x == 0) {
    mean[t] = static_cast<float>(centre);
    spread[t] = static_cast<float>(deviation);
  }
  for (int64_t c = first; c < d; c += step) {
    esp::Pack<N> row = esp::load<N>(in + c);
    for (int i = 0; i < N; i++) row[i] = static_cast<float>((static_cast<double>(row[i]) - centre) * inverse);
    esp::store(out + t * d + c, row);
  }
}

template <typename T, int N>
__global__ void normalize_backward(const T *x, const float *mean, const float *spread, Kind kind, const T *d_out,
                                   const float *d_mean, const float *d_spread, const uint8_t *keep, const T *d_kept,
                                   T *d_x, bool accumulate, int64_t d) {
  const int64_t t = blockIdx.x, first = threadIdx.x * N, step = blockDim.x * N;
  T *result = d_x + t * d;
  if (keep != nullptr && keep[t] != 0) { /* the whole block */
    for (int64_t c = first; c < d; c += step) {
      esp::Pack<N> sum{};
      if (accumulate) sum = esp::load<N>(result + c);
      const esp::Pack<N> row = esp::load<N>(d_kept + t * d + c);
      for (int i = 0; i < N; i++) sum[i] += row[i];
      esp::store(result + c, sum);
    }
    return;
  }
  const T *in = x + t * d, *gradient = d_out + t * d;
  const double centre = static_cast<double>(mean[t]), deviation = static_cast<double>(spread[t]);
  double sum = 0, dot = 0;
  for (int64_t c = first; c < d; c += step) {
    const esp::Pack<N> row = esp::load<N>(in + c), dy = esp::load<N>(gradient + c);
    for (int i = 0; i < N; i++) {
      const double g = static_cast<double>(dy[i]);
      sum += g;
      dot += g * (static_cast<double>(row[i]) - centre);
    }
  }
  sum = esp::block_sum(sum);
  dot = esp::block_sum(dot);
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
  for (int64_t c = first; c < d; c += step) {
    const esp::Pack<N> row = esp::load<N>(in + c), dy = esp::load<N>(gradient + c);
    esp::Pack<N> total{};
    if (accumulate) total = esp::load<N>(result + c);
    for (int i = 0; i < N; i++) {
      const double u = static_cast<double>(row[i]) - centre;
      total[i] += static_cast<float>(static_cast<double>(dy[i]) * inverse + u * along + level);
    }
    esp::store(result + c, total);
  }
}

template <typename T, int N>
__global__ void restore(const T *y, const float *mean, const float *spread, const T *skip, const uint8_t *keep,
                        const T *x, T *out, int64_t d) {
  const int64_t t = blockIdx.x;
  const bool kept = keep != nullptr && keep[t] != 0;
  const float factor = spread == nullptr ? 1.0f : spread[t], offset = mean == nullptr ? 0.0f : mean[t];
  for (int64_t c = threadIdx.x * N; c < d; c += blockDim.x * N) {
    esp::Pack<N> row = esp::load<N>((kept ? x : y) + t * d + c);
    if (!kept) {
      for (int i = 0; i < N; i++) row[i] = factor * row[i] + offset;
      if (skip != nullptr) {
        const esp::Pack<N> beside = esp::load<N>(skip + t * d + c);
        for (int i = 0; i < N; i++) row[i] += beside[i];
      }
    }
    esp::store(out + t * d + c, row);
  }
}

template <typename T, int N>
__global__ void restore_backward(const T *d_out, const T *y, const float *spread, const uint8_t *keep, T *d_y,
                                 T *d_skip, float *d_mean, float *d_spread, int64_t d) {
  const int64_t t = blockIdx.x;
  const bool kept = keep != nullptr && keep[t] != 0;
  const float factor = spread != nullptr ? spread[t] : 1.0f;
  double sum = 0, dot = 0;
  for (int64_t c = threadIdx.x * N; c < d; c += blockDim.x * N) {
    esp::Pack<N> gradient{};
    if (!kept) gradient = esp::load<N>(d_out + t * d + c);
    if (d_skip != nullptr) esp::store(d_skip + t * d + c, gradient);
    if (spread != nullptr && !kept) {
      const esp::Pack<N> decoded = esp::load<N>(y + t * d + c);
      for (int i = 0; i < N; i++) {
        sum += static_cast<double>(gradient[i]);
        dot += static_cast<double>(gradient[i]) * static_cast<double>(decoded[i]);
      }
    }
    for (int i = 0; i < N; i++) gradient[i] *= factor;
    esp::store(d_y + t * d + c, gradient);
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

int32_t esp_sae_normalize(const void *x, int32_t normalisation, void *out, float *mean, float *spread, int64_t tokens,
                          int64_t d, int32_t dtype) {
  if (int32_t status = check(normalisation, tokens, d)) return status;
  return esp::with_packs(dtype, d, {x, out}, [&](auto type, auto width) {
    using T = decltype(type);
    constexpr int N = decltype(width)::value;
    return ESP_LAUNCH((normalize<T, N>), tokens, esp::threads_for_row(d, N), static_cast<const T *>(x),
                      Kind(normalisation, d), static_cast<T *>(out), mean, spread, d);
  });
}

int32_t esp_sae_normalize_backward(const void *x, const float *mean, const float *spread, int32_t normalisation,
                                   const void *d_out, const float *d_mean, const float *d_spread, const uint8_t *keep,
                                   const void *d_kept, void *d_x, int32_t accumulate, int64_t tokens, int64_t d,
                                   int32_t dtype) {
  if (int32_t status = check(normalisation, tokens, d)) return status;
  ESP_REQUIRE((d_mean == nullptr) == (d_spread == nullptr), "d_mean and d_spread: one is NULL, the other is not");
  ESP_REQUIRE(keep == nullptr || d_kept != nullptr, "keep needs d_kept");
  return esp::with_packs(dtype, d, {x, d_out, d_kept, d_x}, [&](auto type, auto width) {
    using T = decltype(type);
    constexpr int N = decltype(width)::value;
    return ESP_LAUNCH((normalize_backward<T, N>), tokens, esp::threads_for_row(d, N), static_cast<const T *>(x), mean,
                      spread, Kind(normalisation, d), static_cast<const T *>(d_out), d_mean, d_spread, keep,
                      static_cast<const T *>(d_kept), static_cast<T *>(d_x), accumulate != 0, d);
  });
}

int32_t esp_sae_restore(const void *y, const float *mean, const float *spread, const void *skip, const uint8_t *keep,
                        const void *x, void *out, int64_t tokens, int64_t d, int32_t dtype) {
  ESP_REQUIRE(tokens >= 0 && d > 0, "bad sizes: tokens=%ld d=%ld", tokens, d);
  ESP_REQUIRE((mean == nullptr) == (spread == nullptr), "mean and spread: one is NULL, the other is not");
  ESP_REQUIRE(keep == nullptr || x != nullptr, "keep needs x");
  return esp::with_packs(dtype, d, {y, skip, x, out}, [&](auto type, auto width) {
    using T = decltype(type);
    constexpr int N = decltype(width)::value;
    return ESP_LAUNCH((restore<T, N>), tokens, esp::threads_for_row(d, N), static_cast<const T *>(y), mean, spread,
                      static_cast<const T *>(skip), keep, static_cast<const T *>(x), static_cast<T *>(out), d);
  });
}

int32_t esp_sae_restore_backward(const void *d_out, const void *y, const float *spread, const uint8_t *keep, void *d_y,
                                 void *d_skip, float *d_mean, float *d_spread, int64_t tokens, int64_t d,
                                 int32_t dtype) {
  ESP_REQUIRE(tokens >= 0 && d > 0, "bad sizes: tokens=%ld d=%ld", tokens, d);
  const bool scaled = spread != nullptr;
  ESP_REQUIRE(scaled == (y != nullptr) && scaled == (d_mean != nullptr) && scaled == (d_spread != nullptr),
              "spread, y, d_mean and d_spread: some are NULL, others are not");
  return esp::with_packs(dtype, d, {d_out, y, d_y, d_skip}, [&](auto type, auto width) {
    using T = decltype(type);
    constexpr int N = decltype(width)::value;
    return ESP_LAUNCH((restore_backward<T, N>), tokens, esp::threads_for_row(d, N), static_cast<const T *>(d_out),
                      static_cast<const T *>(y), spread, keep, static_cast<T *>(d_y), static_cast<T *>(d_skip), d_mean,
                      d_spread, d);
  });
}
