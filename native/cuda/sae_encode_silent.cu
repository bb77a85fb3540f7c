/*
 * The k largest pre-activations among the silent latents, for the auxiliary loss that brings these back.
 *
 * Only the device knows how many latents are silent. So z is computed for all latents, a chunk of rows at a time, and
 * the others are left out when the largest are searched: 2 tokens d m FLOPs, as much as encoding itself. Once training
 * runs well few latents are silent. A product of their rows alone would save much, but these rows are too few to be
 * worth it.
 */
#include "sae_dense.cuh"
#include "sae_largest.cuh"

int32_t esp_sae_encode_silent(const void *x, const void *w_enc, const float *b_enc, const float *b_pre,
                              const float *silent, float limit, int64_t k, const uint8_t *keep, int32_t *index,
                              float *value, int32_t *count, int64_t capacity, float *scratch, int64_t tokens, int64_t d,
                              int64_t m, int32_t dtype) {
  ESP_REQUIRE(dtype == ESP_F32 || dtype == ESP_BF16, "activations are float32 or bfloat16, not of type %d", dtype);
  ESP_REQUIRE(tokens >= 0 && d > 0 && m > 0, "bad sizes: tokens=%ld d=%ld m=%ld", tokens, d, m);
  ESP_REQUIRE(k > 0 && k <= m && capacity >= k, "k must be in [1, %ld], got %ld", std::min(m, capacity), k);
  ESP_REQUIRE(dtype == ESP_F32 || b_pre == nullptr, "in bfloat16 b_pre belongs into b_enc: esp_sae_fold_bias");
  const esp::Encoder encoder{x, w_enc, b_enc, b_pre, d, m, dtype};
  const esp::Scratch parts(scratch, d, m);
  const esp::Lists lists{index, value, nullptr, count, keep, capacity, nullptr};
  return esp::for_chunks(tokens, m, m, [&](int64_t first, int64_t rows, const esp::Slice &whole) {
    const void *input = nullptr;
    int32_t status = encoder.centre(parts, first, rows, input);
    if (status == ESP_OK) status = encoder.multiply(parts, input, rows, whole);
    if (status != ESP_OK) return status;
    return ESP_LAUNCH(esp::list_rows<esp::Largest>, rows, esp::kThreads,
                      esp::Largest{parts.rows(m), encoder.b_enc, k, silent, limit}, lists.from(first));
  });
}
