/*
 * Learned positions: out[t] = x[t] + table[t % seq_len], and the table's gradient.
 *
 * Bytes: 8 tokens d forward beside the table, 4 tokens d backward; bound by memory. Forward, a thread takes an element;
 * backward, an element of the table, of which it adds the tokens in order.
 */
#include "device.cuh"

namespace {

__global__ void forward(const float *x, const float *table, float *out, int64_t n, int64_t period) {
  ESP_FOR_EACH(i, n) out[i] = x[i] + table[i % period];
}

__global__ void backward(const float *d_out, float *d_table, int64_t n, int64_t period) {
  ESP_FOR_EACH(p, period) {
    float sum = d_table[p];
    for (int64_t i = p; i < n; i += period) sum += d_out[i];
    d_table[p] = sum;
  }
}

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
  return ESP_LAUNCH(forward, esp::blocks_for(tokens * d), esp::kThreads, x, table, out, tokens * d, seq_len * d);
}

int32_t esp_add_positions_backward(const void *d_out_, float *d_table, int64_t tokens, int64_t seq_len, int64_t d,
                                   int32_t dtype) {
  ESP_REQUIRE(dtype == ESP_F32, "only float32 is supported on this device, not type %d", dtype);
  const auto *d_out = static_cast<const float *>(d_out_);
  if (int32_t status = check(tokens, seq_len, d)) return status;
  const int64_t period = (tokens < seq_len ? tokens : seq_len) * d;
  return ESP_LAUNCH(backward, esp::blocks_for(period), esp::kThreads, d_out, d_table, tokens * d, period);
}
