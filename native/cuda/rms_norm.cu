/*
 * RMSNorm (Zhang & Sennrich 2019): out = x * rstd * (weight_offset + weight), rstd = 1 / sqrt(mean(x^2) + eps). There
 * is also a variant whose input is a sum, which it stores on the way.
 *
 * Elements moved: 2 rows d forward, 4 rows d with the sum, 3 or 4 rows d backward; about 4 FLOPs each: bound by memory,
 * and with only a thousand rows by latency. There are two ways:
 *
 *   a warp takes a row    if the row is aligned and has at most 16 packs a lane. The lanes keep it: rms_norm.cuh
 *   a block takes a row   otherwise. The row is read a second time, from cache
 *
 * The gradient of the weight: columns.cuh.
 */
#include "columns.cuh"
#include "rms_norm.cuh"

namespace {

/* ---- a warp takes a row ---- */

/* y and sum are NULL, or sum = x + y is what is normalised. */
template <typename T, int kPacks>
__global__ void __launch_bounds__(32 * esp::rms::kWarps)
    forward_of_warp(const T *x, const T *y, const float *__restrict__ weight, float weight_offset, float eps, T *sum,
                    T *out, int64_t ld_out, float *rstd, int64_t rows, int64_t d) {
  constexpr int N = esp::kPack<T>;
  __shared__ esp::rms::Gains<N, kPacks> gains;
  const esp::rms::Lane<T, kPacks> lane(rows, d);
  const auto asked = gains.ask(weight, d);
  uint4 kept[kPacks], added[kPacks];
  lane.load(x, kept);
  if (sum != nullptr) lane.load(y, added);
  gains.keep(asked, weight_offset);
  __syncthreads();
  if (!lane.is_there()) return; /* the whole warp */
  if (sum != nullptr) {
#pragma unroll
    for (int p = 0; p < kPacks; p++) {
      esp::Pack<N> row = esp::unpacked<T>(kept[p]);
      const esp::Pack<N> other = esp::unpacked<T>(added[p]);
#pragma unroll
      for (int i = 0; i < N; i++) row[i] += other[i];
      kept[p] = esp::packed<T>(row);
      lane.store(sum, d, p, kept[p]);
    }
  }
  const float scale = lane.rstd_of(kept, eps, rstd);
#pragma unroll
  for (int p = 0; p < kPacks; p++) {
    lane.store(out, ld_out, p, esp::packed<T>(esp::rms::normed(esp::unpacked<T>(kept[p]), scale, gains.of(p))));
  }
}

template <typename T, int kPacks>
__global__ void __launch_bounds__(32 * esp::rms::kWarps)
    backward_of_warp(const T *x, const float *__restrict__ weight, float weight_offset, const float *rstd,
                     const T *d_out, T *d_x, bool accumulate, int64_t rows, int64_t d) {
  constexpr int N = esp::kPack<T>;
  __shared__ esp::rms::Gains<N, kPacks> gains;
  const esp::rms::Lane<T, kPacks> lane(rows, d);
  const auto asked = gains.ask(weight, d);
  uint4 kept[kPacks], gradient[kPacks], before[kPacks] = {};
  lane.load(x, kept);
  lane.load(d_out, gradient);
  if (accumulate) lane.load(d_x, before);
  const float scale = lane.is_there() ? rstd[lane.row] : 0;
  gains.keep(asked, weight_offset);
  __syncthreads();
  if (!lane.is_there()) return; /* the whole warp */
  lane.gradient(kept, gradient, before, gains, scale, d_x);
}

/* ---- a block takes a row ---- */

template <int N>
__device__ inline esp::Pack<N> gain_of(const float *weight, float weight_offset) {
  esp::Pack<N> gain = esp::load<N>(weight);
  for (int i = 0; i < N; i++) gain[i] += weight_offset;
  return gain;
}

/* y and sum are NULL, or sum = x + y is what is normalised. */
template <typename T, int N>
__global__ void forward(const T *x, const T *y, const float *weight, float weight_offset, float eps, T *sum, T *out,
                        int64_t ld_out, float *rstd, int64_t d) {
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
  double squares = 0;
  for (int64_t c = first; c < d; c += step) {
    squares += esp::rms::squares_of<T>(esp::load<N>(in + c));
  }
  const float scale = esp::rms::rstd_of(esp::block_sum(squares), d, eps);
  if (threadIdx.x == 0) rstd[r] = scale;
  for (int64_t c = first; c < d; c += step) {
    const esp::Pack<N> gain = gain_of<N>(weight + c, weight_offset);
    esp::store(out + r * ld_out + c, esp::rms::normed(esp::load<N>(in + c), scale, gain));
  }
}

template <typename T, int N>
__global__ void backward(const T *x, const float *weight, float weight_offset, const float *rstd, const T *d_out,
                         T *d_x, bool accumulate, int64_t d) {
  const int64_t r = blockIdx.x, first = threadIdx.x * N, step = blockDim.x * N;
  const T *in = x + r * d, *gradient = d_out + r * d;
  const float scale = rstd[r];
  double dot = 0;
  for (int64_t c = first; c < d; c += step) {
    const esp::Pack<N> gain = gain_of<N>(weight + c, weight_offset);
    dot += esp::rms::dot_of<T>(esp::load<N>(in + c), esp::load<N>(gradient + c), gain);
  }
  const float along = esp::rms::along_row(esp::block_sum(dot), scale, d);
  for (int64_t c = first; c < d; c += step) {
    const esp::Pack<N> row = esp::load<N>(in + c), dy = esp::load<N>(gradient + c),
                       gain = gain_of<N>(weight + c, weight_offset);
    esp::Pack<N> before{};
    if (accumulate) before = esp::load<N>(d_x + r * d + c);
    esp::store(d_x + r * d + c, esp::rms::with_gradient(before, row, dy, gain, scale, along));
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
    const auto *in = static_cast<const T *>(x), *other = static_cast<const T *>(y);
    auto *both = static_cast<T *>(sum), *normal = static_cast<T *>(out);
    int32_t status = ESP_OK;
    const bool done = esp::rms::by_warps<T, N>(d, [&](auto packs) {
      status =
          ESP_LAUNCH((forward_of_warp<T, decltype(packs)::value>), esp::rms::blocks_of(rows), 32 * esp::rms::kWarps, in,
                     other, weight, weight_offset, eps, both, normal, ld_out, rstd, rows, d);
    });
    return done ? status
                : ESP_LAUNCH((forward<T, N>), rows, esp::threads_for_row(d, N), in, other, weight, weight_offset, eps,
                             both, normal, ld_out, rstd, d);
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
    int32_t status = ESP_OK;
    const bool done = esp::rms::by_warps<T, N>(d, [&](auto packs) {
      status =
          ESP_LAUNCH((backward_of_warp<T, decltype(packs)::value>), esp::rms::blocks_of(rows), 32 * esp::rms::kWarps,
                     row, weight, weight_offset, rstd, gradient, static_cast<T *>(d_x), accumulate != 0, rows, d);
    });
    if (!done) {
      status = ESP_LAUNCH((backward<T, N>), rows, esp::threads_for_row(d, N), row, weight, weight_offset, rstd,
                          gradient, static_cast<T *>(d_x), accumulate != 0, d);
    }
    if (status != ESP_OK || d_weight == nullptr) return status;
    return ESP_LAUNCH(weight_gradient<T>, esp::strips_of(d), esp::kStripThreads, row, rstd, gradient, d_weight, rows,
                      d);
  });
}
