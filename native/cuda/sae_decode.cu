/*
 * Decoding from lists of latents, and the gradients with respect to latents and input. All of them gather whole rows:
 *
 *   out[t] = sum_j value w_dec[i_j] + b_dec;  d_value = <d_out[t], w_dec[i_j]>;  d_x[t] = sum_j d_pre w_enc[i_j]
 *
 * An entry takes 2 d FLOPs and moves d elements, a token d more: bound by memory, or by L2 if the rows in use fit into
 * it. A block takes a token.
 *
 * For sums of rows a thread takes a pack of 16 bytes of the columns and goes through the list in order. So a warp reads
 * 512 bytes of a row at a time, and four rows are being read at once. For d_value a warp takes an entry, and each lane
 * d / 32 columns; d_out[t] is read from L1 after the first entry.
 *
 * Sums are float32, each in one fixed order. The bits of a column are the same in a slice of the table, whatever pack
 * it is read in.
 */
#include "sae_strips.cuh"
#include "vector.cuh"

namespace {

constexpr int kWarps = esp::kThreads / 32;

/* out[t] (+)= offset + sum_j factor table[i_j], or (+)= kept[t] if keep[t]. A block takes a strip of columns. */
template <typename T, int N>
__global__ void gather(const float *factor, const int32_t *index, const int32_t *count, int64_t capacity,
                       const T *table, const float *offset, const uint8_t *keep, const T *kept, T *out, bool accumulate,
                       int64_t d) {
  const int64_t t = blockIdx.x, c = (static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x) * N;
  if (c >= d) return;
  esp::Pack<N> sum{};
  if (accumulate) sum = esp::load<N>(out + t * d + c);
  if (keep != nullptr && keep[t] != 0) {
    const esp::Pack<N> row = esp::load<N>(kept + t * d + c);
    for (int i = 0; i < N; i++) sum[i] = accumulate ? sum[i] + row[i] : row[i]; /* 0 + -0 would not be -0 */
  } else {
    if (offset != nullptr) {
      const esp::Pack<N> row = esp::load<N>(offset + c);
      for (int i = 0; i < N; i++) sum[i] += row[i];
    }
    const int32_t *latents = index + t * capacity;
    const float *factors = factor + t * capacity;
    const int32_t entries = count[t];
#pragma unroll 4
    for (int32_t j = 0; j < entries; j++) {
      const float f = factors[j];
      const esp::Pack<N> row = esp::load<N>(table + latents[j] * d + c);
      for (int i = 0; i < N; i++) sum[i] = fmaf(f, row[i], sum[i]);
    }
  }
  esp::store(out + t * d + c, sum);
}

template <typename T, int N>
__global__ void products(const T *d_out, const int32_t *index, const int32_t *count, int64_t capacity, const T *table,
                         float *d_value, int64_t d) {
  const int64_t t = blockIdx.x;
  const int warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
  const T *gradient = d_out + t * d;
  for (int32_t j = warp; j < count[t]; j += kWarps) {
    const T *row = table + index[t * capacity + j] * d;
    float dot = 0;
#pragma unroll 4
    for (int64_t c = lane * N; c < d; c += 32 * N) {
      const esp::Pack<N> a = esp::load<N>(gradient + c), b = esp::load<N>(row + c);
      for (int i = 0; i < N; i++) dot += a[i] * b[i];
    }
    dot = esp::warp_sum(dot);
    if (lane == 0) d_value[t * capacity + j] = dot;
  }
}

int32_t launch_gather(const float *factor, const int32_t *index, const int32_t *count, int64_t capacity,
                      const void *table, const float *offset, const uint8_t *keep, const void *kept, void *out,
                      bool accumulate, int64_t tokens, int64_t d, int32_t dtype) {
  ESP_REQUIRE(tokens >= 0 && d > 0 && capacity > 0, "bad sizes: tokens=%ld d=%ld capacity=%ld", tokens, d, capacity);
  ESP_REQUIRE(keep == nullptr || kept != nullptr, "keep needs the rows that are kept");
  return esp::with_packs(dtype, d, {table, offset, kept, out}, [&](auto type, auto width) {
    using T = decltype(type);
    constexpr int N = decltype(width)::value;
    const esp::Strips strips(d, N);
    return ESP_LAUNCH((gather<T, N>), dim3(esp::grid_of(tokens).x, strips.count), strips.threads, factor, index, count,
                      capacity, static_cast<const T *>(table), offset, keep, static_cast<const T *>(kept),
                      static_cast<T *>(out), accumulate, d);
  });
}

}  // namespace

int32_t esp_sae_decode(const int32_t *index, const float *value, const int32_t *count, int64_t capacity,
                       const void *w_dec, const float *b_dec, const uint8_t *keep, const void *x, void *out,
                       int64_t tokens, int64_t d, int32_t dtype) {
  return launch_gather(value, index, count, capacity, w_dec, b_dec, keep, x, out, false, tokens, d, dtype);
}

int32_t esp_sae_decode_backward(const void *d_out, const int32_t *index, const int32_t *count, int64_t capacity,
                                const void *w_dec, float *d_value, int64_t tokens, int64_t d, int32_t dtype) {
  ESP_REQUIRE(tokens >= 0 && d > 0 && capacity > 0, "bad sizes: tokens=%ld d=%ld capacity=%ld", tokens, d, capacity);
  return esp::with_packs(dtype, d, {d_out, w_dec}, [&](auto type, auto width) {
    using T = decltype(type);
    constexpr int N = decltype(width)::value;
    return ESP_LAUNCH((products<T, N>), tokens, esp::kThreads, static_cast<const T *>(d_out), index, count, capacity,
                      static_cast<const T *>(w_dec), d_value, d);
  });
}

int32_t esp_sae_encode_backward(const float *d_pre, const int32_t *index, const int32_t *count, int64_t capacity,
                                const void *w_enc, const uint8_t *keep, const void *d_out, void *d_x,
                                int32_t accumulate, int64_t tokens, int64_t d, int32_t dtype) {
  const float *no_offset = nullptr;
  return launch_gather(d_pre, index, count, capacity, w_enc, no_offset, keep, d_out, d_x, accumulate != 0, tokens, d,
                       dtype);
}
