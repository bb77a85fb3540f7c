/*
 * RMSNorm of each query head and key head of a fused projection (Henry et al. 2020, as in Qwen 3 and Gemma 3). Heads of
 * values are copied.
 *
 *   out = x * rstd * (weight_offset + weight), rstd = 1 / sqrt(mean(x^2) + eps), over the head_dim elements of a head
 *
 * Elements moved: 2 tokens (n_heads + 2 n_kv_heads) head_dim forward, 3 times that product backward: bound by memory. A
 * warp takes a head of a token, a lane packs of 16 bytes of it. The gradients of the weights are sums over tokens and
 * heads in a fixed order (columns.cuh), with one block for each 32 columns of a head. That is slow, but beside adapters
 * these weights are frozen.
 */
#include "columns.cuh"
#include "vector.cuh"

namespace {

struct Shape {
  int64_t tokens, n_heads, n_kv_heads, head_dim;
  __host__ __device__ int64_t normed() const { return n_heads + n_kv_heads; }
  __host__ __device__ int64_t heads() const { return n_heads + 2 * n_kv_heads; }
};

constexpr int kWarps = esp::kThreads / 32;

/* The head that this warp takes. Either all lanes of a warp have work, or the whole warp is past the end. */
__device__ inline int64_t own_head() { return static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32; }

template <typename T, int N>
__global__ void forward(const T *x, const float *query_weight, const float *key_weight, float weight_offset, float eps,
                        T *out, float *rstd, Shape s) {
  const int64_t index = own_head();
  if (index >= s.tokens * s.heads()) return;
  const int64_t t = index / s.heads(), head = index % s.heads();
  const int lane = static_cast<int>(threadIdx.x % 32);
  const T *in = x + index * s.head_dim;
  T *result = out + index * s.head_dim;
  if (head >= s.normed()) {
    for (int64_t c = lane * N; c < s.head_dim; c += 32 * N) esp::store(result + c, esp::load<N>(in + c));
    return;
  }
  const float *weight = head < s.n_heads ? query_weight : key_weight;
  double squares = 0;
  for (int64_t c = lane * N; c < s.head_dim; c += 32 * N) {
    const esp::Pack<N> row = esp::load<N>(in + c);
    esp::PackSum<T> part = 0;
    for (int i = 0; i < N; i++) part += static_cast<esp::PackSum<T>>(row[i]) * static_cast<esp::PackSum<T>>(row[i]);
    squares += static_cast<double>(part);
  }
  squares = esp::warp_sum(squares);
  const float scale =
      static_cast<float>(1 / sqrt(squares / static_cast<double>(s.head_dim) + static_cast<double>(eps)));
  if (lane == 0) rstd[t * s.normed() + head] = scale;
  for (int64_t c = lane * N; c < s.head_dim; c += 32 * N) {
    esp::Pack<N> row = esp::load<N>(in + c);
    const esp::Pack<N> gain = esp::load<N>(weight + c);
    for (int i = 0; i < N; i++) row[i] = row[i] * scale * (weight_offset + gain[i]);
    esp::store(result + c, row);
  }
}

/* d_x may be d_out: a lane reads what it later writes, and no other elements. */
template <typename T, int N>
__global__ void backward(const T *x, const float *query_weight, const float *key_weight, float weight_offset,
                         const float *rstd, const T *d_out, T *d_x, Shape s) {
  const int64_t index = own_head();
  if (index >= s.tokens * s.heads()) return;
  const int64_t t = index / s.heads(), head = index % s.heads();
  const int lane = static_cast<int>(threadIdx.x % 32);
  const T *in = x + index * s.head_dim, *gradient = d_out + index * s.head_dim;
  T *result = d_x + index * s.head_dim;
  if (head >= s.normed()) {
    for (int64_t c = lane * N; c < s.head_dim; c += 32 * N) esp::store(result + c, esp::load<N>(gradient + c));
    return;
  }
  const float *weight = head < s.n_heads ? query_weight : key_weight;
  const float scale = rstd[t * s.normed() + head];
  double dot = 0; /* sum of g * x */
  for (int64_t c = lane * N; c < s.head_dim; c += 32 * N) {
    const esp::Pack<N> row = esp::load<N>(in + c), dy = esp::load<N>(gradient + c), gain = esp::load<N>(weight + c);
    esp::PackSum<T> part = 0;
    for (int i = 0; i < N; i++) {
      part += static_cast<esp::PackSum<T>>(dy[i] * (weight_offset + gain[i])) * static_cast<esp::PackSum<T>>(row[i]);
    }
    dot += static_cast<double>(part);
  }
  dot = esp::warp_sum(dot);
  const double cube = static_cast<double>(scale) * static_cast<double>(scale) * static_cast<double>(scale);
  const float along = static_cast<float>(cube * dot / static_cast<double>(s.head_dim));
  for (int64_t c = lane * N; c < s.head_dim; c += 32 * N) {
    const esp::Pack<N> row = esp::load<N>(in + c), gain = esp::load<N>(weight + c);
    esp::Pack<N> dy = esp::load<N>(gradient + c);
    for (int i = 0; i < N; i++) dy[i] = scale * (dy[i] * (weight_offset + gain[i])) - row[i] * along;
    esp::store(result + c, dy);
  }
}

/* d_weight += the sum over tokens, and over `count` heads of each from head `first` on. */
template <typename T>
__global__ void weight_gradient(const T *x, const float *rstd, const T *d_out, float *d_weight, int64_t first,
                                int64_t count, Shape s) {
  esp::column_sums<1>(
      s.tokens * count, s.head_dim,
      [=](int64_t r, int64_t c, double(&sums)[1]) {
        const int64_t t = r / count, head = first + r % count;
        const int64_t at = (t * s.heads() + head) * s.head_dim + c;
        sums[0] += static_cast<double>(esp::to_float(d_out[at]) * esp::to_float(x[at])) *
                   static_cast<double>(rstd[t * s.normed() + head]);
      },
      [=](int64_t c, const double(&sums)[1]) { esp::add_to(d_weight[c], sums[0]); });
}

int32_t check(const Shape &s) {
  ESP_REQUIRE(s.tokens >= 0 && s.n_heads > 0 && s.n_kv_heads > 0 && s.head_dim > 0,
              "bad sizes: tokens=%ld n_heads=%ld n_kv_heads=%ld head_dim=%ld", s.tokens, s.n_heads, s.n_kv_heads,
              s.head_dim);
  return ESP_OK;
}

int64_t blocks(const Shape &s) { return (s.tokens * s.heads() + kWarps - 1) / kWarps; }

}  // namespace

int32_t esp_head_norm_forward(const void *x, const float *query_weight, const float *key_weight, float weight_offset,
                              float eps, void *out, float *rstd, int64_t tokens, int64_t n_heads, int64_t n_kv_heads,
                              int64_t head_dim, int32_t dtype) {
  const Shape s{tokens, n_heads, n_kv_heads, head_dim};
  if (int32_t status = check(s)) return status;
  return esp::with_packs(dtype, head_dim, {x, query_weight, key_weight, out}, [=](auto type, auto width) {
    using T = decltype(type);
    constexpr int N = decltype(width)::value;
    return ESP_LAUNCH((forward<T, N>), blocks(s), esp::kThreads, static_cast<const T *>(x), query_weight, key_weight,
                      weight_offset, eps, static_cast<T *>(out), rstd, s);
  });
}

int32_t esp_head_norm_backward(const void *x, const float *query_weight, const float *key_weight, float weight_offset,
                               const float *rstd, const void *d_out, void *d_x, float *d_query_weight,
                               float *d_key_weight, int64_t tokens, int64_t n_heads, int64_t n_kv_heads,
                               int64_t head_dim, int32_t dtype) {
  const Shape s{tokens, n_heads, n_kv_heads, head_dim};
  if (int32_t status = check(s)) return status;
  ESP_REQUIRE((d_query_weight == nullptr) == (d_key_weight == nullptr), "one weight's gradient is NULL, one is not");
  return esp::with_packs(dtype, head_dim, {x, query_weight, key_weight, d_out, d_x}, [=](auto type, auto width) {
    using T = decltype(type);
    constexpr int N = decltype(width)::value;
    const auto *in = static_cast<const T *>(x);
    const auto *gradient = static_cast<const T *>(d_out);
    if (d_query_weight != nullptr) { /* before d_x, which may overwrite d_out */
      int32_t status = ESP_LAUNCH(weight_gradient<T>, esp::strips_of(head_dim), esp::kStripThreads, in, rstd, gradient,
                                  d_query_weight, static_cast<int64_t>(0), n_heads, s);
      if (status != ESP_OK) return status;
      status = ESP_LAUNCH(weight_gradient<T>, esp::strips_of(head_dim), esp::kStripThreads, in, rstd, gradient,
                          d_key_weight, n_heads, n_kv_heads, s);
      if (status != ESP_OK) return status;
    }
    return ESP_LAUNCH((backward<T, N>), blocks(s), esp::kThreads, in, query_weight, key_weight, weight_offset, rstd,
                      gradient, static_cast<T *>(d_x), s);
  });
}
