/*
 * SAE encoding: z = w_enc (x - b_pre) + b_enc, then the active latents of each row as a list of (index, value).
 *
 * z is dense and takes 2 tokens d m FLOPs. What follows reads z once or twice while it is in cache. Rows are processed
 * in chunks of kChunkRows, latents in panels of kPanel. For each chunk and panel all threads compute the product; then
 * each thread takes rows, whose lists are continued from panel to panel. The selection compares 64 latents at a time
 * with vector instructions and gets a word that says which are active. Top-k first looks for a number that k of all z
 * exceed, so that hardly more than k remain to choose from.
 *
 * Measured:
 *
 *   Emerald Rapids, two cores, 1024 tokens, d 256, m 4096, least of 21, where the product alone takes 6.1 to 6.4 ms:
 *   the top 32 7.8 ms, those above their thresholds 7.5, the positive ones 7.1. An earlier version, which looked at
 *   latents one by one and kept the k largest in a heap: 8.6, 8.5 and 8.1.
 *
 *   Zen 3, two cores, beside other work, k 32. m 65536, least of 5: 560 ms; with one panel of all latents and chunks of
 *   64 rows, so that z has 16 MB, too: 662. 1024 tokens, d 768, m 131072, least of 3: 2.9 s; with one panel 3.6.
 */
#include "sae_select.h"

namespace {

/* z += b_enc. Returns whether any z is NaN. */
bool add_bias(float *z, const float *b_enc, int64_t m) {
  int nan = 0;
#pragma omp simd reduction(| : nan)
  for (int64_t i = 0; i < m; i++) {
    z[i] += b_enc[i];
    nan |= z[i] != z[i] ? 1 : 0;
  }
  return nan != 0;
}

/* Stands in the place of a row's number of entries if a z was NaN. */
constexpr int64_t kNaN = -1;

/* Adds the active latents of a panel to a row's list. */
void select(const float *z, int32_t kind, const float *threshold, float margin, int64_t k, int64_t latents, int64_t m,
            esp::Entries &entries) {
  switch (kind) {
    case ESP_RELU:
      return esp::select_relu(z, latents, entries);
    case ESP_JUMPRELU:
      return esp::select_jumprelu(z, threshold, margin, latents, entries);
    case ESP_TOPK:
      return esp::select_topk(z, latents, k, entries);
    default:
      return esp::select_groupmax(z, latents, m / k, entries);
  }
}

/* About `latents`, rounded to whole groups. */
int64_t whole_groups(int64_t group, int64_t latents) { return group > latents ? group : latents / group * group; }

}  // namespace

/* How many latents belong together when an SAE is divided. As z of a latent does not depend on the others (see
 * gemm.cpp), one group would do; more stay together only for the sake of cache lines. */
int64_t esp_sae_encode_panel(int64_t group) {
  if (group <= 0) return esp::fail(ESP_INVALID_ARGUMENT, "no groups of %ld latents", group);
  return whole_groups(group, 64);
}

int64_t esp_sae_encode_scratch(int64_t d, int64_t m) {
  if (d <= 0 || m <= 0) return esp::fail(ESP_INVALID_ARGUMENT, "bad sizes: d=%ld m=%ld", d, m);
  if (m <= esp::kPanel) return esp::kChunkRows * (d + m);
  /* Twice m more: a group of latents may be wider than a panel, and esp_sae_encode_silent also keeps a list of latents
   * here. */
  return esp::kChunkRows * (d + esp::kPanel) + 2 * m;
}

int32_t esp_sae_encode(const void *x_, const void *w_enc_, const float *b_enc, const float *b_pre, int32_t kind,
                       const float *threshold, float margin, int64_t k, const uint8_t *keep, int32_t *index,
                       float *value, float *pre, int32_t *count, int64_t capacity, [[maybe_unused]] int32_t *overflow,
                       float *scratch, int64_t tokens, int64_t d, int64_t m, int32_t dtype) {
  ESP_REQUIRE(tokens >= 0 && d > 0 && m > 0 && capacity > 0, "bad sizes: tokens=%ld d=%ld m=%ld capacity=%ld", tokens,
              d, m, capacity);
  ESP_REQUIRE(kind >= ESP_RELU && kind <= ESP_GROUPMAX, "no SAE kind %d", kind);
  ESP_REQUIRE((kind == ESP_JUMPRELU) == (threshold != nullptr), "threshold belongs to ESP_JUMPRELU, and only to it");
  const bool counted = kind == ESP_TOPK || kind == ESP_GROUPMAX;
  ESP_REQUIRE(!counted || (k > 0 && k <= m), "k must be in [1, %ld], got %ld", m, k);
  ESP_REQUIRE(kind != ESP_GROUPMAX || m % k == 0, "%ld latents do not make %ld equal groups", m, k);
  ESP_REQUIRE(dtype == ESP_F32 || b_pre == nullptr, "in bfloat16 b_pre belongs into b_enc: esp_sae_fold_bias");
  const int64_t panel = whole_groups(kind == ESP_GROUPMAX ? m / k : 1, esp::kPanel);
  const int64_t chunk = std::clamp<int64_t>(esp::kChunkRows * esp::kPanel / panel, 1, esp::kChunkRows);
  return esp::with_type(dtype, [=](auto type) -> int32_t {
    using T = decltype(type);
    const auto *x = static_cast<const T *>(x_), *w_enc = static_cast<const T *>(w_enc_);
    float *z = scratch + chunk * d;
    int64_t longest = 0;
    for (int64_t first = 0; first < tokens; first += chunk) {
      const int64_t rows = std::min(chunk, tokens - first);
      const T *input = esp::less_bias(x + first * d, b_pre, rows, d, scratch);
      for (int64_t from = 0; from < m; from += panel) {
        const int64_t latents = std::min(panel, m - from);
        esp::gemm(false, true, rows, latents, d, 1, input, d, w_enc + from * d, d, 0, z, latents);
        esp::parallel_rows(rows, 4 * latents, [=](int64_t r) {
          const int64_t t = first + r;
          if (from == 0) count[t] = 0;
          if (keep != nullptr && keep[t] != 0) return;
          esp::Entries entries{index + t * capacity,
                               value + t * capacity,
                               pre == nullptr ? nullptr : pre + t * capacity,
                               capacity,
                               count[t],
                               from};
          if (entries.count == kNaN || add_bias(z + r * latents, b_enc + from, latents)) {
            entries.count = kNaN;
          } else {
            select(z + r * latents, kind, threshold == nullptr ? nullptr : threshold + from, margin, k, latents, m,
                   entries);
          }
          if (from + latents == m && entries.count == kNaN) entries.replace_by_nan();
          count[t] = static_cast<int32_t>(entries.count);
        });
      }
      for (int64_t r = 0; r < rows; r++) longest = std::max<int64_t>(longest, count[first + r]);
    }
    if (longest > capacity) {
      return esp::fail(ESP_CAPACITY, "a row has %ld active latents, the list has room for %ld", longest, capacity);
    }
    return ESP_OK;
  });
}
