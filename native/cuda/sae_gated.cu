/*
 * Gated SAEs: the magnitudes of the latents whose gates are open, and the gradients of gates and magnitudes. u = pre is
 * the pre-activation of the gate, p = u - b_gate, and g = exp(r_mag):
 *
 *   value = relu(g p + b_mag);  d_pre = g d_value 1[value > 0] + d_gate + l1
 *
 * A few operations and 12 to 20 bytes an entry. Forward, a warp takes a token. Backward, it takes a latent, whose sums
 * it makes in float64 in one order.
 */
#include "device.cuh"

namespace {

constexpr int kWarps = esp::kThreads / 32;

inline int64_t blocks_of_warps(int64_t n) { return (n + kWarps - 1) / kWarps; }

__global__ void forward(const int32_t *index, const float *pre, const int32_t *count, int64_t capacity,
                        const float *b_gate, const float *r_mag, const float *b_mag, float *value, int64_t tokens) {
  const int64_t t = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (t >= tokens) return;
  for (int64_t j = threadIdx.x % 32; j < count[t]; j += 32) {
    const int64_t at = t * capacity + j;
    const int32_t i = index[at];
    const float s = expf(r_mag[i]) * (pre[at] - b_gate[i]) + b_mag[i];
    value[at] = s > 0 || s != s ? s : 0.0f;
  }
}

__global__ void backward(float *d_value, const float *d_gate, const float *pre, const float *value,
                         const int32_t *offsets, const int32_t *by_latent, const float *sparsity, const float *b_gate,
                         const float *r_mag, float *d_b_gate, float *d_r_mag, float *d_b_mag, int64_t m) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (i >= m) return;
  const int lane = static_cast<int>(threadIdx.x % 32);
  const float g = expf(r_mag[i]), l1 = sparsity == nullptr ? 0 : sparsity[0];
  double to_magnitude = 0, to_scale = 0;
  for (int32_t at = offsets[i] + lane; at < offsets[i + 1]; at += 32) {
    const int32_t entry = by_latent[at];
    const float h = value[entry] > 0 ? d_value[entry] : 0.0f;
    to_magnitude += static_cast<double>(h);
    to_scale += static_cast<double>(h) * static_cast<double>(pre[entry] - b_gate[i]);
    d_value[entry] = g * h + d_gate[entry] + l1;
  }
  to_magnitude = esp::warp_sum(to_magnitude);
  to_scale = esp::warp_sum(to_scale);
  if (lane != 0) return;
  d_b_mag[i] = static_cast<float>(static_cast<double>(d_b_mag[i]) + to_magnitude);
  d_r_mag[i] = static_cast<float>(static_cast<double>(d_r_mag[i]) + static_cast<double>(g) * to_scale);
  d_b_gate[i] = static_cast<float>(static_cast<double>(d_b_gate[i]) - static_cast<double>(g) * to_magnitude);
}

}  // namespace

int32_t esp_sae_gated_forward(const int32_t *index, const float *pre, const int32_t *count, int64_t capacity,
                              const float *b_gate, const float *r_mag, const float *b_mag, float *value, int64_t tokens,
                              int64_t m) {
  ESP_REQUIRE(tokens >= 0 && m > 0 && capacity > 0, "bad sizes: tokens=%ld m=%ld capacity=%ld", tokens, m, capacity);
  return ESP_LAUNCH(forward, blocks_of_warps(tokens), esp::kThreads, index, pre, count, capacity, b_gate, r_mag, b_mag,
                    value, tokens);
}

int32_t esp_sae_gated_backward(float *d_value, const float *d_gate, const float *pre, const float *value,
                               const int32_t *offsets, const int32_t *by_latent, const float *sparsity,
                               const float *b_gate, const float *r_mag, float *d_b_gate, float *d_r_mag, float *d_b_mag,
                               int64_t m) {
  ESP_REQUIRE(m > 0, "bad sizes: m=%ld", m);
  return ESP_LAUNCH(backward, blocks_of_warps(m), esp::kThreads, d_value, d_gate, pre, value, offsets, by_latent,
                    sparsity, b_gate, r_mag, d_b_gate, d_r_mag, d_b_mag, m);
}
