/*
 * Rotary positions (Su et al. 2021), in place: the pair (x[i], x[i + h]), h = rotary_dim / 2, is turned by the angle
 * sign * angle(position, i). The halves of a head are the two sides of the pairs, as in the weights of Llama that
 * Hugging Face stores.
 *
 * Elements moved: 2 tokens n_heads rotary_dim; 6 FLOPs a pair: bound by memory. A block takes a token. A thread takes a
 * pack of 16 bytes of the first half of a head and its partner in the second half.
 */
#include "vector.cuh"

namespace {

template <typename T, int N>
__global__ void rope(T *x, int64_t ldx, const float *cos, const float *sin, float direction, int64_t seq_len,
                     int n_heads, int64_t head_dim, int half) {
  const int64_t t = blockIdx.x, angles = t % seq_len * half;
  const int per_head = half / N;
  for (int p = static_cast<int>(threadIdx.x); p < n_heads * per_head; p += static_cast<int>(blockDim.x)) {
    const int i = p % per_head * N;
    T *first = x + t * ldx + p / per_head * head_dim + i;
    esp::Pack<N> a = esp::load<N>(first), b = esp::load<N>(first + half);
    const esp::Pack<N> c = esp::load<N>(cos + angles + i), s = esp::load<N>(sin + angles + i);
    for (int j = 0; j < N; j++) {
      const float turn = direction * s[j], u = a[j], v = b[j];
      a[j] = u * c[j] - v * turn;
      b[j] = v * c[j] + u * turn;
    }
    esp::store(first, a);
    esp::store(first + half, b);
  }
}

}  // namespace

int32_t esp_rope(void *x, int64_t ldx, const float *cos, const float *sin, int32_t sign, int64_t tokens,
                 int64_t seq_len, int64_t n_heads, int64_t head_dim, int64_t rotary_dim, int32_t dtype) {
  ESP_REQUIRE(tokens >= 0 && seq_len > 0 && n_heads > 0 && head_dim > 0,
              "bad sizes: tokens=%ld seq_len=%ld n_heads=%ld head_dim=%ld", tokens, seq_len, n_heads, head_dim);
  ESP_REQUIRE(rotary_dim > 0 && rotary_dim % 2 == 0 && rotary_dim <= head_dim,
              "rotary_dim=%ld must be even and at most head_dim=%ld", rotary_dim, head_dim);
  ESP_REQUIRE(ldx >= n_heads * head_dim, "ldx=%ld is shorter than a row of %ld", ldx, n_heads * head_dim);
  ESP_REQUIRE(n_heads * head_dim < INT64_C(1) << 31, "a row of %ld elements is too long", n_heads * head_dim);
  ESP_REQUIRE(sign == 1 || sign == -1, "sign must be 1 or -1, got %d", sign);
  const int64_t half = rotary_dim / 2;
  return esp::with_type(dtype, [=](auto type) {
    using T = decltype(type);
    const auto run = [=](auto width) {
      constexpr int N = decltype(width)::value;
      return ESP_LAUNCH((rope<T, N>), tokens, esp::threads_for_row(n_heads * half, N), static_cast<T *>(x), ldx, cos,
                        sin, static_cast<float>(sign), seq_len, static_cast<int>(n_heads), head_dim,
                        static_cast<int>(half));
    };
    constexpr int N = esp::kPack<T>;
    const bool packs = ldx % N == 0 && head_dim % N == 0 && esp::in_packs<T>(half, {x, cos, sin});
    return packs ? run(std::integral_constant<int, N>{}) : run(std::integral_constant<int, 1>{});
  });
}
