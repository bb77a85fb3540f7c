/*
 * bias = b_enc - w_enc b_pre. It is computed once, for an encoder that does not change: 2 m d FLOPs. A warp takes a
 * latent.
 */
#include "vector.cuh"

namespace {

template <typename T, int N>
__global__ void fold_bias(const T *w_enc, const float *b_enc, const float *b_pre, float *bias, int64_t d, int64_t m) {
  const int64_t latent = static_cast<int64_t>(blockIdx.x) * (esp::kThreads / 32) + threadIdx.x / 32;
  if (latent >= m) return; /* the whole warp */
  const int lane = static_cast<int>(threadIdx.x % 32);
  double dot = 0;
  for (int64_t c = lane * N; c < d; c += 32 * N) {
    const esp::Pack<N> w = esp::load<N>(w_enc + latent * d + c), b = esp::load<N>(b_pre + c);
    for (int i = 0; i < N; i++) dot += static_cast<double>(w[i]) * static_cast<double>(b[i]);
  }
  dot = esp::warp_sum(dot);
  if (lane == 0) bias[latent] = static_cast<float>(static_cast<double>(b_enc[latent]) - dot);
}

}  // namespace

int32_t esp_sae_fold_bias(const void *w_enc, const float *b_enc, const float *b_pre, float *bias, int64_t d, int64_t m,
                          int32_t dtype) {
  ESP_REQUIRE(d > 0 && m > 0, "bad sizes: d=%ld m=%ld", d, m);
  return esp::with_packs(dtype, d, {w_enc, b_pre}, [&](auto type, auto width) -> int32_t {
    using T = decltype(type);
    constexpr int N = decltype(width)::value;
    return ESP_LAUNCH((fold_bias<T, N>), (m + esp::kThreads / 32 - 1) / (esp::kThreads / 32), esp::kThreads,
                      static_cast<const T *>(w_enc), b_enc, b_pre, bias, d, m);
  });
}
