/*
 * Rotary positions (Su et al. 2021), in place: (x[i], x[i + h]) turns by sign * angle(position, i). Half-split order,
 * as Hugging Face stores Llama's weights.
 *
 * Bytes: 8 tokens n_heads rotary_dim, 6 FLOPs a pair: bound by memory. A thread turns a pair; neighbours in a warp have
 * neighbouring i, so that both halves of a head are read in rows.
 */
#include "device.cuh"

namespace {

__global__ void rope(float *x, int64_t ldx, const float *cos, const float *sin, float direction, int64_t pairs,
                     int64_t seq_len, int64_t n_heads, int64_t head_dim, int64_t half) {
  ESP_FOR_EACH(p, pairs) {
    const int64_t i = p % half, head = p / half % n_heads, t = p / (half * n_heads);
    const int64_t angle = t % seq_len * half + i;
    float *first = x + t * ldx + head * head_dim + i;
    const float a = first[0], b = first[half], turn = direction * sin[angle];
    first[0] = a * cos[angle] - b * turn;
    first[half] = b * cos[angle] + a * turn;
  }
}

}  // namespace

int32_t esp_rope(void *x_, int64_t ldx, const float *cos, const float *sin, int32_t sign, int64_t tokens,
                 int64_t seq_len, int64_t n_heads, int64_t head_dim, int64_t rotary_dim, int32_t dtype) {
  ESP_REQUIRE(dtype == ESP_F32, "only float32 is supported on this device, not type %d", dtype);
  auto *x = static_cast<float *>(x_);
  ESP_REQUIRE(tokens >= 0 && seq_len > 0 && n_heads > 0 && head_dim > 0,
              "bad sizes: tokens=%ld seq_len=%ld n_heads=%ld head_dim=%ld", tokens, seq_len, n_heads, head_dim);
  ESP_REQUIRE(rotary_dim > 0 && rotary_dim % 2 == 0 && rotary_dim <= head_dim,
              "rotary_dim=%ld must be even and at most head_dim=%ld", rotary_dim, head_dim);
  ESP_REQUIRE(ldx >= n_heads * head_dim, "ldx=%ld is shorter than a row of %ld", ldx, n_heads * head_dim);
  ESP_REQUIRE(sign == 1 || sign == -1, "sign must be 1 or -1, got %d", sign);
  const int64_t half = rotary_dim / 2, pairs = tokens * n_heads * half;
  return ESP_LAUNCH(rope, esp::blocks_for(pairs), esp::kThreads, x, ldx, cos, sin, static_cast<float>(sign), pairs,
                    seq_len, n_heads, head_dim, half);
}
