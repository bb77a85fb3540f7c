/* What all kernels of attention share: the shape, which keys a query sees, scores. */
#ifndef ESPALIER_CUDA_ATTENTION_CUH
#define ESPALIER_CUDA_ATTENTION_CUH

#include "approximate.cuh"
#include "bf16.cuh"
#include "device.cuh"

namespace esp::attention {

constexpr int64_t kLargestHead = 256;
constexpr float kLog2E = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

struct Shape {
  int64_t batch, ld_q, ld_kv;
  int64_t ld_out;                                     /* of out, forward */
  int seq_len, n_heads, n_kv_heads, head_dim, window; /* window 0: none */
  float scale, softcap;

  __host__ __device__ int group() const { return n_heads / n_kv_heads; }
  __device__ int64_t ld_d_out() const { return static_cast<int64_t>(n_heads) * head_dim; }

  /* The first key that query i sees. */
  __device__ int first_key(int i) const { return window > 0 && i >= window ? i - window + 1 : 0; }
  /* One past the last query that sees key j. */
  __device__ int end_query(int j) const { return window > 0 && window < seq_len - j ? j + window : seq_len; }
  __device__ bool sees(int query, int key) const {
    return key <= query && query < seq_len && (window == 0 || query - key < window);
  }
  /* Whether every query of [i, i + queries) sees every key of [j, j + keys). */
  __device__ bool sees_all(int i, int queries, int j, int keys) const {
    return sees(i, j + keys - 1) && sees(i + queries - 1, j);
  }

  /* Where a row of a head begins. */
  __device__ int64_t query_at(int64_t sequence, int head, int row) const {
    return (sequence * seq_len + row) * ld_q + static_cast<int64_t>(head) * head_dim;
  }
  __device__ int64_t key_at(int64_t sequence, int kv_head, int row) const {
    return (sequence * seq_len + row) * ld_kv + static_cast<int64_t>(kv_head) * head_dim;
  }
  __device__ int64_t out_at(int64_t sequence, int head, int row) const {
    return (sequence * seq_len + row) * ld_out + static_cast<int64_t>(head) * head_dim;
  }
  __device__ int64_t d_out_at(int64_t sequence, int head, int row) const {
    return (sequence * seq_len + row) * ld_d_out() + static_cast<int64_t>(head) * head_dim;
  }
  /* Where the statistics of a row are, in [tokens, n_heads]. */
  __device__ int64_t statistic_at(int64_t sequence, int head, int row) const {
    return (sequence * seq_len + row) * n_heads + head;
  }
};

/*
 * Scores in units of log 2, so that only exp2 is left to do, and their slopes ds/d(scale q.k).
 *
 * For bfloat16 they are approximate. With a cap: cap tanh(x) = cap (1 - 2 r), r = 1 / (1 + e^2x), with an absolute
 * error below 2^-20 cap. The instruction tanh.approx.f32 would save one instruction, but its error of 2^-11 cap would
 * be the largest in a score.
 */
struct Scores {
  float product_to_log2, product_to_exponent; /* the second: of 2^.. = e^2x */
  float cap;                                  /* 0: none */

  __device__ explicit Scores(const Shape &s)
      : product_to_log2(s.scale * kLog2E),
        product_to_exponent(s.softcap > 0 ? 2 * kLog2E * s.scale / s.softcap : 0),
        cap(s.softcap > 0 ? s.softcap * kLog2E : 0) {}

  __device__ float rest(float product) const {
    return reciprocal_approximate(1.0f + exp2_approximate(product * product_to_exponent));
  }
  __device__ float capped(float rest_of_tanh) const { return cap - 2.0f * cap * rest_of_tanh; }

  /* Turns products into scores. */
  template <int kTiles>
  __device__ void apply(float (&p)[kTiles][4]) const {
    if (cap > 0) {
#pragma unroll
      for (int n = 0; n < kTiles; n++) {
#pragma unroll
        for (int e = 0; e < 4; e++) p[n][e] = capped(rest(p[n][e]));
      }
    } else {
#pragma unroll
      for (int n = 0; n < kTiles; n++) {
#pragma unroll
        for (int e = 0; e < 4; e++) p[n][e] *= product_to_log2;
      }
    }
  }

  /* Turns a product into p = exp(s - lse); `slope` receives ds/d(scale product). kCapped: whether there is a cap. */
  template <bool kCapped>
  __device__ float probability(float product, float lse_log2, float &slope) const {
    if constexpr (kCapped) {
      const float r = rest(product);
      slope = 4.0f * (r - r * r); /* 1 - tanh^2 */
      return exp2_approximate(capped(r) - lse_log2);
    }
    slope = 1.0f;
    return exp2_approximate(product * product_to_log2 - lse_log2);
  }
  __device__ float probability(float product, float lse_log2, float &slope) const {
    return cap > 0 ? probability<true>(product, lse_log2, slope) : probability<false>(product, lse_log2, slope);
  }
};

/* The maximum over the four lanes that share a row of an accumulator. */
__device__ inline float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, 1));
  return fmaxf(x, __shfl_xor_sync(kAllLanes, x, 2));
}
__device__ inline float quad_sum(float x) {
  x += __shfl_xor_sync(kAllLanes, x, 1);
  return x + __shfl_xor_sync(kAllLanes, x, 2);
}

/* What the gradients are computed from, and the gradients. */
struct Tensors {
  const bf16 *q, *k, *v;
  const float *lse;
  const bf16 *d_out;
  const float *delta;
  bf16 *d_q, *d_k, *d_v;
};

/* On tensor cores. head_dim, lds and pointers must be multiples of 8 elements. */
int32_t forward_by_tensor_cores(const Shape &s, const bf16 *q, const bf16 *k, const bf16 *v, bf16 *out, float *lse);
int32_t backward_by_tensor_cores(const Shape &s, const Tensors &x);

/* On Hopper's tensor cores, if has_hopper(); the same conditions. */
int32_t forward_by_warpgroups(const Shape &s, const bf16 *q, const bf16 *k, const bf16 *v, bf16 *out, float *lse);
int32_t backward_by_warpgroups(const Shape &s, const Tensors &x);

/* With FMAs, for any shape. T is float or bf16. */
template <typename T>
int32_t forward_blocked(const Shape &s, const T *q, const T *k, const T *v, T *out, float *lse);
template <typename T>
int32_t backward_blocked(const Shape &s, const T *q, const T *k, const T *v, const float *lse, const T *d_out,
                         const float *delta, T *d_q, T *d_k, T *d_v);

}  // namespace esp::attention

#endif
