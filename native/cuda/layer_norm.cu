/*
 * LayerNorm (Ba et al. 2016): out = (x - mean) * rstd * weight + bias, rstd = 1 / sqrt(variance + eps).
 *
 * Bytes: 8 rows d forward, 16 to 20 rows d backward; bound by memory. A block takes a row, a thread a column of the
 * parameters' gradients, rows in order. Sums in float64; the variance is that of the centred row.
 */
#include "device.cuh"

namespace {

__global__ void forward(const float *x, const float *weight, const float *bias, float eps, float *out, float *mean,
                        float *rstd, int64_t d) {
  const int64_t r = blockIdx.x;
  const float *in = x + r * d;
  double sum = 0;
  for (int64_t c = threadIdx.x; c < d; c += esp::kThreads) sum += static_cast<double>(in[c]);
  const float centre = static_cast<float>(esp::block_sum(sum) / static_cast<double>(d));
  double squares = 0, rest = 0; /* rest: what rounding the mean left */
  for (int64_t c = threadIdx.x; c < d; c += esp::kThreads) {
    const double centred = static_cast<double>(in[c]) - static_cast<double>(centre);
    squares += centred * centred;
    rest += centred;
  }
  squares = esp::block_sum(squares);
  const double offset = esp::block_sum(rest) / static_cast<double>(d);
  const double variance = squares / static_cast<double>(d) - offset * offset;
  const float scale = static_cast<float>(1 / sqrt(variance + static_cast<double>(eps)));
  if (threadIdx.x == 0) {
    mean[r] = centre;
    rstd[r] = scale;
  }
  for (int64_t c = threadIdx.x; c < d; c += esp::kThreads) {
    out[r * d + c] = (in[c] - centre) * scale * weight[c] + bias[c];
  }
}

__global__ void backward(const float *x, const float *weight, const float *mean, const float *rstd, const float *d_out,
                         float *d_x, bool accumulate, int64_t d) {
  const int64_t r = blockIdx.x;
  const float *in = x + r * d, *gradient = d_out + r * d;
  const float centre = mean[r], scale = rstd[r];
  double sum = 0, dot = 0; /* sums of g and of g * xhat */
  for (int64_t c = threadIdx.x; c < d; c += esp::kThreads) {
    const double g = static_cast<double>(gradient[c] * weight[c]);
    sum += g;
    dot += g * static_cast<double>((in[c] - centre) * scale);
  }
  const float level = static_cast<float>(esp::block_sum(sum) / static_cast<double>(d));
  const float along = static_cast<float>(esp::block_sum(dot) / static_cast<double>(d));
  for (int64_t c = threadIdx.x; c < d; c += esp::kThreads) {
    const float value = scale * (gradient[c] * weight[c] - level - (in[c] - centre) * scale * along);
    d_x[r * d + c] = accumulate ? d_x[r * d + c] + value : value;
  }
}

__global__ void parameter_gradients(const float *x, const float *mean, const float *rstd, const float *d_out,
                                    float *d_weight, float *d_bias, int64_t rows, int64_t d) {
  ESP_FOR_EACH(c, d) {
    double weight = 0, bias = 0;
    for (int64_t r = 0; r < rows; r++) {
      const float gradient = d_out[r * d + c];
      weight += static_cast<double>(gradient * ((x[r * d + c] - mean[r]) * rstd[r]));
      bias += static_cast<double>(gradient);
    }
    d_weight[c] = static_cast<float>(static_cast<double>(d_weight[c]) + weight);
    d_bias[c] = static_cast<float>(static_cast<double>(d_bias[c]) + bias);
  }
}

}  // namespace

int32_t esp_layer_norm_forward(const void *x_, const float *weight, const float *bias, float eps, void *out_,
                               float *mean, float *rstd, int64_t rows, int64_t d, int32_t dtype) {
  ESP_REQUIRE(dtype == ESP_F32, "only float32 is supported on this device, not type %d", dtype);
  const auto *x = static_cast<const float *>(x_);
  auto *out = static_cast<float *>(out_);
  ESP_REQUIRE(rows >= 0 && d > 0, "bad sizes: rows=%ld d=%ld", rows, d);
  return ESP_LAUNCH(forward, rows, esp::kThreads, x, weight, bias, eps, out, mean, rstd, d);
}

int32_t esp_layer_norm_backward(const void *x_, const float *weight, const float *mean, const float *rstd,
                                const void *d_out_, void *d_x_, int32_t accumulate, float *d_weight, float *d_bias,
                                int64_t rows, int64_t d, int32_t dtype) {
  ESP_REQUIRE(dtype == ESP_F32, "only float32 is supported on this device, not type %d", dtype);
  const auto *x = static_cast<const float *>(x_);
  const auto *d_out = static_cast<const float *>(d_out_);
  auto *d_x = static_cast<float *>(d_x_);
  ESP_REQUIRE(rows >= 0 && d > 0, "bad sizes: rows=%ld d=%ld", rows, d);
  ESP_REQUIRE((d_weight == nullptr) == (d_bias == nullptr), "d_weight and d_bias: one is NULL, the other is not");
  const int32_t status =
      ESP_LAUNCH(backward, rows, esp::kThreads, x, weight, mean, rstd, d_out, d_x, accumulate != 0, d);
  if (status != ESP_OK || d_weight == nullptr) return status;
  return ESP_LAUNCH(parameter_gradients, esp::blocks_for(d), esp::kThreads, x, mean, rstd, d_out, d_weight, d_bias,
                    rows, d);
}
