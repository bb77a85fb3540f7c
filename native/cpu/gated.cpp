/*
 * The gated MLP's activation (Shazeer 2020): out = act(gate) * up, act = silu or gelu (its tanh form, Hendrycks &
 * Gimpel 2016), and its gradient.
 *
 * Bytes: 12 rows d forward, 20 rows d backward; about 25 FLOPs an element with the exponential. Threads take rows.
 *
 * Measured (Zen 5, one core): 37 GB/s either way.
 */
#include "kernel.h"
#include "vector_math.h"

namespace {

struct Silu {
  static float value(float x) { return x * esp::sigmoid(x); }
  static float slope(float x) {
    const float s = esp::sigmoid(x);
    return s * (1.0f + x * (1.0f - s));
  }
};

/* gelu(x) = x/2 (1 + tanh(u)), u = sqrt(2/pi) (x + 0.044715 x^3); 1 + tanh(u) = 2 sigmoid(2u), which keeps its digits
 * where tanh is near -1. */
struct GeluTanh {
  static constexpr float kScale = 0.79788456080286535588f, kCubic = 0.044715f;
  static float value(float x) { return x * esp::sigmoid(2.0f * kScale * x * (1.0f + kCubic * x * x)); }
  static float slope(float x) {
    const float s = esp::sigmoid(2.0f * kScale * x * (1.0f + kCubic * x * x));
    return s + x * s * (1.0f - s) * (2.0f * kScale) * (1.0f + 3.0f * kCubic * x * x);
  }
};

template <typename Activation>
void forward(const float *gate_up, float *out, int64_t rows, int64_t d) {
  esp::parallel_rows(rows, 8 * d, [=](int64_t r) {
    const float *__restrict gate = gate_up + r * 2 * d;
    const float *__restrict up = gate + d;
    float *__restrict result = out + r * d;
#pragma omp simd
    for (int64_t c = 0; c < d; c++) result[c] = Activation::value(gate[c]) * up[c];
  });
}

/* d_gate_up may be gate_up: an element is read before it is written, and by nothing else. */
template <typename Activation>
void backward(const float *gate_up, const float *d_out, float *d_gate_up, int64_t rows, int64_t d) {
  esp::parallel_rows(rows, 16 * d, [=](int64_t r) {
    const float *gate = gate_up + r * 2 * d, *up = gate + d;
    const float *gradient = d_out + r * d;
    float *d_gate = d_gate_up + r * 2 * d, *d_up = d_gate + d;
#pragma omp simd
    for (int64_t c = 0; c < d; c++) {
      const float g = gate[c], u = up[c], dy = gradient[c];
      d_gate[c] = dy * u * Activation::slope(g);
      d_up[c] = dy * Activation::value(g);
    }
  });
}

int32_t check(int32_t activation, int64_t rows, int64_t d) {
  ESP_REQUIRE(rows >= 0 && d > 0, "bad sizes: rows=%ld d=%ld", rows, d);
  ESP_REQUIRE(activation == ESP_SILU || activation == ESP_GELU_TANH, "no activation %d", activation);
  return ESP_OK;
}

}  // namespace

int32_t esp_gated_forward(const float *gate_up, int32_t activation, float *out, int64_t rows, int64_t d) {
  if (int32_t status = check(activation, rows, d)) return status;
  if (activation == ESP_SILU) {
    forward<Silu>(gate_up, out, rows, d);
  } else {
    forward<GeluTanh>(gate_up, out, rows, d);
  }
  return ESP_OK;
}

int32_t esp_gated_backward(const float *gate_up, int32_t activation, const float *d_out, float *d_gate_up, int64_t rows,
                           int64_t d) {
  if (int32_t status = check(activation, rows, d)) return status;
  if (activation == ESP_SILU) {
    backward<Silu>(gate_up, d_out, d_gate_up, rows, d);
  } else {
    backward<GeluTanh>(gate_up, d_out, d_gate_up, rows, d);
  }
  return ESP_OK;
}
