/*
 * RMSNorm (Zhang & Sennrich 2019): out = x * rstd * (weight_offset + weight), rstd = 1 / sqrt(mean(x^2) + eps).
 *
 * Bytes: 8 rows d forward, 16 to 20 rows d backward; bound by memory. A block takes a row: its second reading comes
 * from cache. Sums in float64: 2 of 32 additions at float64's rate on a data-centre GPU, and rows that hold an
 * attention sink span five orders of magnitude. The weight's gradient is a sum over rows: a thread takes a column, rows
 * in order.
 */
#include "device.cuh"

namespace {

__global__ void forward(const float *x, const float *weight, float weight_offset, float eps, float *out, float *rstd,
                        int64_t d) {
  const int64_t r = blockIdx.x;
  const float *in = x + r * d;
  double squares = 0;
  for (int64_t c = threadIdx.x; c < d; c += esp::kThreads) {
    squares += static_cast<double>(in[c]) * static_cast<double>(in[c]);
  }
  squares = esp::block_sum(squares);
  const float scale = static_cast<float>(1 / sqrt(squares / static_cast<double>(d) + static_cast<double>(eps)));
  if (threadIdx.x == 0) rstd[r] = scale;
  for (int64_t c = threadIdx.x; c < d; c += esp::kThreads) out[r * d + c] = in[c] * scale * (weight_offset + weight[c]);
}

__global__ void backward(const float *x, const float *weight, float weight_offset, const float *rstd,
                         const float *d_out, float *d_x, bool accumulate, int64_t d) {
  const int64_t r = blockIdx.x;
  const float *in = x + r * d, *gradient = d_out + r * d;
  const float scale = rstd[r];
  double dot = 0; /* sum of g * x */
  for (int64_t c = threadIdx.x; c < d; c += esp::kThreads) {
    dot += static_cast<double>(gradient[c] * (weight_offset + weight[c])) * static_cast<double>(in[c]);
  }
  dot = esp::block_sum(dot);
  const double cube = static_cast<double>(scale) * static_cast<double>(scale) * static_cast<double>(scale);
  const float along = static_cast<float>(cube * dot / static_cast<double>(d));
  for (int64_t c = threadIdx.x; c < d; c += esp::kThreads) {
    const float value = scale * (gradient[c] * (weight_offset + weight[c])) - in[c] * along;
    d_x[r * d + c] = accumulate ? d_x[r * d + c] + value : value;
  }
}

__global__ void weight_gradient(const float *x, const float *rstd, const float *d_out, float *d_weight, int64_t rows,
                                int64_t d) {
  ESP_FOR_EACH(c, d) {
    double sum = 0;
    for (int64_t r = 0; r < rows; r++) {
      sum += static_cast<double>(d_out[r * d + c] * x[r * d + c]) * static_cast<double>(rstd[r]);
    }
    d_weight[c] = static_cast<float>(static_cast<double>(d_weight[c]) + sum);
  }
}

}  // namespace

int32_t esp_rms_norm_forward(const void *x_, const float *weight, float weight_offset, float eps, void *out_,
                             float *rstd, int64_t rows, int64_t d, int32_t dtype) {
  ESP_REQUIRE(dtype == ESP_F32, "only float32 is supported on this device, not type %d", dtype);
  const auto *x = static_cast<const float *>(x_);
  auto *out = static_cast<float *>(out_);
  ESP_REQUIRE(rows >= 0 && d > 0, "bad sizes: rows=%ld d=%ld", rows, d);
  return ESP_LAUNCH(forward, rows, esp::kThreads, x, weight, weight_offset, eps, out, rstd, d);
}

int32_t esp_rms_norm_backward(const void *x_, const float *weight, float weight_offset, const float *rstd,
                              const void *d_out_, void *d_x_, int32_t accumulate, float *d_weight, int64_t rows,
                              int64_t d, int32_t dtype) {
  ESP_REQUIRE(dtype == ESP_F32, "only float32 is supported on this device, not type %d", dtype);
  const auto *x = static_cast<const float *>(x_);
  const auto *d_out = static_cast<const float *>(d_out_);
  auto *d_x = static_cast<float *>(d_x_);
  ESP_REQUIRE(rows >= 0 && d > 0, "bad sizes: rows=%ld d=%ld", rows, d);
  const int32_t status =
      ESP_LAUNCH(backward, rows, esp::kThreads, x, weight, weight_offset, rstd, d_out, d_x, accumulate != 0, d);
  if (status != ESP_OK || d_weight == nullptr) return status;
  return ESP_LAUNCH(weight_gradient, esp::blocks_for(d), esp::kThreads, x, rstd, d_out, d_weight, rows, d);
}
