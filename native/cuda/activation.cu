/*
 * The activation of an MLP without a gate: out = act(x), and its gradient.
 *
 * Elements moved: 2 n forward, 3 n backward; 25 to 60 FLOPs each: bound by memory. Threads take packs of 16 bytes; a
 * thread's packs are one grid apart.
 */
#include "activation.cuh"

#include "vector.cuh"

namespace {

template <typename Activation, typename T, int N>
__global__ void forward(const T *x, T *out, int64_t n) {
  ESP_FOR_EACH(p, n / N) {
    esp::Pack<N> pack = esp::load<N>(x + p * N);
    for (int i = 0; i < N; i++) pack[i] = Activation::value(pack[i]);
    esp::store(out + p * N, pack);
  }
}

/* d_x may be d_out: each element is read before it is written, and is not needed for any other. */
template <typename Activation, typename T, int N>
__global__ void backward(const T *x, const T *d_out, T *d_x, int64_t n) {
  ESP_FOR_EACH(p, n / N) {
    const esp::Pack<N> pack = esp::load<N>(x + p * N);
    esp::Pack<N> gradient = esp::load<N>(d_out + p * N);
    for (int i = 0; i < N; i++) gradient[i] *= Activation::slope(pack[i]);
    esp::store(d_x + p * N, gradient);
  }
}

}  // namespace

int32_t esp_activation_forward(const void *x, int32_t activation, void *out, int64_t n, int32_t dtype) {
  ESP_REQUIRE(n >= 0, "bad size: n=%ld", n);
  return esp::with_activation(activation, [=](auto act) {
    return esp::with_packs(dtype, n, {x, out}, [=](auto type, auto width) {
      using T = decltype(type);
      constexpr int N = decltype(width)::value;
      return ESP_LAUNCH((forward<decltype(act), T, N>), esp::blocks_for(n / N), esp::kThreads,
                        static_cast<const T *>(x), static_cast<T *>(out), n);
    });
  });
}

int32_t esp_activation_backward(const void *x, int32_t activation, const void *d_out, void *d_x, int64_t n,
                                int32_t dtype) {
  ESP_REQUIRE(n >= 0, "bad size: n=%ld", n);
  return esp::with_activation(activation, [=](auto act) {
    return esp::with_packs(dtype, n, {x, d_out, d_x}, [=](auto type, auto width) {
      using T = decltype(type);
      constexpr int N = decltype(width)::value;
      return ESP_LAUNCH((backward<decltype(act), T, N>), esp::blocks_for(n / N), esp::kThreads,
                        static_cast<const T *>(x), static_cast<const T *>(d_out), static_cast<T *>(d_x), n);
    });
  });
}
