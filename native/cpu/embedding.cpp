/*
 * Embedding: out[t] = scale * table[ids[t]], and its gradient.
 *
 * Bytes: 8 tokens d forward, 12 tokens d backward in float32; 4 and 10 in bfloat16. Forward, threads take tokens.
 * Backward, many tokens may name the same row. So threads take blocks of columns, and each adds in the order of tokens:
 * no two threads write the same element, and the order of every sum is fixed.
 */
#include "bf16.h"

namespace {

int32_t check(const int32_t *ids, int64_t tokens, int64_t vocab, int64_t d) {
  ESP_REQUIRE(tokens >= 0 && vocab > 0 && d > 0, "bad sizes: tokens=%ld vocab=%ld d=%ld", tokens, vocab, d);
  for (int64_t t = 0; t < tokens; t++) {
    ESP_REQUIRE(ids[t] >= 0 && ids[t] < vocab, "ids[%ld] = %d is not in [0, %ld)", t, ids[t], vocab);
  }
  return ESP_OK;
}

}  // namespace

int32_t esp_embedding_forward(const int32_t *ids, const void *table_, float scale, void *out_, int64_t tokens,
                              int64_t vocab, int64_t d, int32_t dtype) {
  if (int32_t status = check(ids, tokens, vocab, d)) return status;
  return esp::with_type(dtype, [=](auto type) {
    using T = decltype(type);
    const auto *table = static_cast<const T *>(table_);
    auto *out = static_cast<T *>(out_);
    esp::parallel_rows(tokens, d, [=](int64_t t) {
      const T *__restrict row = table + ids[t] * d;
      T *__restrict target = out + t * d;
#pragma omp simd
      for (int64_t c = 0; c < d; c++) target[c] = static_cast<T>(scale * row[c]);
    });
  });
}

int32_t esp_embedding_backward(const int32_t *ids, const void *d_out_, float scale, float *d_table, int64_t tokens,
                               int64_t vocab, int64_t d, int32_t dtype) {
  if (int32_t status = check(ids, tokens, vocab, d)) return status;
  const int64_t blocks = (d + esp::kColumnBlock - 1) / esp::kColumnBlock;
  return esp::with_type(dtype, [=](auto type) {
    using T = decltype(type);
    const auto *d_out = static_cast<const T *>(d_out_);
    esp::parallel_rows(blocks, tokens * esp::kColumnBlock, [=](int64_t block) {
      const int64_t begin = block * esp::kColumnBlock, end = std::min(d, begin + esp::kColumnBlock);
      for (int64_t t = 0; t < tokens; t++) {
        const T *__restrict gradient = d_out + t * d;
        float *__restrict row = d_table + ids[t] * d;
#pragma omp simd
        for (int64_t c = begin; c < end; c++) row[c] += scale * gradient[c];
      }
    });
  });
}
