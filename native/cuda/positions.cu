/*
 * Learned positions: out[t] = x[t] + table[t % seq_len], and the gradient of the table.
 *
 * Elements moved: 2 tokens d forward, without the table, tokens d backward; bound by memory. A thread takes a pack of
 * 16 bytes. Forward it is a pack of the activations. Backward it is a pack of the table, for which the thread adds the
 * sequences in order, in float64.
 */
#include "columns.cuh"
#include "vector.cuh"

namespace {

/* Packs do not cross rows, so they do not cross the end of the table either. out may be x. */
template <typename T, int N>
__global__ void forward(const T *x, const T *table, T *out, int64_t n, int64_t period) {
  ESP_FOR_EACH(p, n / N) {
    esp::Pack<N> pack = esp::load<N>(x + p * N);
    const esp::Pack<N> position = esp::load<N>(table + p * N % period);
    for (int i = 0; i < N; i++) pack[i] += position[i];
    esp::store(out + p * N, pack);
  }
}

template <typename T, int N>
__global__ void backward(const T *d_out, float *d_table, int64_t n, int64_t period) {
  ESP_FOR_EACH(p, period / N) {
    double sums[N] = {};
    for (int64_t at = p * N; at < n; at += period) {
      const esp::Pack<N> gradient = esp::load<N>(d_out + at);
      for (int i = 0; i < N; i++) sums[i] += static_cast<double>(gradient[i]);
    }
    for (int i = 0; i < N; i++) esp::add_to(d_table[p * N + i], sums[i]);
  }
}

int32_t check(int64_t tokens, int64_t seq_len, int64_t d) {
  ESP_REQUIRE(tokens >= 0 && seq_len > 0 && d > 0, "bad sizes: tokens=%ld seq_len=%ld d=%ld", tokens, seq_len, d);
  return ESP_OK;
}

}  // namespace

int32_t esp_add_positions(const void *x, const void *table, void *out, int64_t tokens, int64_t seq_len, int64_t d,
                          int32_t dtype) {
  if (int32_t status = check(tokens, seq_len, d)) return status;
  return esp::with_packs(dtype, d, {x, table, out}, [=](auto type, auto width) {
    using T = decltype(type);
    constexpr int N = decltype(width)::value;
    return ESP_LAUNCH((forward<T, N>), esp::blocks_for(tokens * d / N), esp::kThreads, static_cast<const T *>(x),
                      static_cast<const T *>(table), static_cast<T *>(out), tokens * d, seq_len * d);
  });
}

int32_t esp_add_positions_backward(const void *d_out, float *d_table, int64_t tokens, int64_t seq_len, int64_t d,
                                   int32_t dtype) {
  if (int32_t status = check(tokens, seq_len, d)) return status;
  const int64_t period = (tokens < seq_len ? tokens : seq_len) * d;
  return esp::with_packs(dtype, d, {d_out}, [=](auto type, auto width) {
    using T = decltype(type);
    constexpr int N = decltype(width)::value;
    return ESP_LAUNCH((backward<T, N>), esp::blocks_for(period / N), esp::kThreads, static_cast<const T *>(d_out),
                      d_table, tokens * d, period);
  });
}
