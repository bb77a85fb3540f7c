/*
 * Rotary positions (Su et al. 2021), in place: the pair (x[i], x[i + h]), h = rotary_dim / 2, is turned by the angle
 * sign * angle(position, i). The halves of a head are the two sides of the pairs, as in the weights of Llama that
 * Hugging Face stores.
 *
 * Bytes: 8 tokens n_heads rotary_dim in float32, half of that in bfloat16. 6 FLOPs a pair: bound by memory. Threads
 * take tokens.
 *
 * Measured (Zen 5, one core, in cache, float32): 80 to 95 GB/s.
 */
#include "bf16.h"

int32_t esp_rope(void *x_, int64_t ldx, const float *cos, const float *sin, int32_t sign, int64_t tokens,
                 int64_t seq_len, int64_t n_heads, int64_t head_dim, int64_t rotary_dim, int32_t dtype) {
  ESP_REQUIRE(tokens >= 0 && seq_len > 0 && n_heads > 0 && head_dim > 0,
              "bad sizes: tokens=%ld seq_len=%ld n_heads=%ld head_dim=%ld", tokens, seq_len, n_heads, head_dim);
  ESP_REQUIRE(rotary_dim > 0 && rotary_dim % 2 == 0 && rotary_dim <= head_dim,
              "rotary_dim=%ld must be even and at most head_dim=%ld", rotary_dim, head_dim);
  ESP_REQUIRE(ldx >= n_heads * head_dim, "ldx=%ld is shorter than a row of %ld", ldx, n_heads * head_dim);
  ESP_REQUIRE(sign == 1 || sign == -1, "sign must be 1 or -1, got %d", sign);
  const int64_t half = rotary_dim / 2;
  const float direction = static_cast<float>(sign);
  return esp::with_type(dtype, [=](auto type) {
    using T = decltype(type);
    auto *x = static_cast<T *>(x_);
    esp::parallel_rows(tokens, n_heads * rotary_dim, [=](int64_t t) {
      const float *__restrict c = cos + t % seq_len * half;
      const float *__restrict s = sin + t % seq_len * half;
      for (int64_t head = 0; head < n_heads; head++) {
        T *__restrict first = x + t * ldx + head * head_dim;
        T *__restrict second = first + half;
#pragma omp simd
        for (int64_t i = 0; i < half; i++) {
          const float a = first[i], b = second[i], turn = direction * s[i];
          first[i] = static_cast<T>(a * c[i] - b * turn);
          second[i] = static_cast<T>(b * c[i] + a * turn);
        }
      }
    });
  });
}
