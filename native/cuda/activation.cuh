/* The activation functions of MLPs, their derivatives (slopes), and the choice among them. Internal. */
#ifndef ESPALIER_CUDA_ACTIVATION_CUH
#define ESPALIER_CUDA_ACTIVATION_CUH

#include "device.cuh"

namespace esp {

__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

struct Silu {
  static __device__ float value(float x) { return x * sigmoid(x); }
  static __device__ float slope(float x) {
    const float s = sigmoid(x);
    return s * (1.0f + x * (1.0f - s));
  }
};

/* gelu(x) = x/2 (1 + tanh(u)) with u = sqrt(2/pi) (x + 0.044715 x^3). It is computed by 1 + tanh(u) = 2 sigmoid(2u),
 * which loses no digits where tanh is near -1. */
struct GeluTanh {
  static constexpr float kScale = 0.79788456080286535588f, kCubic = 0.044715f;
  static __device__ float value(float x) { return x * sigmoid(2.0f * kScale * x * (1.0f + kCubic * x * x)); }
  static __device__ float slope(float x) {
    const float s = sigmoid(2.0f * kScale * x * (1.0f + kCubic * x * x));
    return s + x * s * (1.0f - s) * (2.0f * kScale) * (1.0f + 3.0f * kCubic * x * x);
  }
};

/* gelu(x) = x Phi(x). Its slope is Phi(x) + x phi(x). */
struct GeluErf {
  static __device__ float value(float x) { return x * normcdff(x); }
  static __device__ float slope(float x) {
    const float half = 0.5f * x, square = half * x, rest = fmaf(half, x, -square);
    return normcdff(x) + x * (0.39894228040143267794f * expf(-square) * (1.0f - rest));
  }
};

struct Relu {
  static __device__ float value(float x) { return x > 0 ? x : (x == x ? 0.0f : x); } /* NaN stays NaN */
  static __device__ float slope(float x) { return x > 0 ? 1.0f : 0.0f; }
};

/* Calls body(Activation{}) with the function that `activation`, an esp_activation, names. */
template <typename Body>
int32_t with_activation(int32_t activation, const Body &body) {
  switch (activation) {
    case ESP_SILU:
      return body(Silu{});
    case ESP_GELU_TANH:
      return body(GeluTanh{});
    case ESP_GELU_ERF:
      return body(GeluErf{});
    case ESP_RELU_ACTIVATION:
      return body(Relu{});
    default:
      return fail(ESP_INVALID_ARGUMENT, "no activation %d", activation);
  }
}

}  // namespace esp

#endif
