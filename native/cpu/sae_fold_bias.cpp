/*
 * bias = b_enc - w_enc b_pre. It is computed once, for an encoder that does not change: 2 m d FLOPs.
 */
#include "bf16.h"
#include "kernel.h"

int32_t esp_sae_fold_bias(const void *w_enc, const float *b_enc, const float *b_pre, float *bias, int64_t d, int64_t m,
                          int32_t dtype) {
  ESP_REQUIRE(d > 0 && m > 0, "bad sizes: d=%ld m=%ld", d, m);
  return esp::with_type(dtype, [=](auto type) {
    using T = decltype(type);
    const auto *w = static_cast<const T *>(w_enc);
    esp::parallel_rows(m, d, [=](int64_t i) {
      double dot = 0;
#pragma omp simd reduction(+ : dot)
      for (int64_t c = 0; c < d; c++) {
        dot += static_cast<double>(static_cast<float>(w[i * d + c])) * static_cast<double>(b_pre[c]);
      }
      bias[i] = static_cast<float>(static_cast<double>(b_enc[i]) - dot);
    });
  });
}
