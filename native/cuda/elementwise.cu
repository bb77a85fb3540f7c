/*
 * Elementwise operations, reductions and dropout, as in cpu/elementwise.cpp; bound by memory: 4 to 12 bytes an element.
 *
 * A thread takes elements a grid apart, so that a warp reads 128 bytes in a row. Sums go by a fixed order: a column by
 * one thread, rows in order, in float64; a whole vector by one block, as only losses of tokens are summed so.
 */
#include "device.cuh"

namespace {

__global__ void fill(float *x, float value, int64_t n) { ESP_FOR_EACH(i, n) x[i] = value; }

__global__ void copy(const float *x, float *out, int64_t n) { ESP_FOR_EACH(i, n) out[i] = x[i]; }

__global__ void add(const float *x, const float *y, float *out, int64_t n) { ESP_FOR_EACH(i, n) out[i] = x[i] + y[i]; }

__global__ void axpy(float alpha, const float *x, float *y, int64_t n) { ESP_FOR_EACH(i, n) y[i] += alpha * x[i]; }

__global__ void fill_rows(const float *row, float *out, int64_t n, int64_t cols) {
  ESP_FOR_EACH(i, n) out[i] = row[i % cols];
}

__global__ void column_sum(const float *x, int64_t ldx, const uint8_t *skip, float alpha, float *out, int64_t rows,
                           int64_t cols) {
  ESP_FOR_EACH(c, cols) {
    double sum = 0;
    for (int64_t r = 0; r < rows; r++) {
      if (skip == nullptr || skip[r] == 0) sum += static_cast<double>(x[r * ldx + c]);
    }
    out[c] = static_cast<float>(static_cast<double>(out[c]) + static_cast<double>(alpha) * sum);
  }
}

__global__ void sum(const float *x, int64_t n, double *out, bool accumulate) {
  double own = 0;
  for (int64_t i = threadIdx.x; i < n; i += esp::kThreads) own += static_cast<double>(x[i]);
  const double total = esp::block_sum(own);
  if (threadIdx.x == 0) out[0] = accumulate ? out[0] + total : total;
}

/* Output function of SplitMix64 (Steele, Lea & Flood 2014). */
__device__ inline uint64_t mix(uint64_t z) {
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

__global__ void dropout(const float *x, float *out, int64_t n, uint32_t threshold, float scale, const uint64_t *seed,
                        uint64_t stream, bool accumulate) {
  const uint64_t step = 0x9e3779b97f4a7c15u, start = mix(seed[0] + mix(stream + step));
  ESP_FOR_EACH(i, n) {
    const bool keep = mix(start + static_cast<uint64_t>(i) * step) >> 32 >= threshold;
    const float value = keep ? x[i] * scale : 0.0f;
    out[i] = accumulate ? out[i] + value : value;
  }
}

}  // namespace

int32_t esp_fill(float *x, float value, int64_t n) {
  ESP_REQUIRE(n >= 0, "n must not be negative, got %ld", n);
  return ESP_LAUNCH(fill, esp::blocks_for(n), esp::kThreads, x, value, n);
}

int32_t esp_copy(const void *x_, void *out_, int64_t n, int32_t dtype) {
  ESP_REQUIRE(dtype == ESP_F32, "only float32 is supported on this device, not type %d", dtype);
  const auto *x = static_cast<const float *>(x_);
  auto *out = static_cast<float *>(out_);
  ESP_REQUIRE(n >= 0, "n must not be negative, got %ld", n);
  return ESP_LAUNCH(copy, esp::blocks_for(n), esp::kThreads, x, out, n);
}

int32_t esp_add(const void *x_, const void *y_, void *out_, int64_t n, int32_t dtype) {
  ESP_REQUIRE(dtype == ESP_F32, "only float32 is supported on this device, not type %d", dtype);
  const auto *x = static_cast<const float *>(x_);
  const auto *y = static_cast<const float *>(y_);
  auto *out = static_cast<float *>(out_);
  ESP_REQUIRE(n >= 0, "n must not be negative, got %ld", n);
  return ESP_LAUNCH(add, esp::blocks_for(n), esp::kThreads, x, y, out, n);
}

int32_t esp_axpy(float alpha, const void *x_, void *y_, int64_t n, int32_t dtype) {
  ESP_REQUIRE(dtype == ESP_F32, "only float32 is supported on this device, not type %d", dtype);
  const auto *x = static_cast<const float *>(x_);
  auto *y = static_cast<float *>(y_);
  ESP_REQUIRE(n >= 0, "n must not be negative, got %ld", n);
  return ESP_LAUNCH(axpy, esp::blocks_for(n), esp::kThreads, alpha, x, y, n);
}

int32_t esp_fill_rows(const float *row, void *out_, int64_t rows, int64_t cols, int32_t dtype) {
  ESP_REQUIRE(dtype == ESP_F32, "only float32 is supported on this device, not type %d", dtype);
  auto *out = static_cast<float *>(out_);
  ESP_REQUIRE(rows >= 0 && cols > 0, "bad sizes: rows=%ld cols=%ld", rows, cols);
  const int64_t n = rows * cols;
  return ESP_LAUNCH(fill_rows, esp::blocks_for(n), esp::kThreads, row, out, n, cols);
}

int32_t esp_column_sum(const void *x_, int64_t ldx, const uint8_t *skip, float alpha, float *out, int64_t rows,
                       int64_t cols, int32_t dtype) {
  ESP_REQUIRE(dtype == ESP_F32, "only float32 is supported on this device, not type %d", dtype);
  const auto *x = static_cast<const float *>(x_);
  ESP_REQUIRE(rows >= 0 && cols >= 0, "sizes must not be negative: rows=%ld cols=%ld", rows, cols);
  ESP_REQUIRE(ldx >= cols, "ldx=%ld is shorter than a row of %ld", ldx, cols);
  return ESP_LAUNCH(column_sum, esp::blocks_for(cols), esp::kThreads, x, ldx, skip, alpha, out, rows, cols);
}

int32_t esp_sum(const float *x, int64_t n, double *out, int32_t accumulate) {
  ESP_REQUIRE(n >= 0, "n must not be negative, got %ld", n);
  return ESP_LAUNCH(sum, 1, esp::kThreads, x, n, out, accumulate != 0);
}

int32_t esp_dropout(const void *x_, void *out_, int64_t n, float p, const uint64_t *seed, uint64_t stream,
                    int32_t accumulate, int32_t dtype) {
  ESP_REQUIRE(dtype == ESP_F32, "only float32 is supported on this device, not type %d", dtype);
  const auto *x = static_cast<const float *>(x_);
  auto *out = static_cast<float *>(out_);
  ESP_REQUIRE(n >= 0, "n must not be negative, got %ld", n);
  ESP_REQUIRE(p >= 0 && p < 1, "p must be in [0, 1), got %g", static_cast<double>(p));
  const uint32_t threshold = static_cast<uint32_t>(static_cast<double>(p) * 4294967296.0);
  const float scale = static_cast<float>(1 / (1 - static_cast<double>(p)));
  return ESP_LAUNCH(dropout, esp::blocks_for(n), esp::kThreads, x, out, n, threshold, scale, seed, stream,
                    accumulate != 0);
}
