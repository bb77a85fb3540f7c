/*
 * Learned positions: out[t] = x[t] + table[t % seq_len], and the table's gradient.
 *
 * Bytes: 8 tokens d forward beside the table, which stays in cache, 4 tokens d backward. Threads take tokens, backward
 * positions, of which each adds its tokens in order.
 *
 * Measured (Zen 5, one core, in cache): 72 to 140 GB/s forward, 65 to 95 backward.
 */
#include "kernel.h"

namespace {

int32_t check(int64_t tokens, int64_t seq_len, int64_t d) {
  ESP_REQUIRE(tokens >= 0 && seq_len > 0 && d > 0, "bad sizes: tokens=%ld seq_len=%ld d=%ld", tokens, seq_len, d);
  return ESP_OK;
}

}  // namespace

int32_t esp_add_positions(const void *x_, const void *table_, void *out_, int64_t tokens, int64_t seq_len, int64_t d,
                          int32_t dtype) {
  ESP_REQUIRE(dtype == ESP_F32, "only float32 is supported on this device, not type %d", dtype);
  const auto *x = static_cast<const float *>(x_);
  const auto *table = static_cast<const float *>(table_);
  auto *out = static_cast<float *>(out_);
  if (int32_t status = check(tokens, seq_len, d)) return status;
  esp::parallel_rows(tokens, d, [=](int64_t t) {
    const float *row = x + t * d;
    const float *position = table + t % seq_len * d;
    float *result = out + t * d;
#pragma omp simd
    for (int64_t c = 0; c < d; c++) result[c] = row[c] + position[c];
  });
  return ESP_OK;
}

int32_t esp_add_positions_backward(const void *d_out_, float *d_table, int64_t tokens, int64_t seq_len, int64_t d,
                                   int32_t dtype) {
  ESP_REQUIRE(dtype == ESP_F32, "only float32 is supported on this device, not type %d", dtype);
  const auto *d_out = static_cast<const float *>(d_out_);
  if (int32_t status = check(tokens, seq_len, d)) return status;
  esp::parallel_rows(std::min(tokens, seq_len), tokens / seq_len * d + d, [=](int64_t p) {
    float *__restrict row = d_table + p * d;
    for (int64_t t = p; t < tokens; t += seq_len) {
      const float *__restrict gradient = d_out + t * d;
#pragma omp simd
      for (int64_t c = 0; c < d; c++) row[c] += gradient[c];
    }
  });
  return ESP_OK;
}
