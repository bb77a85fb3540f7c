/*
 * RMSNorm of each query and key head of a fused projection (Henry et al. 2020, as Qwen 3 and Gemma 3 have it), values
 * copied.
 *
 * Bytes: 8 tokens (n_heads + 2 n_kv_heads) head_dim forward, 12 backward: bound by memory. A warp takes a head of a
 * token; the weights' gradients are sums over tokens and heads in that order, a column a thread.
 */
#include "device.cuh"

namespace {

struct Shape {
  int64_t tokens, n_heads, n_kv_heads, head_dim;
  __host__ __device__ int64_t normed() const { return n_heads + n_kv_heads; }
  __host__ __device__ int64_t heads() const { return n_heads + 2 * n_kv_heads; }
};

constexpr int kWarps = esp::kThreads / 32;

/* The head that this warp takes; a warp is either wholly at work or wholly past the end. */
__device__ inline int64_t own_head() { return static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32; }

__global__ void forward(const float *x, const float *query_weight, const float *key_weight, float weight_offset,
                        float eps, float *out, float *rstd, Shape s) {
  const int64_t index = own_head();
  if (index >= s.tokens * s.heads()) return;
  const int64_t t = index / s.heads(), head = index % s.heads();
  const int lane = static_cast<int>(threadIdx.x % 32);
  const float *in = x + index * s.head_dim;
  float *result = out + index * s.head_dim;
  if (head >= s.normed()) {
    for (int64_t c = lane; c < s.head_dim; c += 32) result[c] = in[c];
    return;
  }
  const float *gain = head < s.n_heads ? query_weight : key_weight;
  double squares = 0;
  for (int64_t c = lane; c < s.head_dim; c += 32) squares += static_cast<double>(in[c]) * static_cast<double>(in[c]);
  squares = esp::warp_sum(squares);
  const float scale =
      static_cast<float>(1 / sqrt(squares / static_cast<double>(s.head_dim) + static_cast<double>(eps)));
  if (lane == 0) rstd[t * s.normed() + head] = scale;
  for (int64_t c = lane; c < s.head_dim; c += 32) result[c] = in[c] * scale * (weight_offset + gain[c]);
}

__global__ void backward(const float *x, const float *query_weight, const float *key_weight, float weight_offset,
                         const float *rstd, const float *d_out, float *d_x, Shape s) {
  const int64_t index = own_head();
  if (index >= s.tokens * s.heads()) return;
  const int64_t t = index / s.heads(), head = index % s.heads();
  const int lane = static_cast<int>(threadIdx.x % 32);
  const float *in = x + index * s.head_dim, *gradient = d_out + index * s.head_dim;
  float *result = d_x + index * s.head_dim;
  if (head >= s.normed()) {
    for (int64_t c = lane; c < s.head_dim; c += 32) result[c] = gradient[c];
    return;
  }
  const float *gain = head < s.n_heads ? query_weight : key_weight;
  const float scale = rstd[t * s.normed() + head];
  double dot = 0; /* sum of g * x */
  for (int64_t c = lane; c < s.head_dim; c += 32) {
    dot += static_cast<double>(gradient[c] * (weight_offset + gain[c])) * static_cast<double>(in[c]);
  }
  dot = esp::warp_sum(dot);
  const double cube = static_cast<double>(scale) * static_cast<double>(scale) * static_cast<double>(scale);
  const float along = static_cast<float>(cube * dot / static_cast<double>(s.head_dim));
  for (int64_t c = lane; c < s.head_dim; c += 32) {
    result[c] = scale * (gradient[c] * (weight_offset + gain[c])) - in[c] * along;
  }
}

__global__ void weight_gradients(const float *x, const float *rstd, const float *d_out, float *d_query, float *d_key,
                                 Shape s) {
  ESP_FOR_EACH(c, s.head_dim) {
    double query = 0, key = 0;
    for (int64_t t = 0; t < s.tokens; t++) {
      for (int64_t head = 0; head < s.normed(); head++) {
        const int64_t at = (t * s.heads() + head) * s.head_dim + c;
        const double term = static_cast<double>(d_out[at] * x[at]) * static_cast<double>(rstd[t * s.normed() + head]);
        (head < s.n_heads ? query : key) += term;
      }
    }
    d_query[c] = static_cast<float>(static_cast<double>(d_query[c]) + query);
    d_key[c] = static_cast<float>(static_cast<double>(d_key[c]) + key);
  }
}

int32_t check(const Shape &s) {
  ESP_REQUIRE(s.tokens >= 0 && s.n_heads > 0 && s.n_kv_heads > 0 && s.head_dim > 0,
              "bad sizes: tokens=%ld n_heads=%ld n_kv_heads=%ld head_dim=%ld", s.tokens, s.n_heads, s.n_kv_heads,
              s.head_dim);
  return ESP_OK;
}

int64_t blocks(const Shape &s) { return (s.tokens * s.heads() + kWarps - 1) / kWarps; }

}  // namespace

int32_t esp_head_norm_forward(const void *x_, const float *query_weight, const float *key_weight, float weight_offset,
                              float eps, void *out_, float *rstd, int64_t tokens, int64_t n_heads, int64_t n_kv_heads,
                              int64_t head_dim, int32_t dtype) {
  ESP_REQUIRE(dtype == ESP_F32, "only float32 is supported on this device, not type %d", dtype);
  const auto *x = static_cast<const float *>(x_);
  auto *out = static_cast<float *>(out_);
  const Shape s{tokens, n_heads, n_kv_heads, head_dim};
  if (int32_t status = check(s)) return status;
  return ESP_LAUNCH(forward, blocks(s), esp::kThreads, x, query_weight, key_weight, weight_offset, eps, out, rstd, s);
}

int32_t esp_head_norm_backward(const void *x_, const float *query_weight, const float *key_weight, float weight_offset,
                               const float *rstd, const void *d_out_, void *d_x_, float *d_query_weight,
                               float *d_key_weight, int64_t tokens, int64_t n_heads, int64_t n_kv_heads,
                               int64_t head_dim, int32_t dtype) {
  ESP_REQUIRE(dtype == ESP_F32, "only float32 is supported on this device, not type %d", dtype);
  const auto *x = static_cast<const float *>(x_);
  const auto *d_out = static_cast<const float *>(d_out_);
  auto *d_x = static_cast<float *>(d_x_);
  const Shape s{tokens, n_heads, n_kv_heads, head_dim};
  if (int32_t status = check(s)) return status;
  ESP_REQUIRE((d_query_weight == nullptr) == (d_key_weight == nullptr), "one weight's gradient is NULL, one is not");
  if (d_query_weight != nullptr) { /* first: d_x may overwrite d_out */
    const int32_t status = ESP_LAUNCH(weight_gradients, esp::blocks_for(head_dim), esp::kThreads, x, rstd, d_out,
                                      d_query_weight, d_key_weight, s);
    if (status != ESP_OK) return status;
  }
  return ESP_LAUNCH(backward, blocks(s), esp::kThreads, x, query_weight, key_weight, weight_offset, rstd, d_out, d_x,
                    s);
}
