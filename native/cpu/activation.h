/* The activation functions of MLPs, their derivatives (slopes), and the choice among them. Internal. */
#ifndef ESPALIER_CPU_ACTIVATION_H
#define ESPALIER_CPU_ACTIVATION_H

#include "kernel.h"
#include "vector_math.h"

namespace esp {

struct Silu {
  static float value(float x) { return x * esp::sigmoid(x); }
  static float slope(float x) {
    const float s = esp::sigmoid(x);
    return s * (1.0f + x * (1.0f - s));
  }
};

/* gelu(x) = x/2 (1 + tanh(u)) with u = sqrt(2/pi) (x + 0.044715 x^3). It is computed by 1 + tanh(u) = 2 sigmoid(2u),
 * which loses no digits where tanh is near -1. */
struct GeluTanh {
  static constexpr float kScale = 0.79788456080286535588f, kCubic = 0.044715f;
  static float value(float x) { return x * esp::sigmoid(2.0f * kScale * x * (1.0f + kCubic * x * x)); }
  static float slope(float x) {
    const float s = esp::sigmoid(2.0f * kScale * x * (1.0f + kCubic * x * x));
    return s + x * s * (1.0f - s) * (2.0f * kScale) * (1.0f + 3.0f * kCubic * x * x);
  }
};

/* gelu(x) = x Phi(x). Its slope is Phi(x) + x phi(x). */
struct GeluErf {
  static float value(float x) { return x * esp::normal_cdf(x); }
  static float slope(float x) { return esp::normal_cdf(x) + x * (0.39894228040143267794f * esp::gaussian(x)); }
};

struct Relu {
  static float value(float x) { return x > 0 ? x : (x == x ? 0.0f : x); }
  static float slope(float x) { return x > 0 ? 1.0f : 0.0f; }
};

/* Calls body(Activation{}) with the function that `activation`, an esp_activation, names. */
template <typename Body>
int32_t with_activation(int32_t activation, const Body &body) {
  switch (activation) {
    case ESP_SILU:
      body(Silu{});
      return ESP_OK;
    case ESP_GELU_TANH:
      body(GeluTanh{});
      return ESP_OK;
    case ESP_GELU_ERF:
      body(GeluErf{});
      return ESP_OK;
    case ESP_RELU_ACTIVATION:
      body(Relu{});
      return ESP_OK;
    default:
      return fail(ESP_INVALID_ARGUMENT, "no activation %d", activation);
  }
}

}  // namespace esp

#endif
