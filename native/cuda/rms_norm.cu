/*
 * RMSNorm (Zhang & Sennrich 2019): out = x * rstd * (weight_offset + weight), rstd = 1 / sqrt(mean(x^2) + eps), also of
 * a sum that is stored on the way.
 *
 * Elements moved: 2 rows d forward, 4 rows d with the sum, 3 or 4 rows d backward; about 4 FLOPs each: bound by memory.
 * A block takes a row, a thread a pack of 16 bytes of it: the second reading comes from cache. Sums are float64 between
 * packs, as rows that hold an attention sink span five orders of magnitude; of float32 rows, every term is (at 1/64 of
 * float32's rate on sm_89, 1/2 on sm_80 and sm_90). The weight's gradient: columns.cuh.
 */
#include "columns.cuh"
#include "vector.cuh"

namespace {

/* y and sum: NULL, or sum = x + y is what is normalised. */
template <typename T, int N>
__global__ void forward(const T *x, const T *y, const float *weight, float weight_offset, float eps, T *sum, T *out,
                        int64_t ld_out, float *rstd, int64_t d) {
  const int64_t r = blockIdx.x, first = threadIdx.x * N, step = blockDim.x * N;
  const T *in = x + r * d;
  if (sum != nullptr) {
    for (int64_t c = first; c < d; c += step) { /* a thread reads below what it writes here */
      esp::Pack<N> row = esp::load<N>(in + c);
      const esp::Pack<N> other = esp::load<N>(y + r * d + c);
      for (int i = 0; i < N; i++) row[i] += other[i];
      esp::store(sum + r * d + c, row);
    }
    in = sum + r * d;
  }
  double squares = 0;
  for (int64_t c = first; c < d; c += step) {
    const esp::Pack<N> row = esp::load<N>(in + c);
    esp::PackSum<T> part = 0;
    for (int i = 0; i < N; i++) part += static_cast<esp::PackSum<T>>(row[i]) * static_cast<esp::PackSum<T>>(row[i]);
    squares += static_cast<double>(part);
  }
  squares = esp::block_sum(squares);
  const float scale = static_cast<float>(1 / sqrt(squares / static_cast<double>(d) + static_cast<double>(eps)));
  if (threadIdx.x == 0) rstd[r] = scale;
  for (int64_t c = first; c < d; c += step) {
    esp::Pack<N> row = esp::load<N>(in + c);
    const esp::Pack<N> gain = esp::load<N>(weight + c);
    for (int i = 0; i < N; i++) row[i] = row[i] * scale * (weight_offset + gain[i]);
    esp::store(out + r * ld_out + c, row);
  }
}

template <typename T, int N>
__global__ void backward(const T *x, const float *weight, float weight_offset, const float *rstd, const T *d_out,
                         T *d_x, bool accumulate, int64_t d) {
  const int64_t r = blockIdx.x, first = threadIdx.x * N, step = blockDim.x * N;
  const T *in = x + r * d, *gradient = d_out + r * d;
  const float scale = rstd[r];
  double dot = 0; /* sum of g * x */
  for (int64_t c = first; c < d; c += step) {
    const esp::Pack<N> row = esp::load<N>(in + c), dy = esp::load<N>(gradient + c), gain = esp::load<N>(weight + c);
    esp::PackSum<T> part = 0;
    for (int i = 0; i < N; i++) {
      part += static_cast<esp::PackSum<T>>(dy[i] * (weight_offset + gain[i])) * static_cast<esp::PackSum<T>>(row[i]);
    }
    dot += static_cast<double>(part);
  }
  dot = esp::block_sum(dot);
  const double cube = static_cast<double>(scale) * static_cast<double>(scale) * static_cast<double>(scale);
  const float along = static_cast<float>(cube * dot / static_cast<double>(d));
  for (int64_t c = first; c < d; c += step) {
    const esp::Pack<N> row = esp::load<N>(in + c), dy = esp::load<N>(gradient + c), gain = esp::load<N>(weight + c);
    esp::Pack<N> result{};
    if (accumulate) result = esp::load<N>(d_x + r * d + c);
    for (int i = 0; i < N; i++) result[i] += scale * (dy[i] * (weight_offset + gain[i])) - row[i] * along;
    esp::store(d_x + r * d + c, result);
  }
}

template <typename T>
__global__ void weight_gradient(const T *x, const float *rstd, const T *d_out, float *d_weight, int64_t rows,
                                int64_t d) {
  esp::column_sums<1>(
      rows, d,
      [=](int64_t r, int64_t c, double(&sums)[1]) {
        const float product = esp::to_float(d_out[r * d + c]) * esp::to_float(x[r * d + c]);
        sums[0] += static_cast<double>(product) * static_cast<double>(rstd[r]);
      },
      [=](int64_t c, const double(&sums)[1]) { esp::add_to(d_weight[c], sums[0]); });
}

int32_t run_forward(const void *x, const void *y, const float *weight, float weight_offset, float eps, void *sum,
                    void *out, int64_t ld_out, float *rstd, int64_t rows, int64_t d, int32_t dtype) {
  ESP_REQUIRE(rows >= 0 && d > 0, "bad sizes: rows=%ld d=%ld", rows, d);
  ESP_REQUIRE(ld_out >= d, "ld_out=%ld is shorter than a row of %ld", ld_out, d);
  return esp::with_packs(dtype, d | ld_out, {x, y, weight, sum, out}, [&](auto type, auto width) {
    using T = decltype(type);
    constexpr int N = decltype(width)::value;
    return ESP_LAUNCH((forward<T, N>), rows, esp::threads_for_row(d, N), static_cast<const T *>(x),
                      static_cast<const T *>(y), weight, weight_offset, eps, static_cast<T *>(sum),
                      static_cast<T *>(out), ld_out, rstd, d);
  });
}

}  // namespace

int32_t esp_rms_norm_forward(const void *x, const float *weight, float weight_offset, float eps, void *out,
                             int64_t ld_out, float *rstd, int64_t rows, int64_t d, int32_t dtype) {
  return run_forward(x, nullptr, weight, weight_offset, eps, nullptr, out, ld_out, rstd, rows, d, dtype);
}

int32_t esp_add_rms_norm_forward(const void *x, const void *y, const float *weight, float weight_offset, float eps,
                                 void *sum, void *out, int64_t ld_out, float *rstd, int64_t rows, int64_t d,
                                 int32_t dtype) {
  return run_forward(x, y, weight, weight_offset, eps, sum, out, ld_out, rstd, rows, d, dtype);
}

int32_t esp_rms_norm_backward(const void *x, const float *weight, float weight_offset, const float *rstd,
                              const void *d_out, void *d_x, int32_t accumulate, float *d_weight, int64_t rows,
                              int64_t d, int32_t dtype) {
  ESP_REQUIRE(rows >= 0 && d > 0, "bad sizes: rows=%ld d=%ld", rows, d);
  return esp::with_packs(dtype, d, {x, weight, d_out, d_x}, [&](auto type, auto width) {
    using T = decltype(type);
    constexpr int N = decltype(width)::value;
    const auto *row = static_cast<const T *>(x);
    const auto *gradient = static_cast<const T *>(d_out);
    const int32_t status = ESP_LAUNCH((backward<T, N>), rows, esp::threads_for_row(d, N), row, weight, weight_offset,
                                      rstd, gradient, static_cast<T *>(d_x), accumulate != 0, d);
    if (status != ESP_OK || d_weight == nullptr) return status;
    return ESP_LAUNCH(weight_gradient<T>, esp::strips_of(d), esp::kStripThreads, row, rstd, gradient, d_weight, rows,
                      d);
  });
}
