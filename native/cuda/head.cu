/*
 * The language-model head fused with its losses. It works on a chunk of tokens at a time: one product gives the logits
 * of the chunk (gemm.cu); one kernel computes statistics and losses, and puts the gradient in the place of the logits;
 * further products give the gradients of hidden states and of the head. That is a launch or two a chunk beside the
 * products.
 *
 * FLOPs. KL: 6 tokens vocab d (4 without the gradient). CE: 2 tokens vocab d, 4 with d_hidden, 6 with d_head too. The
 * kernel for rows reads float32 logits twice and writes the gradient once: with a gradient in bfloat16 18 (KL) or 10
 * (CE) bytes a logit, 4 or 2 exponentials, and as many tanh if there is a cap.
 *
 * Rows. A block takes a row, and a thread takes packs of it that are a block apart. The softmax is online (Milakov &
 * Gimelshein 2018): each thread keeps the maximum of what it has seen and the sum of e^(z - maximum), in float64
 * between packs.
 *
 * The gradient is stored in the type that the next product takes. A row in bfloat16 starts where its row of float32
 * logits starts and takes half of it, so rows are twice as many elements apart. Threads meet between reading packs and
 * storing them, and what is stored lies before what is still to be read.
 *
 * KL(p || q) is summed as p (e^d - 1 - d), d = log q - log p. This equals the usual sum of -p d, since p and q both sum
 * to 1. But here every term is positive and of second order in d: nothing cancels where student and teacher nearly
 * agree, and equal inputs give exactly 0. The gradient q - p is taken from d in the same way.
 *
 * Time on an H200 for 1024 tokens of 256000 in bfloat16: 1.38 ms measured. Computed: 1.2 ms for the bytes at the 3.9
 * TB/s of a copy; 0.5 ms for about 60 instructions for a logit of both models; 0.8 ms for the 12 of these that go to
 * special function units, 16 a cycle. So the second reading had to be avoided. But the rows in flight, two a
 * multiprocessor with 2 MB each, are ten times the size of L2. Therefore, on Hopper, clusters keep such rows of KL in
 * shared memory (head_cluster.cu).
 *
 * The host cannot look at targets: one that is not below vocab makes the loss NaN.
 */
#include <algorithm>

#include "gemm.cuh"
#include "head.cuh"

using namespace esp::head;

namespace {

/* Two blocks a multiprocessor, so that one computes while the other waits for memory. That leaves 64 registers a
 * thread. */
constexpr int kRowThreads = 512, kRowBlocks = 2;

/* The statistics of a row, or of a part of it: sum is the sum of power(level - maximum). */
template <typename T>
struct Statistics {
  float maximum;
  double sum;

  __device__ double log_sum_exp() const {
    return static_cast<double>(Scale<T>::kNats) * static_cast<double>(maximum) + log(sum);
  }

  template <int N>
  __device__ void add(const esp::Pack<N> &levels) {
    float top = levels[0];
    for (int i = 1; i < N; i++) top = fmaxf(top, levels[i]);
    if (top > maximum) {
      sum *= static_cast<double>(Scale<T>::power(maximum - top));
      maximum = top;
    }
    float part = 0;
    for (int i = 0; i < N; i++) part += Scale<T>::power(levels[i] - maximum);
    sum += static_cast<double>(part);
  }
};

/* The statistics of the whole row from each thread's part. All threads must call it. */
template <typename T>
__device__ Statistics<T> together(const Statistics<T> &own) {
  __shared__ float warps[kRowThreads / 32];
  float maximum = own.maximum;
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    maximum = fmaxf(maximum, __shfl_xor_sync(esp::kAllLanes, maximum, lanes));
  }
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = maximum;
  __syncthreads();
  for (unsigned w = 0; w < blockDim.x / 32; w++) maximum = fmaxf(maximum, warps[w]);
  const double sum = own.sum == 0 ? 0 : own.sum * static_cast<double>(Scale<T>::power(own.maximum - maximum));
  return {maximum, esp::block_sum(sum)};
}

template <int N, typename T>
__device__ inline esp::Pack<N> levels(const float *row, int64_t i, const Scale<T> &scale) {
  esp::Pack<N> z = esp::load<N>(row + i);
  for (int j = 0; j < N; j++) z[j] = scale.level(z[j]);
  return z;
}

template <typename T>
__device__ inline float cross_entropy(const float *row, const Statistics<T> &s, int32_t target, int64_t vocab,
                                      const Scale<T> &scale) {
  if (target < 0) return 0;
  if (target >= vocab) return nanf("");
  const double of_target = static_cast<double>(Scale<T>::kNats) * static_cast<double>(scale.level(row[target]));
  return static_cast<float>(s.log_sum_exp() - of_target);
}

/* The losses of a row of KL. If it is wanted, grad_scale * d(kl) / d(logits before the cap) is written over the
 * student's logits. */
template <typename T, int N>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks) kl_rows(KlRows rows) {
  const int64_t r = blockIdx.x, vocab = rows.vocab;
  const Scale<T> scale(rows.softcap);
  float *zs = rows.student + r * rows.ld;
  const float *zt = rows.teacher + r * rows.ld;
  Statistics<T> s{kNothing, 0}, t{kNothing, 0};
  for (int64_t i = threadIdx.x * N; i < vocab; i += kRowThreads * N) {
    s.add(levels<N>(zs, i, scale));
    t.add(levels<N>(zt, i, scale));
  }
  s = together(s);
  t = together(t);
  if (rows.targets != nullptr && threadIdx.x == 0) {
    rows.ce_student[r] = cross_entropy(zs, s, rows.targets[r], vocab, scale);
    rows.ce_teacher[r] = cross_entropy(zt, t, rows.targets[r], vocab, scale);
  }
  const float shift = static_cast<float>(s.log_sum_exp() - t.log_sum_exp());
  const float s_inverse = static_cast<float>(1 / s.sum), t_inverse = static_cast<float>(1 / t.sum);
  double divergence = 0;
  __syncthreads(); /* the target's logit has been read */
  for (int64_t first = 0; first < vocab; first += kRowThreads * N) {
    const int64_t i = first + threadIdx.x * N;
    esp::Pack<N> z{};
    if (i < vocab) {
      z = levels<N>(zs, i, scale);
      const esp::Pack<N> other = levels<N>(zt, i, scale);
      float part = 0;
      for (int j = 0; j < N; j++) {
        const float q = Scale<T>::power(z[j] - s.maximum) * s_inverse;
        const float p = Scale<T>::power(other[j] - t.maximum) * t_inverse;
        const Entry e = entry(p, q, Scale<T>::kNats * (z[j] - other[j]) - shift);
        part += e.divergence;
        z[j] = rows.grad_scale * e.difference * slope(scale, z[j]);
      }
      divergence += static_cast<double>(part);
    }
    if (rows.gradient) {
      if constexpr (sizeof(T) < sizeof(float)) __syncthreads();
      if (i < vocab) esp::store(gradient_row<T>(zs) + i, z);
    }
  }
  divergence = esp::block_sum(divergence);
  if (threadIdx.x == 0) rows.kl[r] = static_cast<float>(divergence);
}

/* The same for cross-entropy, whose gradient is grad_scale * (softmax(z) - onehot(target)) * slope of the cap; 0 for
 * rows without a target. */
template <typename T, int N>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks)
    cross_entropy_rows(float *logits, Softcap softcap, const int32_t *targets, float *ce, bool gradient,
                       float grad_scale, int64_t vocab, int64_t ld) {
  const int64_t r = blockIdx.x;
  const Scale<T> scale(softcap);
  const int32_t target = targets[r];
  float *row = logits + r * ld;
  Statistics<T> s{kNothing, 0};
  for (int64_t i = threadIdx.x * N; i < vocab && target >= 0; i += kRowThreads * N) s.add(levels<N>(row, i, scale));
  s = together(s);
  if (threadIdx.x == 0) ce[r] = cross_entropy(row, s, target, vocab, scale);
  if (!gradient) return;
  const float inverse = static_cast<float>(1 / s.sum);
  __syncthreads(); /* the target's logit has been read */
  for (int64_t first = 0; first < vocab; first += kRowThreads * N) {
    const int64_t i = first + threadIdx.x * N;
    esp::Pack<N> z{};
    if (i < vocab && target >= 0) {
      z = levels<N>(row, i, scale);
      for (int j = 0; j < N; j++) {
        const float q = Scale<T>::power(z[j] - s.maximum) * inverse;
        z[j] = grad_scale * (i + j == target ? q - 1.0f : q) * slope(scale, z[j]);
      }
    }
    if constexpr (sizeof(T) < sizeof(float)) __syncthreads();
    if (i < vocab) esp::store(gradient_row<T>(row) + i, z);
  }
}

int32_t check(const char *kernel, int64_t chunk, int64_t tokens, int64_t d, int64_t vocab) {
  ESP_REQUIRE(tokens >= 0 && d > 0 && vocab > 0 && chunk > 0, "bad sizes: tokens=%ld d=%ld vocab=%ld chunk=%ld", tokens,
              d, vocab, chunk);
  ESP_REQUIRE(vocab < INT64_C(1) << 30 && d < INT64_C(1) << 31 && chunk < INT64_C(1) << 31,
              "sizes are too large: d=%ld vocab=%ld chunk=%ld", d, vocab, chunk);
  return esp::require_gemm(kernel);
}

/* Row `row` of a matrix [rows, d] of activations. */
template <typename T>
const T *row_of(const void *matrix, int64_t row, int64_t d) {
  return static_cast<const T *>(matrix) + row * d;
}

}  // namespace

int32_t esp_head_kl(const void *student, const void *teacher, const void *head, float softcap, const int32_t *targets,
                    float *kl, float *ce_student, float *ce_teacher, void *d_student, float grad_scale, float *scratch,
                    int64_t chunk, int64_t tokens, int64_t d, int64_t vocab, int32_t dtype) {
  if (int32_t status = check("esp_head_kl", chunk, tokens, d, vocab)) return status;
  ESP_REQUIRE((targets == nullptr) == (ce_student == nullptr) && (targets == nullptr) == (ce_teacher == nullptr),
              "targets, ce_student and ce_teacher must be all given or all NULL");
  const int64_t ld = row_stride(vocab);
  float *student_logits = scratch, *teacher_logits = scratch + chunk * ld;
  return esp::with_packs(dtype, vocab, {student_logits, teacher_logits}, [&](auto type, auto width) -> int32_t {
    using T = decltype(type);
    constexpr int N = decltype(width)::value;
    constexpr int64_t kSpread = sizeof(float) / sizeof(T); /* how many times ld the rows of the gradient are apart */
    const bool by_clusters = std::is_same_v<T, esp::bf16> && N > 1 && suits_clusters(vocab);
    for (int64_t first = 0; first < tokens; first += chunk) {
      const int64_t count = std::min(chunk, tokens - first);
      int32_t status = esp::gemm(false, true, count, vocab, d, 1, row_of<T>(student, first, d), d, head, d, 0,
                                 student_logits, ld, ESP_F32, dtype);
      if (status != ESP_OK) return status;
      status = esp::gemm(false, true, count, vocab, d, 1, row_of<T>(teacher, first, d), d, head, d, 0, teacher_logits,
                         ld, ESP_F32, dtype);
      if (status != ESP_OK) return status;
      const bool wanted = targets != nullptr;
      const KlRows rows{student_logits,
                        teacher_logits,
                        Softcap{softcap},
                        wanted ? targets + first : nullptr,
                        kl + first,
                        wanted ? ce_student + first : nullptr,
                        wanted ? ce_teacher + first : nullptr,
                        d_student != nullptr,
                        grad_scale,
                        vocab,
                        ld};
      status = by_clusters ? kl_by_clusters(rows, count) : ESP_LAUNCH((kl_rows<T, N>), count, kRowThreads, rows);
      if (status != ESP_OK) return status;
      if (d_student == nullptr) continue;
      status = esp::gemm(false, false, count, d, vocab, 1, student_logits, kSpread * ld, head, d, 0,
                         static_cast<T *>(d_student) + first * d, d, dtype, dtype);
      if (status != ESP_OK) return status;
    }
    return ESP_OK;
  });
}

int32_t esp_head_ce(const void *hidden, const void *head, float softcap, const int32_t *targets, float *ce,
                    void *d_hidden, float *d_head, float grad_scale, float *scratch, int64_t chunk, int64_t tokens,
                    int64_t d, int64_t vocab, int32_t dtype) {
  if (int32_t status = check("esp_head_ce", chunk, tokens, d, vocab)) return status;
  ESP_REQUIRE(targets != nullptr, "targets is NULL");
  const int64_t ld = row_stride(vocab);
  const bool gradient = d_hidden != nullptr || d_head != nullptr;
  return esp::with_packs(dtype, vocab, {scratch}, [&](auto type, auto width) -> int32_t {
    using T = decltype(type);
    constexpr int N = decltype(width)::value;
    constexpr int64_t kSpread = sizeof(float) / sizeof(T);
    for (int64_t first = 0; first < tokens; first += chunk) {
      const int64_t rows = std::min(chunk, tokens - first);
      const T *in = row_of<T>(hidden, first, d);
      int32_t status = esp::gemm(false, true, rows, vocab, d, 1, in, d, head, d, 0, scratch, ld, ESP_F32, dtype);
      if (status != ESP_OK) return status;
      status = ESP_LAUNCH((cross_entropy_rows<T, N>), rows, kRowThreads, scratch, Softcap{softcap}, targets + first,
                          ce + first, gradient, grad_scale, vocab, ld);
      if (status == ESP_OK && d_hidden != nullptr) {
        status = esp::gemm(false, false, rows, d, vocab, 1, scratch, kSpread * ld, head, d, 0,
                           static_cast<T *>(d_hidden) + first * d, d, dtype, dtype);
      }
      if (status == ESP_OK && d_head != nullptr) {
        status = esp::gemm(true, false, vocab, d, rows, 1, scratch, kSpread * ld, in, d, 1, d_head, d, ESP_F32, dtype);
      }
      if (status != ESP_OK) return status;
    }
    return ESP_OK;
  });
}
