/*
 * The activation of an MLP without a gate: out = act(x), and its gradient.
 *
 * Bytes: 8 n forward, 12 n backward; 25 to 60 FLOPs an element: bound by memory. A thread takes elements a grid apart.
 */
#include "activation.cuh"

namespace {

template <typename Activation>
__global__ void forward(const float *x, float *out, int64_t n) {
  ESP_FOR_EACH(i, n) out[i] = Activation::value(x[i]);
}

/* d_x may be d_out: an element is read before it is written, and by nothing else. */
template <typename Activation>
__global__ void backward(const float *x, const float *d_out, float *d_x, int64_t n) {
  ESP_FOR_EACH(i, n) d_x[i] = d_out[i] * Activation::slope(x[i]);
}

}  // namespace

int32_t esp_activation_forward(const void *x_, int32_t activation, void *out_, int64_t n, int32_t dtype) {
  ESP_REQUIRE(dtype == ESP_F32, "only float32 is supported on this device, not type %d", dtype);
  const auto *x = static_cast<const float *>(x_);
  auto *out = static_cast<float *>(out_);
  ESP_REQUIRE(n >= 0, "bad size: n=%ld", n);
  return esp::with_activation(activation, [=](auto act) {
    return ESP_LAUNCH(forward<decltype(act)>, esp::blocks_for(n), esp::kThreads, x, out, n);
  });
}

int32_t esp_activation_backward(const void *x_, int32_t activation, const void *d_out_, void *d_x_, int64_t n,
                                int32_t dtype) {
  ESP_REQUIRE(dtype == ESP_F32, "only float32 is supported on this device, not type %d", dtype);
  const auto *x = static_cast<const float *>(x_);
  const auto *d_out = static_cast<const float *>(d_out_);
  auto *d_x = static_cast<float *>(d_x_);
  ESP_REQUIRE(n >= 0, "bad size: n=%ld", n);
  return esp::with_activation(activation, [=](auto act) {
    return ESP_LAUNCH(backward<decltype(act)>, esp::blocks_for(n), esp::kThreads, x, d_out, d_x, n);
  });
}
