/*
 * How far two streams of activations are apart, and rows taken out of one.
 *
 * Bytes: 8 tokens d; bound by memory. A block takes a sequence, whose rows it adds in order in float64: an evaluation
 * has hundreds of sequences, so that the multiprocessors have work.
 */
#include "device.cuh"

namespace {

__global__ void keep_rows(const float *x, const uint8_t *keep, float *out, int64_t n, int64_t cols) {
  ESP_FOR_EACH(i, n) out[i] = keep != nullptr && keep[i / cols] != 0 ? x[i] : 0.0f;
}

__global__ void sequence_distance(const float *x, const float *y, const uint8_t *skip, double *out, int64_t length,
                                  int64_t d) {
  const int64_t s = blockIdx.x;
  double rows = 0, distance = 0, cosine = 0;
  for (int64_t r = s * length; r < (s + 1) * length; r++) {
    if (skip != nullptr && skip[r] != 0) continue;
    double error = 0, aa = 0, bb = 0, ab = 0;
    for (int64_t c = threadIdx.x; c < d; c += esp::kThreads) {
      const double u = static_cast<double>(x[r * d + c]), w = static_cast<double>(y[r * d + c]);
      error += (u - w) * (u - w);
      aa += u * u;
      bb += w * w;
      ab += u * w;
    }
    error = esp::block_sum(error);
    aa = esp::block_sum(aa);
    bb = esp::block_sum(bb);
    ab = esp::block_sum(ab);
    const double norms = sqrt(aa) * sqrt(bb);
    rows += 1;
    distance += sqrt(error);
    cosine += ab / (norms > 1e-8 ? norms : 1e-8);
  }
  if (threadIdx.x == 0) {
    out[3 * s] = rows;
    out[3 * s + 1] = distance;
    out[3 * s + 2] = cosine;
  }
}

}  // namespace

int32_t esp_keep_rows(const void *x_, const uint8_t *keep, void *out_, int64_t rows, int64_t cols, int32_t dtype) {
  ESP_REQUIRE(dtype == ESP_F32, "only float32 is supported on this device, not type %d", dtype);
  const auto *x = static_cast<const float *>(x_);
  auto *out = static_cast<float *>(out_);
  ESP_REQUIRE(rows >= 0 && cols >= 0, "sizes must not be negative: rows=%ld cols=%ld", rows, cols);
  return ESP_LAUNCH(keep_rows, esp::blocks_for(rows * cols), esp::kThreads, x, keep, out, rows * cols, cols);
}

int32_t esp_sequence_distance(const void *x_, const void *y_, const uint8_t *skip, double *out, int64_t sequences,
                              int64_t length, int64_t d, int32_t dtype) {
  ESP_REQUIRE(dtype == ESP_F32, "only float32 is supported on this device, not type %d", dtype);
  const auto *x = static_cast<const float *>(x_);
  const auto *y = static_cast<const float *>(y_);
  ESP_REQUIRE(sequences >= 0 && length > 0 && d > 0, "bad sizes: sequences=%ld length=%ld d=%ld", sequences, length, d);
  return ESP_LAUNCH(sequence_distance, sequences, esp::kThreads, x, y, skip, out, length, d);
}
