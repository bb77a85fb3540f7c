/*
 * The gated MLP's activation (Shazeer 2020): out = act(gate) * up, act as esp_activation names it, and its gradient.
 *
 * Bytes: 12 rows d forward, 20 rows d backward; about 25 FLOPs an element with the exponential. Threads take rows.
 *
 * Measured (Zen 5, one core): 37 GB/s either way with SILU, 20 and 30 with the exact GELU in cache.
 */
#include "activation.h"
#include "kernel.h"

namespace {

template <typename Activation>
void forward(const float *gate_up, float *out, int64_t ld_out, int64_t rows, int64_t d) {
  esp::parallel_rows(rows, 8 * d, [=](int64_t r) {
    const float *__restrict gate = gate_up + r * 2 * d;
    const float *__restrict up = gate + d;
    float *__restrict result = out + r * ld_out;
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

}  // namespace

int32_t esp_gated_forward(const void *gate_up_, int32_t activation, void *out_, int64_t ld_out, int64_t rows, int64_t d,
                          int32_t dtype) {
  ESP_REQUIRE(dtype == ESP_F32, "only float32 is supported on this device, not type %d", dtype);
  const auto *gate_up = static_cast<const float *>(gate_up_);
  auto *out = static_cast<float *>(out_);
  ESP_REQUIRE(rows >= 0 && d > 0, "bad sizes: rows=%ld d=%ld", rows, d);
  ESP_REQUIRE(ld_out >= d, "ld_out=%ld is shorter than a row of %ld", ld_out, d);
  return esp::with_activation(activation, [=](auto act) { forward<decltype(act)>(gate_up, out, ld_out, rows, d); });
}

int32_t esp_gated_backward(const void *gate_up_, int32_t activation, const void *d_out_, void *d_gate_up_, int64_t rows,
                           int64_t d, int32_t dtype) {
  ESP_REQUIRE(dtype == ESP_F32, "only float32 is supported on this device, not type %d", dtype);
  const auto *gate_up = static_cast<const float *>(gate_up_);
  const auto *d_out = static_cast<const float *>(d_out_);
  auto *d_gate_up = static_cast<float *>(d_gate_up_);
  ESP_REQUIRE(rows >= 0 && d > 0, "bad sizes: rows=%ld d=%ld", rows, d);
  return esp::with_activation(activation,
                              [=](auto act) { backward<decltype(act)>(gate_up, d_out, d_gate_up, rows, d); });
}
