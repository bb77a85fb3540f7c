/*
 * Gated SAEs: the magnitudes of the latents whose gates are open, and the gradients of gates and magnitudes. u = pre is
 * the pre-activation of the gate, p = u - b_gate, and g = exp(r_mag):
 *
 *   value = relu(g p + b_mag);  d_pre = g d_value 1[value > 0] + d_gate + l1
 *
 * A few operations an entry. Forward, threads take tokens. Backward, they take latents, so that each sum belongs to one
 * thread.
 */
#include <cmath>

#include "kernel.h"

int32_t esp_sae_gated_forward(const int32_t *index, const float *pre, const int32_t *count, int64_t capacity,
                              const float *b_gate, const float *r_mag, const float *b_mag, float *value, int64_t tokens,
                              int64_t m) {
  ESP_REQUIRE(tokens >= 0 && m > 0 && capacity > 0, "bad sizes: tokens=%ld m=%ld capacity=%ld", tokens, m, capacity);
  esp::parallel_rows(tokens, 1024, [=](int64_t t) {
    for (int64_t at = t * capacity; at < t * capacity + count[t]; at++) {
      const int32_t i = index[at];
      const float s = std::exp(r_mag[i]) * (pre[at] - b_gate[i]) + b_mag[i];
      value[at] = s > 0 || s != s ? s : 0.0f;
    }
  });
  return ESP_OK;
}

int32_t esp_sae_gated_backward(float *d_value, const float *d_gate, const float *pre, const float *value,
                               const int32_t *offsets, const int32_t *by_latent, const float *sparsity,
                               const float *b_gate, const float *r_mag, float *d_b_gate, float *d_r_mag, float *d_b_mag,
                               int64_t m) {
  ESP_REQUIRE(m > 0, "bad sizes: m=%ld", m);
  const float l1 = sparsity == nullptr ? 0 : sparsity[0];
  esp::parallel_rows(m, 256, [=](int64_t i) {
    const float g = std::exp(r_mag[i]);
    double to_magnitude = 0, to_scale = 0;
    for (int64_t at = offsets[i]; at < offsets[i + 1]; at++) {
      const int32_t entry = by_latent[at];
      const float h = value[entry] > 0 ? d_value[entry] : 0.0f;
      to_magnitude += static_cast<double>(h);
      to_scale += static_cast<double>(h) * static_cast<double>(pre[entry] - b_gate[i]);
      d_value[entry] = g * h + d_gate[entry] + l1;
    }
    d_b_mag[i] = static_cast<float>(static_cast<double>(d_b_mag[i]) + to_magnitude);
    d_r_mag[i] = static_cast<float>(static_cast<double>(d_r_mag[i]) + static_cast<double>(g) * to_scale);
    d_b_gate[i] = static_cast<float>(static_cast<double>(d_b_gate[i]) - static_cast<double>(g) * to_magnitude);
  });
  return ESP_OK;
}
