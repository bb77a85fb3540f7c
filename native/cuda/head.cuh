/*
 * What the kernels for the losses of a head (head.cu, head_cluster.cu) have in common: capped logits and their
 * exponentials, the terms of a divergence, and where gradients lie. Internal.
 */
#ifndef ESPALIER_CUDA_HEAD_CUH
#define ESPALIER_CUDA_HEAD_CUH

#include "approximate.cuh"
#include "vector.cuh"

namespace esp::head {

constexpr float kLog2E = 1.442695040888963f, kLn2 = 0.6931471805599453f;

struct Softcap {
  float cap; /* 0 for none */
};

/* How logits are capped and exponentiated beside products in T. A level is a capped logit in the units in which a row
 * is summed up: power(level - maximum) = e^(logit - maximum). */
template <typename T>
struct Scale;

/* In float32, by libm. A level is the capped logit itself. */
template <>
struct Scale<float> {
  static constexpr float kNats = 1; /* the nats in a level of 1 */
  float cap, inverse;

  __device__ explicit Scale(Softcap c) : cap(c.cap), inverse(c.cap > 0 ? 1 / c.cap : 0) {}
  __device__ float level(float z) const { return cap > 0 ? cap * tanhf(z * inverse) : z; }
  static __device__ float power(float level) { return expf(level); }
};

/* Logits of bfloat16 activations have lost more digits than approximations lose. So levels are to base 2, and cap *
 * tanh(z / cap) = cap - 2 cap / (1 + e^(2 z / cap)) takes five instructions. The absolute error is below 2^-21 cap, the
 * relative one of powers 2^-22. */
template <>
struct Scale<bf16> {
  static constexpr float kNats = kLn2;
  float cap, inverse, twice;

  __device__ explicit Scale(Softcap c)
      : cap(c.cap * kLog2E), inverse(c.cap > 0 ? 1 / cap : 0), twice(c.cap > 0 ? 2 * kLog2E / c.cap : 0) {}
  __device__ float level(float z) const {
    return cap > 0 ? cap - 2 * cap * reciprocal_approximate(1.0f + exp2_approximate(twice * z)) : kLog2E * z;
  }
  static __device__ float power(float level) { return exp2_approximate(level); }
};

/* d(capped) / d(uncapped) = 1 - tanh^2, computed from the level. */
template <typename T>
__device__ inline float slope(const Scale<T> &scale, float level) {
  const float ratio = level * scale.inverse;
  return 1.0f - ratio * ratio;
}

constexpr float kNothing = -3.402823466e38f; /* below every level, and finite: differences of infinities are NaN */

/* What one vocabulary entry contributes, with q = p e^d. */
struct Entry {
  float divergence; /* p (e^d - 1 - d) */
  float difference; /* q - p */
};

/* For |d| < 1/2 a series, because the differences would cancel. The first term that it leaves out is d^9 / 9!, 1e-8 of
 * what is kept. */
__device__ inline Entry entry(float p, float q, float d) {
  float series = 1.0f / 40320;
  series = series * d + 1.0f / 5040;
  series = series * d + 1.0f / 720;
  series = series * d + 1.0f / 120;
  series = series * d + 1.0f / 24;
  series = series * d + 1.0f / 6;
  series = series * d + 0.5f;
  const float second_order = p * d * d * series;
  const bool near = fabsf(d) < 0.5f;
  return {near ? second_order : q - p - p * d, near ? p * d + second_order : q - p};
}

/* Where a row of logits keeps its gradient. */
template <typename T>
__device__ inline T *gradient_row(float *logits) {
  return reinterpret_cast<T *>(logits);
}

/* How far apart rows of logits are, in floats. A gradient in bfloat16 starts where its row of logits starts. cuBLAS
 * takes slower products if rows do not start at multiples of 16 bytes, so rows are aligned for both. */
inline int64_t row_stride(int64_t vocab) { return (vocab + 7) / 8 * 8; }
static_assert(ESP_LOGITS_ROOM >= 7, "rows begin within the room that the caller leaves");

/* A chunk of rows of KL. Pointers are to its first row. Targets and their losses are NULL if they are not wanted. */
struct KlRows {
  float *student; /* [rows, vocab] logits, rows ld apart, over which the gradient goes */
  const float *teacher;
  Softcap softcap;
  const int32_t *targets;
  float *kl, *ce_student, *ce_teacher;
  bool gradient;
  float grad_scale;
  int64_t vocab, ld;
};

/* Whether clusters take rows of this length, for models in bfloat16 (head_cluster.cu says which). */
bool suits_clusters(int64_t vocab);
/* Does what kl_rows of head.cu does, for rows in whole packs of bfloat16. */
int32_t kl_by_clusters(const KlRows &rows, int64_t count);

}  // namespace esp::head

#endif
