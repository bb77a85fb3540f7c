/*
 * The activation of a gated MLP (Shazeer 2020): out = act(gate) * up, where act is what esp_activation names, and its
 * gradient.
 *
 * Bytes: 12 rows d forward, 20 rows d backward in float32, half of that in bfloat16. About 25 FLOPs an element, with
 * the exponential. Threads take rows.
 *
 * Measured (Zen 5, one core, float32): 37 GB/s in both directions with SILU; with the exact GELU, in cache, 20 forward
 * and 30 backward.
 */
#include "activation.h"
#include "bf16.h"

namespace {

template <typename Activation, typename T>
void forward(const T *gate_up, T *out, int64_t ld_out, int64_t rows, int64_t d) {
  esp::parallel_rows(rows, 8 * d, [=](int64_t r) {
    const T *__restrict gate = gate_up + r * 2 * d;
    const T *__restrict up = gate + d;
    T *__restrict result = out + r * ld_out;
#pragma omp simd
    for (int64_t c = 0; c < d; c++) result[c] = static_cast<T>(Activation::value(gate[c]) * up[c]);
  });
}

/* d_gate_up may be gate_up: each element is read before it is written, and is not needed for any other. */
template <typename Activation, typename T>
void backward(const T *gate_up, const T *d_out, T *d_gate_up, int64_t rows, int64_t d) {
  esp::parallel_rows(rows, 16 * d, [=](int64_t r) {
    const T *gate = gate_up + r * 2 * d, *up = gate + d;
    const T *gradient = d_out + r * d;
    T *d_gate = d_gate_up + r * 2 * d, *d_up = d_gate + d;
#pragma omp simd
    for (int64_t c = 0; c < d; c++) {
      const float g = gate[c], u = up[c], dy = gradient[c];
      d_gate[c] = static_cast<T>(dy * u * Activation::slope(g));
      d_up[c] = static_cast<T>(dy * Activation::value(g));
    }
  });
}

}  // namespace

int32_t esp_gated_forward(const void *gate_up, int32_t activation, void *out, int64_t ld_out, int64_t rows, int64_t d,
                          int32_t dtype) {
  ESP_REQUIRE(rows >= 0 && d > 0, "bad sizes: rows=%ld d=%ld", rows, d);
  ESP_REQUIRE(ld_out >= d, "ld_out=%ld is shorter than a row of %ld", ld_out, d);
  return esp::with_type(dtype, [=](auto type) {
    using T = decltype(type);
    return esp::with_activation(activation, [=](auto act) {
      forward<decltype(act)>(static_cast<const T *>(gate_up), static_cast<T *>(out), ld_out, rows, d);
    });
  });
}

int32_t esp_gated_backward(const void *gate_up, int32_t activation, const void *d_out, void *d_gate_up, int64_t rows,
                           int64_t d, int32_t dtype) {
  ESP_REQUIRE(rows >= 0 && d > 0, "bad sizes: rows=%ld d=%ld", rows, d);
  return esp::with_type(dtype, [=](auto type) {
    using T = decltype(type);
    return esp::with_activation(activation, [=](auto act) {
      backward<decltype(act)>(static_cast<const T *>(gate_up), static_cast<const T *>(d_out),
                              static_cast<T *>(d_gate_up), rows, d);
    });
  });
}
