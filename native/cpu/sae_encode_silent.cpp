/*
 * The k largest pre-activations among the silent latents, for the auxiliary loss that brings these back.
 *
 * 2 tokens d FLOPs per silent latent. Once training runs well there are few of them. So their rows of w_enc are
 * gathered, kGather at a time, and the products leave out all others. Rows of x go in chunks as in sae_encode.cpp.
 */
#include "sae_select.h"

namespace {

/* How many rows of w_enc are gathered at a time: few enough that they fit into the scratch memory of esp_sae_encode for
 * every shape. */
constexpr int64_t kGather = 32;

}  // namespace

int32_t esp_sae_encode_silent(const void *x_, const void *w_enc_, const float *b_enc, const float *b_pre,
                              const float *silent, float limit, int64_t k, const uint8_t *keep, int32_t *index,
                              float *value, int32_t *count, int64_t capacity, float *scratch, int64_t tokens, int64_t d,
                              int64_t m, int32_t dtype) {
  ESP_REQUIRE(tokens >= 0 && d > 0 && m > 0, "bad sizes: tokens=%ld d=%ld m=%ld", tokens, d, m);
  ESP_REQUIRE(k > 0 && k <= m && capacity >= k, "k must be in [1, %ld], got %ld", std::min(m, capacity), k);
  ESP_REQUIRE(dtype == ESP_F32 || b_pre == nullptr, "in bfloat16 b_pre belongs into b_enc: esp_sae_fold_bias");
  /* scratch holds the gathered rows [kGather, d], the numbers of the silent latents [m], and for each row of a chunk x
   * - b_pre and z. */
  int32_t *latents = reinterpret_cast<int32_t *>(scratch + kGather * d);
  float *rest = scratch + kGather * d + m;
  int64_t found = 0;
  for (int64_t i = 0; i < m; i++) {
    if (silent[i] > limit) latents[found++] = static_cast<int32_t>(i);
  }
  if (found == 0) {
    std::fill(count, count + tokens, 0);
    return ESP_OK;
  }
  const int64_t room = esp_sae_encode_scratch(d, m) - kGather * d - m;
  const int64_t chunk = std::min(esp::kChunkRows, room / (d + (m > esp::kPanel ? found : m)));
  float *z = rest + chunk * d;
  return esp::with_type(dtype, [=](auto type) {
    using T = decltype(type);
    const auto *x = static_cast<const T *>(x_), *w_enc = static_cast<const T *>(w_enc_);
    T *gathered = reinterpret_cast<T *>(scratch);
    for (int64_t first = 0; first < tokens; first += chunk) {
      const int64_t rows = std::min(chunk, tokens - first);
      const T *input = esp::less_bias(x + first * d, b_pre, rows, d, rest);
      for (int64_t from = 0; from < found; from += kGather) {
        const int64_t n = std::min(kGather, found - from);
        for (int64_t i = 0; i < n; i++) {
          const T *row = w_enc + latents[from + i] * d;
          std::copy(row, row + d, gathered + i * d);
        }
        esp::gemm(false, true, rows, n, d, 1, input, d, gathered, d, 0, z + from, found);
      }
      esp::parallel_rows(rows, 4 * found, [=](int64_t r) {
        const int64_t t = first + r;
        float *row = z + r * found;
        esp::Entries entries{index + t * capacity, value + t * capacity, nullptr, k};
        if (keep == nullptr || keep[t] == 0) {
          for (int64_t i = 0; i < found; i++) row[i] += b_enc[latents[i]];
          esp::select_topk(row, found, k, entries);
          for (int64_t j = 0; j < entries.count; j++) entries.index[j] = latents[entries.index[j]];
        }
        count[t] = static_cast<int32_t>(entries.count);
      });
    }
  });
}
