/*
 * The activation of a gated MLP: out = act(gate) * up, where gate and up are the halves of a row (SwiGLU, GeGLU:
 * Shazeer 2020), and its gradient.
 *
 * Elements moved: 3 rows d forward, 5 rows d backward; 30 to 60 FLOPs each: bound by memory. A block takes a row, a
 * thread packs of 16 bytes of it.
 */
#include "activation.cuh"

#include "vector.cuh"

namespace {

template <typename Activation, typename T, int N>
__global__ void forward(const T *gate_up, T *out, int64_t ld_out, int64_t d) {
  const T *row = gate_up + blockIdx.x * 2 * d;
  for (int64_t c = threadIdx.x * N; c < d; c += blockDim.x * N) {
    esp::Pack<N> gate = esp::load<N>(row + c);
    const esp::Pack<N> up = esp::load<N>(row + d + c);
    for (int i = 0; i < N; i++) gate[i] = Activation::value(gate[i]) * up[i];
    esp::store(out + blockIdx.x * ld_out + c, gate);
  }
}

/* d_gate_up may be gate_up: both elements of a pair are read before either is written, and are not needed for any
 * other. */
template <typename Activation, typename T, int N>
__global__ void backward(const T *gate_up, const T *d_out, T *d_gate_up, int64_t d) {
  const int64_t row = blockIdx.x * 2 * d;
  for (int64_t c = threadIdx.x * N; c < d; c += blockDim.x * N) {
    const esp::Pack<N> dy = esp::load<N>(d_out + blockIdx.x * d + c);
    esp::Pack<N> gate = esp::load<N>(gate_up + row + c), up = esp::load<N>(gate_up + row + d + c);
    for (int i = 0; i < N; i++) {
      const float g = gate[i];
      gate[i] = dy[i] * up[i] * Activation::slope(g);
      up[i] = dy[i] * Activation::value(g);
    }
    esp::store(d_gate_up + row + c, gate);
    esp::store(d_gate_up + row + d + c, up);
  }
}

}  // namespace

int32_t esp_gated_forward(const void *gate_up, int32_t activation, void *out, int64_t ld_out, int64_t rows, int64_t d,
                          int32_t dtype) {
  ESP_REQUIRE(rows >= 0 && d > 0, "bad sizes: rows=%ld d=%ld", rows, d);
  ESP_REQUIRE(ld_out >= d, "ld_out=%ld is shorter than a row of %ld", ld_out, d);
  return esp::with_activation(activation, [=](auto act) {
    return esp::with_packs(dtype, d | ld_out, {gate_up, out}, [=](auto type, auto width) {
      using T = decltype(type);
      constexpr int N = decltype(width)::value;
      return ESP_LAUNCH((forward<decltype(act), T, N>), rows, esp::threads_for_row(d, N),
                        static_cast<const T *>(gate_up), static_cast<T *>(out), ld_out, d);
    });
  });
}

int32_t esp_gated_backward(const void *gate_up, int32_t activation, const void *d_out, void *d_gate_up, int64_t rows,
                           int64_t d, int32_t dtype) {
  ESP_REQUIRE(rows >= 0 && d > 0, "bad sizes: rows=%ld d=%ld", rows, d);
  return esp::with_activation(activation, [=](auto act) {
    return esp::with_packs(dtype, d, {gate_up, d_out, d_gate_up}, [=](auto type, auto width) {
      using T = decltype(type);
      constexpr int N = decltype(width)::value;
      return ESP_LAUNCH((backward<decltype(act), T, N>), rows, esp::threads_for_row(d, N),
                        static_cast<const T *>(gate_up), static_cast<const T *>(d_out), static_cast<T *>(d_gate_up), d);
    });
  });
}
