/*
 * Causal grouped-query attention and its gradients: which kernels run, and what they have in common.
 *
 *   bfloat16, head_dim, lds and pointers multiples of 8 elements:
 *     on Hopper            attention_forward_warpgroup.cu, attention_backward_warpgroup.cu
 *     on other GPUs        attention_forward.cu, attention_backward.cu
 *   everything else        attention_blocked.cu
 *
 * delta = rowsum(d_out out), which the backward pass needs, is computed here. A warp takes a row: 2 head_dim FLOPs for
 * 2 head_dim elements, bound by memory.
 */
#include "attention.cuh"

#include <climits>

#include "vector.cuh"
#include "warpgroup.cuh"

namespace esp::attention {
namespace {

template <typename T, int N>
__global__ void rowsum(const T *out, int64_t ld_out, const T *d_out, float *delta, int64_t rows, int64_t n_heads,
                       int64_t head_dim) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
  if (row >= rows) return; /* the whole warp */
  const T *of_head = out + row / n_heads * ld_out + row % n_heads * head_dim;
  float sum = 0;
  for (int64_t c = threadIdx.x % 32 * N; c < head_dim; c += 32 * N) {
    const Pack<N> a = load<N>(of_head + c), b = load<N>(d_out + row * head_dim + c);
#pragma unroll
    for (int e = 0; e < N; e++) sum += a[e] * b[e];
  }
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) delta[row] = sum;
}

int32_t check(int64_t batch, int64_t seq_len, int64_t n_heads, int64_t n_kv_heads, int64_t head_dim, int64_t ld_q,
              int64_t ld_kv, int64_t ld_out, int64_t window) {
  ESP_REQUIRE(batch >= 0 && seq_len > 0 && n_heads > 0 && n_kv_heads > 0 && head_dim > 0,
              "bad sizes: batch=%ld seq_len=%ld n_heads=%ld n_kv_heads=%ld head_dim=%ld", batch, seq_len, n_heads,
              n_kv_heads, head_dim);
  ESP_REQUIRE(n_heads % n_kv_heads == 0, "n_kv_heads=%ld does not divide n_heads=%ld", n_kv_heads, n_heads);
  ESP_REQUIRE(head_dim <= kLargestHead, "head_dim must be in [1, %ld], got %ld", kLargestHead, head_dim);
  ESP_REQUIRE(ld_q >= n_heads * head_dim && ld_kv >= n_kv_heads * head_dim && ld_out >= n_heads * head_dim,
              "ld_q=%ld, ld_kv=%ld or ld_out=%ld is shorter than a row", ld_q, ld_kv, ld_out);
  ESP_REQUIRE(window >= 0, "window must not be negative, got %ld", window);
  /* A grid has batch * n_heads columns and at most 65535 rows, each a tile of 32 queries or keys. */
  ESP_REQUIRE(seq_len <= 65535 * 32 && n_heads <= INT_MAX && batch <= INT_MAX / n_heads,
              "too large: batch=%ld seq_len=%ld n_heads=%ld", batch, seq_len, n_heads);
  return ESP_OK;
}

Shape shape_of(int64_t batch, int64_t seq_len, int64_t n_heads, int64_t n_kv_heads, int64_t head_dim, int64_t ld_q,
               int64_t ld_kv, int64_t ld_out, float scale, float softcap, int64_t window) {
  return {batch,
          ld_q,
          ld_kv,
          ld_out,
          static_cast<int>(seq_len),
          static_cast<int>(n_heads),
          static_cast<int>(n_kv_heads),
          static_cast<int>(head_dim),
          window < seq_len ? static_cast<int>(window) : 0,
          scale,
          softcap};
}

/* Whether tiles can be copied 16 bytes at a time. */
bool fits_tensor_cores(const Shape &s, std::initializer_list<const void *> tensors) {
  return s.ld_q % 8 == 0 && s.ld_kv % 8 == 0 && s.ld_out % 8 == 0 && in_packs<bf16>(s.head_dim, tensors);
}

}  // namespace
}  // namespace esp::attention

namespace attention = esp::attention;

int32_t esp_attention_forward(const void *q_, int64_t ld_q, const void *k_, const void *v_, int64_t ld_kv, void *out_,
                              int64_t ld_out, float *lse, int64_t batch, int64_t seq_len, int64_t n_heads,
                              int64_t n_kv_heads, int64_t head_dim, float scale, float softcap, int64_t window,
                              int32_t dtype) {
  const int32_t status = attention::check(batch, seq_len, n_heads, n_kv_heads, head_dim, ld_q, ld_kv, ld_out, window);
  if (status != ESP_OK) return status;
  const attention::Shape s =
      attention::shape_of(batch, seq_len, n_heads, n_kv_heads, head_dim, ld_q, ld_kv, ld_out, scale, softcap, window);
  return esp::with_type(dtype, [&](auto type) {
    using T = decltype(type);
    const auto *q = static_cast<const T *>(q_), *k = static_cast<const T *>(k_), *v = static_cast<const T *>(v_);
    auto *out = static_cast<T *>(out_);
    if constexpr (std::is_same_v<T, esp::bf16>) {
      if (attention::fits_tensor_cores(s, {q, k, v, out})) {
        return esp::has_hopper() ? attention::forward_by_warpgroups(s, q, k, v, out, lse)
                                 : attention::forward_by_tensor_cores(s, q, k, v, out, lse);
      }
    }
    return attention::forward_blocked(s, q, k, v, out, lse);
  });
}

int32_t esp_attention_backward(const void *q_, int64_t ld_q, const void *k_, const void *v_, int64_t ld_kv,
                               const void *out_, int64_t ld_out, const float *lse, const void *d_out_, float *delta,
                               void *d_q_, void *d_k_, void *d_v_, int64_t batch, int64_t seq_len, int64_t n_heads,
                               int64_t n_kv_heads, int64_t head_dim, float scale, float softcap, int64_t window,
                               int32_t dtype) {
  const int32_t status = attention::check(batch, seq_len, n_heads, n_kv_heads, head_dim, ld_q, ld_kv, ld_out, window);
  if (status != ESP_OK) return status;
  const attention::Shape s = attention::shape_of(batch, seq_len, n_heads, n_kv_heads, head_dim, ld_q, ld_kv,
                                                 n_heads * head_dim, scale, softcap, window);
  const int64_t rows = batch * seq_len * n_heads;
  return esp::with_packs(dtype, head_dim | ld_out, {out_, d_out_}, [&](auto type, auto width) {
    using T = decltype(type);
    constexpr int N = decltype(width)::value;
    const auto *q = static_cast<const T *>(q_), *k = static_cast<const T *>(k_), *v = static_cast<const T *>(v_);
    const auto *out = static_cast<const T *>(out_), *d_out = static_cast<const T *>(d_out_);
    auto *d_q = static_cast<T *>(d_q_), *d_k = static_cast<T *>(d_k_), *d_v = static_cast<T *>(d_v_);
    const int32_t launched =
        ESP_LAUNCH((attention::rowsum<T, N>), (rows + esp::kThreads / 32 - 1) / (esp::kThreads / 32), esp::kThreads,
                   out, ld_out, d_out, delta, rows, n_heads, head_dim);
    if (launched != ESP_OK) return launched;
    if constexpr (std::is_same_v<T, esp::bf16>) {
      if (attention::fits_tensor_cores(s, {q, k, v, d_out, d_q, d_k, d_v})) {
        const attention::Tensors x{q, k, v, lse, d_out, delta, d_q, d_k, d_v};
        return esp::has_hopper() ? attention::backward_by_warpgroups(s, x) : attention::backward_by_tensor_cores(s, x);
      }
    }
    return attention::backward_blocked(s, q, k, v, lse, d_out, delta, d_q, d_k, d_v);
  });
}
