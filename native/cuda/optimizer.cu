/*
 * The norm of gradients, and AdamW (Loshchilov & Hutter 2019, algorithm 2, with the order of operations of
 * torch.optim.AdamW).
 *
 * Bytes: 4 n for the norm, 28 n for AdamW. About 15 FLOPs an element: bound by memory. Threads take packs of 16 bytes;
 * sums are float64 (sums.cuh). What depends on the step is read and computed on the device, once for each block, so
 * that a recorded step can be replayed. The host cannot look at the control block: a step below 1 gives NaN. Parameters
 * are float32; esp_convert makes their copy in bfloat16.
 */
#include "sums.cuh"

namespace {

struct Square {
  __device__ double operator()(float x) const { return static_cast<double>(x) * static_cast<double>(x); }
};

struct StoreNorm {
  esp_control *control;
  __device__ void operator()(double squares) const { control->grad_norm = sqrt(squares); }
};

struct AdamW {
  float beta1, beta2, eps, weight_decay, clip;
};

/* What is the same for all elements in a step. */
struct Step {
  float size, correction, decay, scale;
};

__device__ Step step_of(const AdamW &a, const esp_control &control) {
  const double step = static_cast<double>(control.step), lr = control.lr;
  const double b1 = static_cast<double>(a.beta1), b2 = static_cast<double>(a.beta2);
  const double ratio = static_cast<double>(a.clip) / (control.grad_norm + 1e-6);
  return {static_cast<float>(lr / (1 - pow(b1, step))), static_cast<float>(1 / sqrt(1 - pow(b2, step))),
          static_cast<float>(1 - lr * static_cast<double>(a.weight_decay)),
          a.clip > 0 && ratio < 1 ? static_cast<float>(ratio) : 1.0f};
}

template <int N>
__global__ void adamw(float *param, const float *grad, float *m, float *v, int64_t n, AdamW a,
                      const esp_control *control) {
  if (!isfinite(control->loss) || !isfinite(control->grad_norm) || control->overflow != 0) return;
  __shared__ Step shared;
  if (threadIdx.x == 0) shared = step_of(a, *control);
  __syncthreads();
  const Step step = shared;
  const float new1 = static_cast<float>(1 - static_cast<double>(a.beta1)),
              new2 = static_cast<float>(1 - static_cast<double>(a.beta2));
  ESP_FOR_EACH(p, n / N) {
    const esp::Pack<N> gradient = esp::load<N>(grad + p * N);
    esp::Pack<N> value = esp::load<N>(param + p * N), mean = esp::load<N>(m + p * N), square = esp::load<N>(v + p * N);
    for (int i = 0; i < N; i++) {
      const float g = gradient[i] * step.scale;
      mean[i] = a.beta1 * mean[i] + new1 * g;
      square[i] = a.beta2 * square[i] + new2 * g * g;
      value[i] = value[i] * step.decay - step.size * mean[i] / (sqrtf(square[i]) * step.correction + a.eps);
    }
    esp::store(m + p * N, mean);
    esp::store(v + p * N, square);
    esp::store(param + p * N, value);
  }
}

}  // namespace

int32_t esp_global_norm(const float *grad, int64_t n, esp_control *control) {
  ESP_REQUIRE(n >= 0, "n must not be negative, got %ld", n);
  return esp::sum_terms(grad, n, Square{}, StoreNorm{control});
}

int32_t esp_adamw(float *param, const float *grad, float *m, float *v, int64_t n, float beta1, float beta2, float eps,
                  float weight_decay, float clip, const esp_control *control) {
  ESP_REQUIRE(n >= 0, "n must not be negative, got %ld", n);
  ESP_REQUIRE(beta1 >= 0 && beta1 < 1 && beta2 >= 0 && beta2 < 1, "betas must be in [0, 1): %g, %g",
              static_cast<double>(beta1), static_cast<double>(beta2));
  const AdamW a{beta1, beta2, eps, weight_decay, clip};
  constexpr int N = esp::kPack<float>;
  if (esp::in_packs<float>(n, {param, grad, m, v})) {
    return ESP_LAUNCH(adamw<N>, esp::blocks_for(n / N), esp::kThreads, param, grad, m, v, n, a, control);
  }
  return ESP_LAUNCH(adamw<1>, esp::blocks_for(n), esp::kThreads, param, grad, m, v, n, a, control);
}
