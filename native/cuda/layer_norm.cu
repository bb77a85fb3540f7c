/*
 * LayerNorm (Ba et al. 2016): out = (x - mean) * rstd * weight + bias, rstd = 1 / sqrt(variance + eps). There is also a
 * variant whose input is a sum, which it stores on the way.
 *
 * Elements moved: 2 rows d forward, 4 rows d with the sum, 3 or 4 rows d backward; about 8 FLOPs each: bound by memory.
 * A block takes a row, a thread packs of 16 bytes of it; later readings come from cache. The variance is computed from
 * the centred row. Sums are float64 between packs; for float32 rows every term is (float64 runs at 1/64 of float32's
 * rate on sm_89, at 1/2 on sm_80 and sm_90). The gradients of the parameters: columns.cuh.
 */
#include "columns.cuh"
#include "vector.cuh"

namespace {

/* y and sum are NULL, or sum = x + y is what is normalised. */
template <typename T, int N>
__global__ void forward(const T *x, const T *y, const float *weight, const float *bias, float eps, T *sum, T *out,
                        int64_t ld_out, float *mean, float *rstd, int64_t d) {
  using Part = esp::PackSum<T>;
  const int64_t r = blockIdx.x, first = threadIdx.x * N, step = blockDim.x * N;
  const T *in = x + r * d;
  if (sum != nullptr) {
    for (int64_t c = first; c < d; c += step) { /* a thread later reads only what it writes here */
      esp::Pack<N> row = esp::load<N>(in + c);
      const esp::Pack<N> other = esp::load<N>(y + r * d + c);
      for (int i = 0; i < N; i++) row[i] += other[i];
      esp::store(sum + r * d + c, row);
    }
    in = sum + r * d;
  }
  double total = 0;
  for (int64_t c = first; c < d; c += step) {
    const esp::Pack<N> row = esp::load<N>(in + c);
    Part part = 0;
    for (int i = 0; i < N; i++) part += static_cast<Part>(row[i]);
    total += static_cast<double>(part);
  }
  const float centre = static_cast<float>(esp::block_sum(total) / static_cast<double>(d));
  double squares = 0, rest = 0; /* rest: what rounding the mean left over */
  for (int64_t c = first; c < d; c += step) {
    const esp::Pack<N> row = esp::load<N>(in + c);
    Part square = 0, linear = 0;
    for (int i = 0; i < N; i++) {
      const Part centred = static_cast<Part>(row[i]) - static_cast<Part>(centre);
      square += centred * centred;
      linear += centred;
    }
    squares += static_cast<double>(square);
    rest += static_cast<double>(linear);
  }
  squares = esp::block_sum(squares);
  const double offset = esp::block_sum(rest) / static_cast<double>(d);
  const double variance = squares / static_cast<double>(d) - offset * offset;
  const float scale = static_cast<float>(1 / sqrt(variance + static_cast<double>(eps)));
  if (threadIdx.x == 0) {
    mean[r] = centre;
    rstd[r] = scale;
  }
  for (int64_t c = first; c < d; c += step) {
    esp::Pack<N> row = esp::load<N>(in + c);
    const esp::Pack<N> gain = esp::load<N>(weight + c), offsets = esp::load<N>(bias + c);
    for (int i = 0; i < N; i++) row[i] = (row[i] - centre) * scale * gain[i] + offsets[i];
    esp::store(out + r * ld_out + c, row);
  }
}

template <typename T, int N>
__global__ void backward(const T *x, const float *weight, const float *mean, const float *rstd, const T *d_out, T *d_x,
                         bool accumulate, int64_t d) {
  using Part = esp::PackSum<T>;
  const int64_t r = blockIdx.x, first = threadIdx.x * N, step = blockDim.x * N;
  const T *in = x + r * d, *gradient = d_out + r * d;
  const float centre = mean[r], scale = rstd[r];
  double sum = 0, dot = 0; /* sums of g and of g * xhat */
  for (int64_t c = first; c < d; c += step) {
    const esp::Pack<N> row = esp::load<N>(in + c), dy = esp::load<N>(gradient + c), gain = esp::load<N>(weight + c);
    Part level = 0, along = 0;
    for (int i = 0; i < N; i++) {
      const Part g = static_cast<Part>(dy[i] * gain[i]);
      level += g;
      along += g * static_cast<Part>((row[i] - centre) * scale);
    }
    sum += static_cast<double>(level);
    dot += static_cast<double>(along);
  }
  const float level = static_cast<float>(esp::block_sum(sum) / static_cast<double>(d));
  const float along = static_cast<float>(esp::block_sum(dot) / static_cast<double>(d));
  for (int64_t c = first; c < d; c += step) {
    const esp::Pack<N> row = esp::load<N>(in + c), dy = esp::load<N>(gradient + c), gain = esp::load<N>(weight + c);
    esp::Pack<N> result{};
    if (accumulate) result = esp::load<N>(d_x + r * d + c);
    for (int i = 0; i < N; i++) result[i] += scale * (dy[i] * gain[i] - level - (row[i] - centre) * scale * along);
    esp::store(d_x + r * d + c, result);
  }
}

template <typename T>
__global__ void parameter_gradients(const T *x, const float *mean, const float *rstd, const T *d_out, float *d_weight,
                                    float *d_bias, int64_t rows, int64_t d) {
  esp::column_sums<2>(
      rows, d,
      [=](int64_t r, int64_t c, double(&sums)[2]) {
        const float gradient = esp::to_float(d_out[r * d + c]);
        sums[0] += static_cast<double>(gradient * ((esp::to_float(x[r * d + c]) - mean[r]) * rstd[r]));
        sums[1] += static_cast<double>(gradient);
      },
      [=](int64_t c, const double(&sums)[2]) {
        esp::add_to(d_weight[c], sums[0]);
        esp::add_to(d_bias[c], sums[1]);
      });
}

int32_t run_forward(const void *x, const void *y, const float *weight, const float *bias, float eps, void *sum,
                    void *out, int64_t ld_out, float *mean, float *rstd, int64_t rows, int64_t d, int32_t dtype) {
  ESP_REQUIRE(rows >= 0 && d > 0, "bad sizes: rows=%ld d=%ld", rows, d);
  ESP_REQUIRE(ld_out >= d, "ld_out=%ld is shorter than a row of %ld", ld_out, d);
  return esp::with_packs(dtype, d | ld_out, {x, y, weight, bias, sum, out}, [=](auto type, auto width) {
    using T = decltype(type);
    constexpr int N = decltype(width)::value;
    return ESP_LAUNCH((forward<T, N>), rows, esp::threads_for_row(d, N), static_cast<const T *>(x),
                      static_cast<const T *>(y), weight, bias, eps, static_cast<T *>(sum), static_cast<T *>(out),
                      ld_out, mean, rstd, d);
  });
}

}  // namespace

int32_t esp_layer_norm_forward(const void *x, const float *weight, const float *bias, float eps, void *out,
                               int64_t ld_out, float *mean, float *rstd, int64_t rows, int64_t d, int32_t dtype) {
  return run_forward(x, nullptr, weight, bias, eps, nullptr, out, ld_out, mean, rstd, rows, d, dtype);
}

int32_t esp_add_layer_norm_forward(const void *x, const void *y, const float *weight, const float *bias, float eps,
                                   void *sum, void *out, int64_t ld_out, float *mean, float *rstd, int64_t rows,
                                   int64_t d, int32_t dtype) {
  return run_forward(x, y, weight, bias, eps, sum, out, ld_out, mean, rstd, rows, d, dtype);
}

int32_t esp_layer_norm_backward(const void *x, const float *weight, const float *mean, const float *rstd,
                                const void *d_out, void *d_x, int32_t accumulate, float *d_weight, float *d_bias,
                                int64_t rows, int64_t d, int32_t dtype) {
  ESP_REQUIRE(rows >= 0 && d > 0, "bad sizes: rows=%ld d=%ld", rows, d);
  ESP_REQUIRE((d_weight == nullptr) == (d_bias == nullptr), "d_weight and d_bias: one is NULL, the other is not");
  return esp::with_packs(dtype, d, {x, weight, d_out, d_x}, [=](auto type, auto width) {
    using T = decltype(type);
    constexpr int N = decltype(width)::value;
    const auto *row = static_cast<const T *>(x);
    const auto *gradient = static_cast<const T *>(d_out);
    const int32_t status = ESP_LAUNCH((backward<T, N>), rows, esp::threads_for_row(d, N), row, weight, mean, rstd,
                                      gradient, static_cast<T *>(d_x), accumulate != 0, d);
    if (status != ESP_OK || d_weight == nullptr) return status;
    return ESP_LAUNCH(parameter_gradients<T>, esp::strips_of(d), esp::kStripThreads, row, mean, rstd, gradient,
                      d_weight, d_bias, rows, d);
  });
}
