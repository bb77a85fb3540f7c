/*
 * The language-model head fused with its losses. It works on a chunk of tokens at a time: one product gives the logits
 * of the chunk; then each row's statistics are computed, and the gradient takes the place of the logits; a second
 * product gives the gradient of the hidden states. Logits of more than a chunk never exist.
 *
 * FLOPs. KL: 6 tokens vocab d (4 without the gradient). CE: 2 tokens vocab d, 4 with d_hidden, 6 with d_head too. Both
 * need 2 exponentials per token and vocabulary entry. The head is read from memory once per product and chunk.
 *
 * KL(p || q) is summed as p (e^d - 1 - d), d = log q - log p. This equals the usual sum of -p d, since p and q both sum
 * to 1. But here every term is positive and of second order in d: nothing cancels where student and teacher nearly
 * agree, and equal inputs give exactly 0. The gradient q - p is taken from d in the same way.
 *
 * Measured (Zen 5, one core, 512 tokens, d 576, vocab 49152), KL with gradient: 761 ms in chunks of 80 tokens, 541 in
 * chunks of 256, 509 in one of 512. The statistics and gradients of rows are 32 ms of it.
 */
#include <cmath>
#include <cstring>
#include <vector>

#include "bf16.h"
#include "vector_math.h"

namespace {

struct Statistics {
  float maximum;
  double sum; /* of e^(z - maximum) */

  double log_sum_exp() const { return static_cast<double>(maximum) + std::log(sum); }
};

/* The sum of term(i) over [0, n): in float32 within a block, with the sums of blocks added in float64. (With float64
 * throughout, a row takes a fifth longer in all.) */
template <typename Term>
inline double sum_of(int64_t n, const Term &term) {
  constexpr int64_t kBlock = 256;
  double total = 0;
  for (int64_t first = 0; first < n; first += kBlock) {
    const int64_t end = std::min(n, first + kBlock);
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = first; i < end; i++) sum += term(i);
    total += static_cast<double>(sum);
  }
  return total;
}

/* The statistics of a row of logits z [n]. powers [n], if given, receive e^(z - maximum). */
Statistics softmax_statistics(const float *z, int64_t n, float *powers) {
  float maximum = z[0];
#pragma omp simd reduction(max : maximum)
  for (int64_t i = 0; i < n; i++) maximum = z[i] > maximum ? z[i] : maximum;
  if (powers == nullptr) return {maximum, sum_of(n, [=](int64_t i) { return esp::exp(z[i] - maximum); })};
  return {maximum, sum_of(n, [=](int64_t i) { return powers[i] = esp::exp(z[i] - maximum); })};
}

void cap_logits(float *z, int64_t n, float cap) {
  if (cap <= 0) return;
  const float inverse = 1 / cap;
#pragma omp simd
  for (int64_t i = 0; i < n; i++) z[i] = cap * esp::tanh(z[i] * inverse);
}

/* What one vocabulary entry contributes, with q = p e^d. */
struct Entry {
  float divergence; /* p (e^d - 1 - d) */
  float difference; /* q - p */
};

/* For |d| < 1/2 a series, because the differences would cancel. The first term that it leaves out is d^9 / 9!, 1e-8 of
 * what is kept. */
inline Entry entry(float p, float q, float d) {
  float series = 1.0f / 40320;
  series = series * d + 1.0f / 5040;
  series = series * d + 1.0f / 720;
  series = series * d + 1.0f / 120;
  series = series * d + 1.0f / 24;
  series = series * d + 1.0f / 6;
  series = series * d + 0.5f;
  const float second_order = p * d * d * series;
  const float a = d < 0 ? -d : d;
  const bool near = a < 0.5f;
  return {near ? second_order : q - p - p * d, near ? p * d + second_order : q - p};
}

/* A row of logits and their powers e^(z - maximum). */
struct Row {
  const float *z, *powers;
  Statistics statistics;
};

/* The KL of a row. gradient [n] receives scale * d(kl) / d(logits before the cap), and may be the student's z. It is
 * computed even if nobody wants it: in a loop without it the compiler would round the KL differently. */
float kl_row(const Row &student, const Row &teacher, int64_t n, float cap, float *gradient, float scale) {
  const float shift = static_cast<float>(student.statistics.log_sum_exp() - teacher.statistics.log_sum_exp());
  const float s_inverse = static_cast<float>(1 / student.statistics.sum);
  const float t_inverse = static_cast<float>(1 / teacher.statistics.sum);
  const float inverse_cap = cap > 0 ? 1 / cap : 0;
  return static_cast<float>(sum_of(n, [=](int64_t i) {
    const float q = student.powers[i] * s_inverse, p = teacher.powers[i] * t_inverse;
    const Entry e = entry(p, q, (student.z[i] - teacher.z[i]) - shift);
    const float ratio = student.z[i] * inverse_cap;
    gradient[i] = scale * e.difference * (1.0f - ratio * ratio);
    return e.divergence;
  }));
}

float cross_entropy(const float *z, const Statistics &s, int32_t target) {
  if (target < 0) return 0;
  return static_cast<float>(s.log_sum_exp() - static_cast<double>(z[target]));
}

/* z becomes scale * d(ce) / d(logits before the cap) = scale * (softmax(z) - onehot(target)) * slope of the cap. */
void cross_entropy_gradient(float *z, const Statistics &s, int64_t n, int32_t target, float cap, float scale) {
  if (target < 0) {
    std::fill(z, z + n, 0.0f);
    return;
  }
  const float inverse = static_cast<float>(1 / s.sum), inverse_cap = cap > 0 ? 1 / cap : 0;
  const float target_ratio = z[target] * inverse_cap;
#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    const float ratio = z[i] * inverse_cap;
    z[i] = scale * (esp::exp(z[i] - s.maximum) * inverse) * (1.0f - ratio * ratio);
  }
  z[target] -= scale * (1.0f - target_ratio * target_ratio);
}

/* From one row of logits to the next. Vocabularies often have a power of two as their size; rows so far apart fall into
 * the same few sets of a cache, and the product that reads them would copy them all first. 1024 x 4096 x 256 takes 0.88
 * of the time with rows of 4112 that it takes with rows of 4096 (Emerald Rapids, two threads, medians in turn). */
int64_t row_length(int64_t vocab) { return vocab + ESP_LOGITS_ROOM; }

/* Rounds a row of floats to T, in place from the row's beginning. Rows are then kTerms<T> times as many elements apart.
 */
template <typename T>
void round_in_place(float *row, int64_t n) {
  if constexpr (!std::is_same_v<T, float>) {
    constexpr int64_t kBlock = 256;
    T rounded[kBlock];
    for (int64_t first = 0; first < n; first += kBlock) {
      const int64_t count = std::min(kBlock, n - first);
      esp::round_row(row + first, rounded, count);
      /* What lies beyond these elements has not been read yet, so it is not written yet. */
      std::memcpy(reinterpret_cast<char *>(row) + first * static_cast<int64_t>(sizeof(T)), rounded,
                  static_cast<size_t>(count) * sizeof(T));
    }
  }
}

int32_t check(const int32_t *targets, int64_t chunk, int64_t tokens, int64_t d, int64_t vocab) {
  ESP_REQUIRE(tokens >= 0 && d > 0 && vocab > 0 && chunk > 0, "bad sizes: tokens=%ld d=%ld vocab=%ld chunk=%ld", tokens,
              d, vocab, chunk);
  for (int64_t t = 0; targets != nullptr && t < tokens; t++) {
    ESP_REQUIRE(targets[t] < vocab, "targets[%ld] = %d is not below vocab = %ld", t, targets[t], vocab);
  }
  return ESP_OK;
}

}  // namespace

int32_t esp_head_kl(const void *student_, const void *teacher_, const void *head_, float softcap,
                    const int32_t *targets, float *kl, float *ce_student, float *ce_teacher, void *d_student_,
                    float grad_scale, float *scratch, int64_t chunk, int64_t tokens, int64_t d, int64_t vocab,
                    int32_t dtype) {
  if (int32_t status = check(targets, chunk, tokens, d, vocab)) return status;
  ESP_REQUIRE((targets == nullptr) == (ce_student == nullptr) && (targets == nullptr) == (ce_teacher == nullptr),
              "targets, ce_student and ce_teacher must be all given or all NULL");
  return esp::with_type(dtype, [=](auto type) {
    using T = decltype(type);
    const auto *student = static_cast<const T *>(student_), *teacher = static_cast<const T *>(teacher_);
    const auto *head = static_cast<const T *>(head_);
    auto *d_student = static_cast<T *>(d_student_);
    const int64_t ld = row_length(vocab);
    float *student_logits = scratch, *teacher_logits = scratch + chunk * ld;
    for (int64_t first = 0; first < tokens; first += chunk) {
      const int64_t rows = std::min(chunk, tokens - first);
      esp::gemm(false, true, rows, vocab, d, 1, student + first * d, d, head, d, 0, student_logits, ld);
      esp::gemm(false, true, rows, vocab, d, 1, teacher + first * d, d, head, d, 0, teacher_logits, ld);
      esp::parallel_rows(rows, 64 * vocab, [=](int64_t r) {
        float *zs = student_logits + r * ld, *zt = teacher_logits + r * ld;
        cap_logits(zs, vocab, softcap);
        cap_logits(zt, vocab, softcap);
        static thread_local std::vector<float> powers;
        powers.resize(static_cast<size_t>(2 * vocab));
        float *ps = powers.data(), *pt = ps + vocab;
        const Statistics s = softmax_statistics(zs, vocab, ps), t = softmax_statistics(zt, vocab, pt);
        if (targets != nullptr) {
          ce_student[first + r] = cross_entropy(zs, s, targets[first + r]);
          ce_teacher[first + r] = cross_entropy(zt, t, targets[first + r]);
        }
        kl[first + r] = kl_row({zs, ps, s}, {zt, pt, t}, vocab, softcap, zs, grad_scale);
        if (d_student != nullptr) round_in_place<T>(zs, vocab);
      });
      if (d_student != nullptr) {
        esp::gemm(false, false, rows, d, vocab, 1, reinterpret_cast<const T *>(student_logits), esp::kTerms<T> * ld,
                  head, d, 0, d_student + first * d, d);
      }
    }
  });
}

int32_t esp_head_ce(const void *hidden_, const void *head_, float softcap, const int32_t *targets, float *ce,
                    void *d_hidden_, float *d_head, float grad_scale, float *scratch, int64_t chunk, int64_t tokens,
                    int64_t d, int64_t vocab, int32_t dtype) {
  if (int32_t status = check(targets, chunk, tokens, d, vocab)) return status;
  ESP_REQUIRE(targets != nullptr, "targets is NULL");
  return esp::with_type(dtype, [=](auto type) {
    using T = decltype(type);
    const auto *hidden = static_cast<const T *>(hidden_), *head = static_cast<const T *>(head_);
    auto *d_hidden = static_cast<T *>(d_hidden_);
    const bool gradient = d_hidden != nullptr || d_head != nullptr;
    const T *gradients = reinterpret_cast<const T *>(scratch);
    const int64_t ld = row_length(vocab);
    for (int64_t first = 0; first < tokens; first += chunk) {
      const int64_t rows = std::min(chunk, tokens - first);
      esp::gemm(false, true, rows, vocab, d, 1, hidden + first * d, d, head, d, 0, scratch, ld);
      esp::parallel_rows(rows, 32 * vocab, [=](int64_t r) {
        float *z = scratch + r * ld;
        const int32_t target = targets[first + r];
        cap_logits(z, vocab, softcap);
        const Statistics s = softmax_statistics(z, vocab, nullptr);
        ce[first + r] = cross_entropy(z, s, target);
        if (!gradient) return;
        cross_entropy_gradient(z, s, vocab, target, softcap, grad_scale);
        round_in_place<T>(z, vocab);
      });
      if (d_hidden != nullptr) {
        esp::gemm(false, false, rows, d, vocab, 1, gradients, esp::kTerms<T> * ld, head, d, 0, d_hidden + first * d, d);
      }
      if (d_head != nullptr) {
        esp::gemm(true, false, vocab, d, rows, 1, gradients, esp::kTerms<T> * ld, hidden + first * d, d, 1, d_head, d);
      }
    }
  });
}
