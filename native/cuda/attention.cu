/*
 * Causal grouped-query attention with online softmax (Milakov & Gimelshein 2018; Dao et al. 2022), and its gradients in
 * two kernels without atomics: one by queries, one by keys.
 *
 *   s = softcap(scale q.k);  out = sum_j softmax(s)_j v_j;  p = exp(s - lse);  ds = p (d_out.v - delta) s'(q.k)
 *   d_q = sum_j ds k_j;  d_k = sum_i ds q_i;  d_v = sum_i p d_out_i;  delta = d_out.out
 *
 * A warp takes a query (or a key) of one head, whose rows lie in shared memory. It goes through the other rows in
 * order, 32 at a time: first a lane takes a row and computes its products, then a lane takes 8 columns and adds what
 * the 32 rows give. Nothing of size [seq_len, seq_len] exists, and every sum has one order. 4 head_dim FLOPs a pair
 * forward, 10 backward, in float32 without tensor cores: the plain version, against which a tiled one is to be
 * measured. Not run on a GPU yet.
 */
#include <cfloat>

#include "device.cuh"

namespace {

constexpr int kWarps = esp::kThreads / 32;
constexpr int kLargestHead = 256; /* 3 rows of it a warp are 24 KB of shared memory a block */
constexpr int kPerLane = kLargestHead / 32;

struct Shape {
  int64_t batch, seq_len, n_heads, n_kv_heads, head_dim, ld_q, ld_kv, window;
  float scale, softcap;

  __device__ int64_t first_key(int64_t i) const { return window > 0 && i >= window ? i - window + 1 : 0; }
  __device__ int64_t end_query(int64_t j) const { return window > 0 && j + window < seq_len ? j + window : seq_len; }
};

/* What a lane adds up: columns l, l + 32, ... of a row. */
struct Columns {
  float x[kPerLane];

  __device__ void clear() {
    for (float &value : x) value = 0;
  }
  __device__ void scale(float factor) {
    for (float &value : x) value *= factor;
  }
  __device__ void add(float factor, const float *row, int64_t head_dim) {
    for (int e = 0; e < kPerLane; e++) {
      const int64_t c = lane() + 32 * e;
      if (c < head_dim) x[e] += factor * row[c];
    }
  }
  __device__ void store(float *row, int64_t head_dim) const {
    for (int e = 0; e < kPerLane; e++) {
      const int64_t c = lane() + 32 * e;
      if (c < head_dim) row[c] = x[e];
    }
  }
  static __device__ int64_t lane() { return static_cast<int64_t>(threadIdx.x % 32); }
};

/* A warp's own row in shared memory. */
__device__ inline void fetch(const float *row, float *shared, int64_t head_dim) {
  for (int64_t c = Columns::lane(); c < head_dim; c += 32) shared[c] = row[c];
  __syncwarp();
}

/* By one lane. */
__device__ inline float dot(const float *a, const float *b, int64_t head_dim) {
  float sum = 0;
  for (int64_t c = 0; c < head_dim; c++) sum += a[c] * b[c];
  return sum;
}

__device__ inline float warp_max(float value) {
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    const float other = __shfl_xor_sync(esp::kAllLanes, value, lanes);
    value = other > value ? other : value;
  }
  return value;
}

/* s of a pair, and its derivative by q.k. */
struct Score {
  float s, slope;

  __device__ Score(float dot, const Shape &shape) : s(dot * shape.scale), slope(shape.scale) {
    if (shape.softcap > 0) {
      const float t = tanhf(s / shape.softcap);
      s = shape.softcap * t;
      slope = shape.scale * (1.0f - t * t);
    }
  }
};

__global__ void forward(const float *q, const float *k, const float *v, float *out, float *lse, Shape s) {
  __shared__ float queries[kWarps][kLargestHead], factors[kWarps][32];
  const int warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kWarps + warp;
  if (index >= s.batch * s.seq_len * s.n_heads) return; /* the whole warp */
  const int64_t t = index / s.n_heads, head = index % s.n_heads, i = t % s.seq_len;
  const int64_t kv = (t - i) * s.ld_kv + head / (s.n_heads / s.n_kv_heads) * s.head_dim;
  float *query = queries[warp], *factor = factors[warp];
  fetch(q + t * s.ld_q + head * s.head_dim, query, s.head_dim);
  Columns sum;
  sum.clear();
  float largest = -FLT_MAX, total = 0; /* total: of this lane's keys */
  for (int64_t base = s.first_key(i); base <= i; base += 32) {
    const int64_t j = base + lane;
    const bool sees = j <= i;
    const float score = sees ? Score(dot(query, k + kv + j * s.ld_kv, s.head_dim), s).s : -FLT_MAX;
    const float tile = warp_max(score), raised = tile > largest ? tile : largest;
    const float keep = expf(largest - raised), p = sees ? expf(score - raised) : 0.0f;
    total = total * keep + p;
    largest = raised;
    factor[lane] = p;
    __syncwarp();
    sum.scale(keep);
    const int64_t rows = i - base < 31 ? i - base + 1 : 32;
    for (int64_t r = 0; r < rows; r++) sum.add(factor[r], v + kv + (base + r) * s.ld_kv, s.head_dim);
    __syncwarp(); /* before factors are written again */
  }
  total = esp::warp_sum(total);
  sum.scale(1.0f / total);
  sum.store(out + index * s.head_dim, s.head_dim);
  if (lane == 0) lse[index] = largest + logf(total);
}

__global__ void by_query(const float *q, const float *k, const float *v, const float *out, const float *lse,
                         const float *d_out, float *delta, float *d_q, Shape s) {
  __shared__ float queries[kWarps][kLargestHead], gradients[kWarps][kLargestHead], factors[kWarps][32];
  const int warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kWarps + warp;
  if (index >= s.batch * s.seq_len * s.n_heads) return;
  const int64_t t = index / s.n_heads, head = index % s.n_heads, i = t % s.seq_len;
  const int64_t kv = (t - i) * s.ld_kv + head / (s.n_heads / s.n_kv_heads) * s.head_dim;
  float *query = queries[warp], *gradient = gradients[warp], *factor = factors[warp];
  fetch(q + t * s.ld_q + head * s.head_dim, query, s.head_dim);
  fetch(d_out + index * s.head_dim, gradient, s.head_dim);
  float own = 0;
  for (int64_t c = lane; c < s.head_dim; c += 32) own += gradient[c] * out[index * s.head_dim + c];
  const float beside = esp::warp_sum(own);
  if (lane == 0) delta[index] = beside;
  Columns sum;
  sum.clear();
  for (int64_t base = s.first_key(i); base <= i; base += 32) {
    const int64_t j = base + lane;
    float ds = 0;
    if (j <= i) {
      const Score score(dot(query, k + kv + j * s.ld_kv, s.head_dim), s);
      const float along = dot(gradient, v + kv + j * s.ld_kv, s.head_dim);
      ds = expf(score.s - lse[index]) * (along - beside) * score.slope;
    }
    factor[lane] = ds;
    __syncwarp();
    const int64_t rows = i - base < 31 ? i - base + 1 : 32;
    for (int64_t r = 0; r < rows; r++) sum.add(factor[r], k + kv + (base + r) * s.ld_kv, s.head_dim);
    __syncwarp();
  }
  sum.store(d_q + t * s.ld_q + head * s.head_dim, s.head_dim);
}

__global__ void by_key(const float *q, const float *k, const float *v, const float *lse, const float *d_out,
                       const float *delta, float *d_k, float *d_v, Shape s) {
  __shared__ float keys[kWarps][kLargestHead], values[kWarps][kLargestHead], factors[kWarps][32], weights[kWarps][32];
  const int warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kWarps + warp;
  if (index >= s.batch * s.seq_len * s.n_kv_heads) return;
  const int64_t t = index / s.n_kv_heads, kv_head = index % s.n_kv_heads, j = t % s.seq_len, first = t - j;
  const int64_t group = s.n_heads / s.n_kv_heads, at = t * s.ld_kv + kv_head * s.head_dim, end = s.end_query(j);
  float *key = keys[warp], *value = values[warp], *factor = factors[warp], *weight = weights[warp];
  fetch(k + at, key, s.head_dim);
  fetch(v + at, value, s.head_dim);
  Columns d_key, d_value;
  d_key.clear();
  d_value.clear();
  for (int64_t head = kv_head * group; head < (kv_head + 1) * group; head++) {
    const float *query = q + first * s.ld_q + head * s.head_dim;
    const float *gradient = d_out + (first * s.n_heads + head) * s.head_dim;
    for (int64_t base = j; base < end; base += 32) {
      const int64_t i = base + lane;
      float ds = 0, p = 0;
      if (i < end) {
        const int64_t row = (first + i) * s.n_heads + head;
        const Score score(dot(query + i * s.ld_q, key, s.head_dim), s);
        p = expf(score.s - lse[row]);
        ds = p * (dot(gradient + i * s.n_heads * s.head_dim, value, s.head_dim) - delta[row]) * score.slope;
      }
      factor[lane] = ds;
      weight[lane] = p;
      __syncwarp();
      const int64_t rows = end - base < 32 ? end - base : 32;
      for (int64_t r = 0; r < rows; r++) {
        d_key.add(factor[r], query + (base + r) * s.ld_q, s.head_dim);
        d_value.add(weight[r], gradient + (base + r) * s.n_heads * s.head_dim, s.head_dim);
      }
      __syncwarp();
    }
  }
  d_key.store(d_k + at, s.head_dim);
  d_value.store(d_v + at, s.head_dim);
}

int32_t check(const Shape &s) {
  ESP_REQUIRE(s.batch >= 0 && s.seq_len > 0 && s.n_heads > 0 && s.n_kv_heads > 0 && s.head_dim > 0,
              "bad sizes: batch=%ld seq_len=%ld n_heads=%ld n_kv_heads=%ld head_dim=%ld", s.batch, s.seq_len, s.n_heads,
              s.n_kv_heads, s.head_dim);
  ESP_REQUIRE(s.n_heads % s.n_kv_heads == 0, "n_kv_heads=%ld does not divide n_heads=%ld", s.n_kv_heads, s.n_heads);
  ESP_REQUIRE(s.head_dim <= kLargestHead, "head_dim must be in [1, %d], got %ld", kLargestHead, s.head_dim);
  ESP_REQUIRE(s.ld_q >= s.n_heads * s.head_dim && s.ld_kv >= s.n_kv_heads * s.head_dim,
              "ld_q=%ld or ld_kv=%ld is shorter than a row", s.ld_q, s.ld_kv);
  ESP_REQUIRE(s.window >= 0, "window must not be negative, got %ld", s.window);
  return ESP_OK;
}

int64_t blocks(const Shape &s, int64_t heads) { return (s.batch * s.seq_len * heads + kWarps - 1) / kWarps; }

}  // namespace

int32_t esp_attention_forward(const void *q_, int64_t ld_q, const void *k_, const void *v_, int64_t ld_kv, void *out_,
                              float *lse, int64_t batch, int64_t seq_len, int64_t n_heads, int64_t n_kv_heads,
                              int64_t head_dim, float scale, float softcap, int64_t window, int32_t dtype) {
  ESP_REQUIRE(dtype == ESP_F32, "only float32 is supported on this device, not type %d", dtype);
  const auto *q = static_cast<const float *>(q_);
  const auto *k = static_cast<const float *>(k_);
  const auto *v = static_cast<const float *>(v_);
  auto *out = static_cast<float *>(out_);
  const Shape s{batch, seq_len, n_heads, n_kv_heads, head_dim, ld_q, ld_kv, window, scale, softcap};
  if (int32_t status = check(s)) return status;
  return ESP_LAUNCH(forward, blocks(s, n_heads), esp::kThreads, q, k, v, out, lse, s);
}

int32_t esp_attention_backward(const void *q_, int64_t ld_q, const void *k_, const void *v_, int64_t ld_kv,
                               const void *out_, const float *lse, const void *d_out_, float *delta, void *d_q_,
                               void *d_k_, void *d_v_, int64_t batch, int64_t seq_len, int64_t n_heads,
                               int64_t n_kv_heads, int64_t head_dim, float scale, float softcap, int64_t window,
                               int32_t dtype) {
  ESP_REQUIRE(dtype == ESP_F32, "only float32 is supported on this device, not type %d", dtype);
  const auto *q = static_cast<const float *>(q_);
  const auto *k = static_cast<const float *>(k_);
  const auto *v = static_cast<const float *>(v_);
  const auto *out = static_cast<const float *>(out_);
  const auto *d_out = static_cast<const float *>(d_out_);
  auto *d_q = static_cast<float *>(d_q_);
  auto *d_k = static_cast<float *>(d_k_);
  auto *d_v = static_cast<float *>(d_v_);
  const Shape s{batch, seq_len, n_heads, n_kv_heads, head_dim, ld_q, ld_kv, window, scale, softcap};
  if (int32_t status = check(s)) return status;
  const int32_t status =
      ESP_LAUNCH(by_query, blocks(s, n_heads), esp::kThreads, q, k, v, out, lse, d_out, delta, d_q, s);
  if (status != ESP_OK) return status;
  return ESP_LAUNCH(by_key, blocks(s, n_kv_heads), esp::kThreads, q, k, v, lse, d_out, delta, d_k, d_v, s);
}
