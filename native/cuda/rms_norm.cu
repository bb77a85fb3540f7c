/*
 * RMSNorm (Zhang & Sennrich 2019): out = x * rstd * (weight_offset + weight), rstd = 1 / sqrt(mean(x^2) + eps), also of
 * a sum that is stored on the way.
 *
 * Elements moved: 2 rows d forward, 4 rows d with the sum, 3 or 4 rows d backward; about 4 FLOPs each: bound by memory,
 * and of a thousand rows by latency. Two ways:
 *
 *   a warp takes a row    in packs of 16 bytes, up to 16 a lane, all of which it asks for at once and keeps: no barrier
 *   a block takes a row   of more, or that is not aligned; the second reading comes from cache
 *
 * Sums are float64 between packs, as rows that hold an attention sink span five orders of magnitude; of float32 rows,
 * every term is (at 1/64 of float32's rate on sm_89, 1/2 on sm_80 and sm_90). The weight's gradient: columns.cuh.
 */
#include "columns.cuh"
#include "vector.cuh"

namespace {

/* 1 / sqrt(mean(x^2) + eps) */
__device__ inline float rstd_of(double squares, int64_t d, float eps) {
  return static_cast<float>(1 / sqrt(squares / static_cast<double>(d) + static_cast<double>(eps)));
}

/* d_x = scale g - x (scale^3 <g, x> / d): what g and x are multiplied with. */
__device__ inline float along_row(double dot, float scale, int64_t d) {
  const double cube = static_cast<double>(scale) * static_cast<double>(scale) * static_cast<double>(scale);
  return static_cast<float>(cube * dot / static_cast<double>(d));
}

template <typename T, int N>
__device__ inline double squares_of(const esp::Pack<N> &row) {
  esp::PackSum<T> sum = 0;
#pragma unroll
  for (int i = 0; i < N; i++) sum += static_cast<esp::PackSum<T>>(row[i]) * static_cast<esp::PackSum<T>>(row[i]);
  return static_cast<double>(sum);
}

/* Of g = dy (weight_offset + gain) and the row. */
template <typename T, int N>
__device__ inline double dot_of(const esp::Pack<N> &row, const esp::Pack<N> &dy, const esp::Pack<N> &gain,
                                float weight_offset) {
  esp::PackSum<T> sum = 0;
#pragma unroll
  for (int i = 0; i < N; i++) {
    sum += static_cast<esp::PackSum<T>>(dy[i] * (weight_offset + gain[i])) * static_cast<esp::PackSum<T>>(row[i]);
  }
  return static_cast<double>(sum);
}

/* ---- a warp takes a row ---- */

constexpr int kWarps = 4, kMostPacks = 16;

/* A row's packs that are this lane's: pack p starts at column(p), if there. */
struct Lane {
  int64_t row;
  int64_t d;

  __device__ explicit Lane(int64_t width)
      : row(static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32), d(width) {}
  template <int N>
  __device__ int64_t column(int p) const {
    return (p * 32 + threadIdx.x % 32) * N;
  }
};

template <typename T, int kPacks>
__global__ void __launch_bounds__(32 * kWarps)
    forward_of_warp(const T *x, const T *y, const float *__restrict__ weight, float weight_offset, float eps, T *sum,
                    T *out, int64_t ld_out, float *rstd, int64_t rows, int64_t d) {
  constexpr int N = esp::kPack<T>;
  const Lane lane(d);
  if (lane.row >= rows) return; /* the whole warp */
  uint4 kept[kPacks], added[kPacks];
#pragma unroll
  for (int p = 0; p < kPacks; p++) {
    const int64_t c = lane.column<N>(p);
    kept[p] = c < d ? esp::load_16(x + lane.row * d + c) : make_uint4(0, 0, 0, 0);
    if (sum != nullptr && c < d) added[p] = esp::load_16(y + lane.row * d + c);
  }
  if (sum != nullptr) {
#pragma unroll
    for (int p = 0; p < kPacks; p++) {
      const int64_t c = lane.column<N>(p);
      if (c >= d) continue;
      esp::Pack<N> row = esp::unpacked<T>(kept[p]);
      const esp::Pack<N> other = esp::unpacked<T>(added[p]);
#pragma unroll
      for (int i = 0; i < N; i++) row[i] += other[i];
      kept[p] = esp::packed<T>(row);
      esp::store_16(sum + lane.row * d + c, kept[p]);
    }
  }
  double squares = 0;
#pragma unroll
  for (int p = 0; p < kPacks; p++) squares += squares_of<T>(esp::unpacked<T>(kept[p]));
  const float scale = rstd_of(esp::warp_sum(squares), d, eps);
  if (threadIdx.x % 32 == 0) rstd[lane.row] = scale;
#pragma unroll
  for (int p = 0; p < kPacks; p++) {
    const int64_t c = lane.column<N>(p);
    if (c >= d) continue;
    esp::Pack<N> row = esp::unpacked<T>(kept[p]);
    const esp::Pack<N> gain = esp::load<N>(weight + c);
#pragma unroll
    for (int i = 0; i < N; i++) row[i] = row[i] * scale * (weight_offset + gain[i]);
    esp::store(out + lane.row * ld_out + c, row);
  }
}

template <typename T, int kPacks>
__global__ void __launch_bounds__(32 * kWarps)
    backward_of_warp(const T *x, const float *__restrict__ weight, float weight_offset, const float *rstd,
                     const T *d_out, T *d_x, bool accumulate, int64_t rows, int64_t d) {
  constexpr int N = esp::kPack<T>;
  const Lane lane(d);
  if (lane.row >= rows) return; /* the whole warp */
  uint4 kept[kPacks], gradient[kPacks];
#pragma unroll
  for (int p = 0; p < kPacks; p++) {
    const int64_t c = lane.column<N>(p);
    kept[p] = c < d ? esp::load_16(x + lane.row * d + c) : make_uint4(0, 0, 0, 0);
    gradient[p] = c < d ? esp::load_16(d_out + lane.row * d + c) : make_uint4(0, 0, 0, 0);
  }
  const float scale = rstd[lane.row];
  double dot = 0;
#pragma unroll
  for (int p = 0; p < kPacks; p++) {
    const int64_t c = lane.column<N>(p);
    if (c >= d) continue;
    dot += dot_of<T>(esp::unpacked<T>(kept[p]), esp::unpacked<T>(gradient[p]), esp::load<N>(weight + c), weight_offset);
  }
  const float along = along_row(esp::warp_sum(dot), scale, d);
#pragma unroll
  for (int p = 0; p < kPacks; p++) {
    const int64_t c = lane.column<N>(p);
    if (c >= d) continue;
    const esp::Pack<N> row = esp::unpacked<T>(kept[p]), dy = esp::unpacked<T>(gradient[p]),
                       gain = esp::load<N>(weight + c);
    esp::Pack<N> result{};
    if (accumulate) result = esp::load<N>(d_x + lane.row * d + c);
#pragma unroll
    for (int i = 0; i < N; i++) result[i] += scale * (dy[i] * (weight_offset + gain[i])) - row[i] * along;
    esp::store(d_x + lane.row * d + c, result);
  }
}

/* body(packs) with decltype(packs)::value packs a lane, enough for d; false where none is, or packs are of 1. */
template <typename T, int N, typename Body>
bool by_warps(int64_t d, const Body &body) {
  if constexpr (N == esp::kPack<T>) {
    const int64_t packs = (d + 32 * N - 1) / (32 * N);
    if (packs > kMostPacks) return false;
    if (packs <= 4) {
      body(std::integral_constant<int, 4>{});
    } else if (packs <= 9) {
      body(std::integral_constant<int, 9>{});
    } else {
      body(std::integral_constant<int, kMostPacks>{});
    }
    return true;
  }
  return false;
}

/* ---- a block takes a row ---- */

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
    squares += squares_of<T>(esp::load<N>(in + c));
  }
  const float scale = rstd_of(esp::block_sum(squares), d, eps);
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
  double dot = 0;
  for (int64_t c = first; c < d; c += step) {
    dot += dot_of<T>(esp::load<N>(in + c), esp::load<N>(gradient + c), esp::load<N>(weight + c), weight_offset);
  }
  const float along = along_row(esp::block_sum(dot), scale, d);
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
    const auto *in = static_cast<const T *>(x), *other = static_cast<const T *>(y);
    auto *both = static_cast<T *>(sum), *normal = static_cast<T *>(out);
    int32_t status = ESP_OK;
    const bool done = by_warps<T, N>(d, [&](auto packs) {
      status = ESP_LAUNCH((forward_of_warp<T, decltype(packs)::value>), (rows + kWarps - 1) / kWarps, 32 * kWarps, in,
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
    const bool done = by_warps<T, N>(d, [&](auto packs) {
      status = ESP_LAUNCH((backward_of_warp<T, decltype(packs)::value>), (rows + kWarps - 1) / kWarps, 32 * kWarps, row,
                          weight, weight_offset, rstd, gradient, static_cast<T *>(d_x), accumulate != 0, rows, d);
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
