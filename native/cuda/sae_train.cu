/*
 * What training an SAE's own weights needs: d_pre from d_value, with the straight-through gradient of thresholds; the
 * gradients of the weights, which are summed up by the reverse index (sae_by_latent.cu); and rows kept at norm 1.
 *
 * weight_backward: 4 d FLOPs and 2 d elements an entry, 16 d bytes an active latent: bound by memory. A block takes a
 * latent and a strip of its columns, a thread a pack of them. Entries are added in ascending order of tokens; 32 to 512
 * of them are staged in shared memory at a time. No other block touches these rows, so there are no atomics. A latent
 * that is active in every token keeps one block a strip busy: it reads 75 MB for 8192 tokens at d 2304 in bfloat16.
 *
 * activation_backward: a warp takes a latent for the gradient of thresholds, then a token. normalize_rows,
 * remove_parallel: a block takes a row; 8 and 12 d bytes.
 */
#include "sae_strips.cuh"
#include "vector.cuh"

namespace {

constexpr int kWarps = esp::kThreads / 32;

inline int64_t blocks_of_warps(int64_t n) { return (n + kWarps - 1) / kWarps; }

__device__ inline int64_t warp_index() { return static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32; }

__device__ inline int lane_index() { return static_cast<int>(threadIdx.x % 32); }

__global__ void threshold_gradient(const float *d_value, const float *pre, const float *threshold,
                                   const float *sparsity, float bandwidth, float *d_threshold, const int32_t *offsets,
                                   const int32_t *by_latent, int64_t m) {
  const int64_t i = warp_index();
  if (i >= m) return; /* the whole warp */
  const float theta = threshold[i];
  const double l0 = sparsity == nullptr ? 0 : static_cast<double>(sparsity[1]);
  double sum = 0;
  for (int32_t at = offsets[i] + lane_index(); at < offsets[i + 1]; at += 32) {
    const int32_t entry = by_latent[at];
    if (!(fabsf(pre[entry] - theta) < 0.5f * bandwidth)) continue;
    sum += static_cast<double>(theta) * static_cast<double>(d_value[entry]) + l0;
  }
  sum = esp::warp_sum(sum);
  if (lane_index() == 0) {
    d_threshold[i] = static_cast<float>(static_cast<double>(d_threshold[i]) - sum / static_cast<double>(bandwidth));
  }
}

/* threshold is NULL for kinds without thresholds. */
__global__ void activation_gradient(float *d_value, const float *pre, const float *value, const int32_t *index,
                                    const int32_t *count, int64_t capacity, const float *threshold,
                                    const float *sparsity, int64_t tokens) {
  const int64_t t = warp_index();
  if (t >= tokens) return;
  const float l1 = sparsity == nullptr ? 0 : sparsity[0];
  for (int64_t entry = t * capacity + lane_index(); entry < t * capacity + count[t]; entry += 32) {
    if (threshold == nullptr) {
      d_value[entry] += l1;
    } else {
      const bool active = pre[entry] > threshold[index[entry]] && pre[entry] > 0;
      d_value[entry] = (active ? d_value[entry] : 0.0f) + (value[entry] > 0 ? l1 : 0.0f);
    }
  }
}

template <typename T, int N>
__global__ void weight_gradient(const T *x, const float *b_pre, const T *d_out, const float *value, const float *d_pre,
                                const int32_t *offsets, const int32_t *by_latent, int64_t capacity, float *d_w_enc,
                                float *d_b_enc, float *d_w_dec, int64_t d) {
  __shared__ int32_t tokens[512];
  __shared__ float values[512], gradients[512];
  const int64_t i = blockIdx.x, c = (static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x) * N;
  const int32_t thread = static_cast<int32_t>(threadIdx.x), threads = static_cast<int32_t>(blockDim.x);
  const int32_t begin = offsets[i], end = offsets[i + 1];
  if (begin == end) return; /* the whole block */
  esp::Pack<N> centre{}, encoder{}, decoder{};
  if (b_pre != nullptr && c < d) centre = esp::load<N>(b_pre + c);
  double bias = 0;
  for (int32_t first = begin; first < end; first += threads) {
    const int32_t entries = end - first < threads ? end - first : threads;
    __syncthreads(); /* nobody reads the previous entries any more */
    if (thread < entries) {
      const int32_t entry = by_latent[first + thread];
      tokens[thread] = static_cast<int32_t>(entry / capacity);
      values[thread] = value[entry];
      gradients[thread] = d_pre[entry];
      bias += static_cast<double>(d_pre[entry]);
    }
    __syncthreads();
    if (c >= d) continue;
#pragma unroll 2
    for (int32_t j = 0; j < entries; j++) {
      const float v = values[j], g = gradients[j];
      const esp::Pack<N> row = esp::load<N>(x + tokens[j] * d + c), dy = esp::load<N>(d_out + tokens[j] * d + c);
      for (int n = 0; n < N; n++) {
        encoder[n] += g * (row[n] - centre[n]);
        decoder[n] += v * dy[n];
      }
    }
  }
  if (c < d) {
    const esp::Pack<N> enc = esp::load<N>(d_w_enc + i * d + c), dec = esp::load<N>(d_w_dec + i * d + c);
    for (int n = 0; n < N; n++) {
      encoder[n] += enc[n];
      decoder[n] += dec[n];
    }
    esp::store(d_w_enc + i * d + c, encoder);
    esp::store(d_w_dec + i * d + c, decoder);
  }
  if (blockIdx.y != 0) return;
  bias = esp::block_sum(bias);
  if (thread == 0) d_b_enc[i] = static_cast<float>(static_cast<double>(d_b_enc[i]) + bias);
}

__global__ void normalize_rows(float *w, int64_t d) {
  float *row = w + static_cast<int64_t>(blockIdx.x) * d;
  double squares = 0;
  for (int64_t c = threadIdx.x; c < d; c += esp::kThreads) {
    squares += static_cast<double>(row[c]) * static_cast<double>(row[c]);
  }
  squares = esp::block_sum(squares);
  if (squares == 0) return;
  const float inverse = static_cast<float>(1 / sqrt(squares));
  for (int64_t c = threadIdx.x; c < d; c += esp::kThreads) row[c] *= inverse;
}

__global__ void remove_parallel(const float *w, float *grad, int64_t d) {
  const float *row = w + static_cast<int64_t>(blockIdx.x) * d;
  float *gradient = grad + static_cast<int64_t>(blockIdx.x) * d;
  double squares = 0, dot = 0;
  for (int64_t c = threadIdx.x; c < d; c += esp::kThreads) {
    squares += static_cast<double>(row[c]) * static_cast<double>(row[c]);
    dot += static_cast<double>(row[c]) * static_cast<double>(gradient[c]);
  }
  squares = esp::block_sum(squares);
  dot = esp::block_sum(dot);
  if (squares == 0) return;
  const float along = static_cast<float>(dot / squares);
  for (int64_t c = threadIdx.x; c < d; c += esp::kThreads) gradient[c] -= along * row[c];
}

}  // namespace

int32_t esp_sae_activation_backward(float *d_value, const float *pre, const float *value, const int32_t *index,
                                    const int32_t *count, int64_t capacity, int32_t kind, const float *threshold,
                                    const float *sparsity, float bandwidth, float *d_threshold, const int32_t *offsets,
                                    const int32_t *by_latent, int64_t tokens, int64_t m) {
  ESP_REQUIRE(tokens >= 0 && m > 0 && capacity > 0, "bad sizes: tokens=%ld m=%ld capacity=%ld", tokens, m, capacity);
  ESP_REQUIRE(kind >= ESP_RELU && kind <= ESP_GROUPMAX, "no SAE kind %d", kind);
  const bool jump = kind == ESP_JUMPRELU;
  ESP_REQUIRE(!jump || (threshold != nullptr && pre != nullptr), "ESP_JUMPRELU needs threshold and pre");
  if (jump && d_threshold != nullptr) {
    ESP_REQUIRE(offsets != nullptr && by_latent != nullptr && bandwidth > 0,
                "d_threshold needs offsets, by_latent and a positive bandwidth");
    const int32_t status = ESP_LAUNCH(threshold_gradient, blocks_of_warps(m), esp::kThreads, d_value, pre, threshold,
                                      sparsity, bandwidth, d_threshold, offsets, by_latent, m);
    if (status != ESP_OK) return status;
  }
  return ESP_LAUNCH(activation_gradient, blocks_of_warps(tokens), esp::kThreads, d_value, pre, value, index, count,
                    capacity, jump ? threshold : nullptr, sparsity, tokens);
}

int32_t esp_sae_weight_backward(const void *x, const float *b_pre, const void *d_out, const float *value,
                                const float *d_pre, const int32_t *offsets, const int32_t *by_latent, int64_t capacity,
                                float *d_w_enc, float *d_b_enc, float *d_w_dec, int64_t d, int64_t m, int32_t dtype) {
  ESP_REQUIRE(d > 0 && m > 0 && capacity > 0, "bad sizes: d=%ld m=%ld capacity=%ld", d, m, capacity);
  return esp::with_packs(dtype, d, {x, b_pre, d_out, d_w_enc, d_w_dec}, [&](auto type, auto width) {
    using T = decltype(type);
    constexpr int N = decltype(width)::value;
    const esp::Strips strips(d, N);
    return ESP_LAUNCH((weight_gradient<T, N>), dim3(esp::grid_of(m).x, strips.count), strips.threads,
                      static_cast<const T *>(x), b_pre, static_cast<const T *>(d_out), value, d_pre, offsets, by_latent,
                      capacity, d_w_enc, d_b_enc, d_w_dec, d);
  });
}

int32_t esp_normalize_rows(float *w, int64_t rows, int64_t d) {
  ESP_REQUIRE(rows >= 0 && d > 0, "bad sizes: rows=%ld d=%ld", rows, d);
  return ESP_LAUNCH(normalize_rows, rows, esp::kThreads, w, d);
}

int32_t esp_remove_parallel(const float *w, float *grad, int64_t rows, int64_t d) {
  ESP_REQUIRE(rows >= 0 && d > 0, "bad sizes: rows=%ld d=%ld", rows, d);
  return ESP_LAUNCH(remove_parallel, rows, esp::kThreads, w, grad, d);
}
