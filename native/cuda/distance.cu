/*
 * How far two streams of activations are apart: for each sequence the sums over its rows of |x - y| and of cos(x, y).
 * And a copy of a stream in which only some rows are kept, the others 0.
 *
 * Elements moved: 2 tokens d; bound by memory. For keep_rows a block takes a row. For distances a block takes a
 * sequence: its warps take rows in turn, and their sums are added in the order of warps, in float64. An evaluation has
 * hundreds of sequences, which is enough work for all multiprocessors.
 */
#include "row_sums.cuh"

namespace {

constexpr int kRowWarps = 16;

template <typename T, int N>
__global__ void keep_rows(const T *x, const uint8_t *keep, T *out, int64_t cols) {
  const int64_t r = blockIdx.x;
  const bool kept = keep != nullptr && keep[r] != 0;
  for (int64_t c = threadIdx.x * N; c < cols; c += blockDim.x * N) {
    esp::Pack<N> row{};
    if (kept) row = esp::load<N>(x + r * cols + c);
    esp::store(out + r * cols + c, row);
  }
}

template <typename T, int N>
__global__ void sequence_distance(const T *x, const T *y, const uint8_t *skip, double *out, int64_t length, int64_t d) {
  const int64_t s = blockIdx.x;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  double sums[3] = {}; /* rows, distance, cosine */
  for (int64_t r = s * length + warp; r < (s + 1) * length; r += kRowWarps) {
    if (skip != nullptr && skip[r] != 0) continue;
    const esp::RowSums row = esp::row_sums<N>(x + r * d, y + r * d, d);
    sums[0] += 1;
    sums[1] += sqrt(row.error);
    sums[2] += row.cosine();
  }
  __shared__ double warps[kRowWarps][3];
  for (int k = 0; k < 3; k++) {
    if (lane == k) warps[warp][k] = sums[k];
  }
  __syncthreads();
  if (threadIdx.x >= 3) return;
  double total = 0;
  for (int w = 0; w < kRowWarps; w++) total += warps[w][threadIdx.x];
  out[3 * s + threadIdx.x] = total;
}

}  // namespace

int32_t esp_keep_rows(const void *x, const uint8_t *keep, void *out, int64_t rows, int64_t cols, int32_t dtype) {
  ESP_REQUIRE(rows >= 0 && cols >= 0, "sizes must not be negative: rows=%ld cols=%ld", rows, cols);
  return esp::with_packs(dtype, cols, {x, out}, [=](auto type, auto width) {
    using T = decltype(type);
    constexpr int N = decltype(width)::value;
    return ESP_LAUNCH((keep_rows<T, N>), rows, esp::threads_for_row(cols, N), static_cast<const T *>(x), keep,
                      static_cast<T *>(out), cols);
  });
}

int32_t esp_sequence_distance(const void *x, const void *y, const uint8_t *skip, double *out, int64_t sequences,
                              int64_t length, int64_t d, int32_t dtype) {
  ESP_REQUIRE(sequences >= 0 && length > 0 && d > 0, "bad sizes: sequences=%ld length=%ld d=%ld", sequences, length, d);
  return esp::with_packs(dtype, d, {x, y}, [=](auto type, auto width) {
    using T = decltype(type);
    constexpr int N = decltype(width)::value;
    return ESP_LAUNCH((sequence_distance<T, N>), sequences, 32 * kRowWarps, static_cast<const T *>(x),
                      static_cast<const T *>(y), skip, out, length, d);
  });
}
