/*
 * SAE encoding: z = w_enc (x - b_pre) + b_enc, then the active latents of each row as a list (index, value).
 *
 * 2 tokens d m FLOPs for z, of which no more than a chunk of 256 to 1024 rows ever has memory. Two ways:
 *
 *   fused    a tensor-core kernel whose epilogue adds the bias, compares, and stores what passes and a bit for each
 *            latent (sae_tile.cuh); a second kernel turns the bits into lists (sae_list.cuh). bfloat16, ESP_RELU and
 *            ESP_JUMPRELU, rows of whole 16 bytes.
 *   library  cuBLAS makes z of the chunk; a second kernel selects, reading each z once or, for ESP_TOPK, three or four
 *            times (sae_largest.cuh). float32 (no TF32), and whatever the fused kernel is not made for.
 *
 * Which is faster: the library's products go at P_l, ours at P_f FLOP/s, and z takes 8 bytes a latent of memory at B
 * byte/s: fused, if 2 d / P_f < 2 d / P_l + 8 / B. On an H200, with 700 and 400 TFLOP/s (mma.sync reaches about 60 % of
 * what wgmma does) and 4.3 TB/s, that is d < 870; on an A100, with 260 and 210 TFLOP/s and 1.5 TB/s, d < 2900. The rule
 * is d <= 1024 until it is measured. Not run on a GPU yet.
 */
#include "sae_dense.cuh"
#include "sae_group.cuh"
#include "sae_largest.cuh"
#include "sae_tile.cuh"

namespace {

constexpr int64_t kWidestFused = 1024;

bool is_fused(const esp::Encoder &encoder, int32_t kind) {
  return encoder.dtype == ESP_BF16 && (kind == ESP_RELU || kind == ESP_JUMPRELU) && encoder.d <= kWidestFused &&
         esp::in_packs<esp::bf16>(encoder.d, {encoder.x, encoder.w_enc});
}

int32_t encode_fused(const esp::Encoder &encoder, const esp::Scratch &scratch, const esp::Gate &gate, int64_t first,
                     int64_t rows, const esp::Lists &lists) {
  const int64_t tiles = (rows + esp::kTile - 1) / esp::kTile * ((encoder.m + esp::kTile - 1) / esp::kTile);
  const int32_t status = ESP_LAUNCH_SHARED(
      esp::encode_tile, tiles, esp::kTileThreads, esp::kTileBytes, static_cast<const esp::bf16 *>(encoder.row(first)),
      static_cast<const esp::bf16 *>(encoder.w_enc), encoder.bias(scratch), gate, scratch.rows, rows, encoder.d);
  if (status != ESP_OK) return status;
  return ESP_LAUNCH(esp::list_rows<esp::Marked>, rows, esp::kThreads, esp::Marked{scratch.rows, gate}, lists);
}

int32_t encode_dense(const esp::Encoder &encoder, const esp::Scratch &scratch, int32_t kind, const esp::Gate &gate,
                     int64_t k, int64_t first, int64_t rows, const esp::Lists &lists) {
  const int32_t status = encoder.multiply(scratch, first, rows);
  if (status != ESP_OK) return status;
  const float *bias = encoder.bias(scratch);
  switch (kind) {
    case ESP_TOPK:
      return ESP_LAUNCH(esp::list_rows<esp::Largest>, rows, esp::kThreads,
                        esp::Largest{scratch.rows, bias, k, nullptr, 0}, lists);
    case ESP_GROUPMAX:
      return ESP_LAUNCH(esp::list_groups, rows, esp::kThreads, scratch.rows, bias, k, lists);
    default:
      return ESP_LAUNCH(esp::list_rows<esp::Dense>, rows, esp::kThreads, esp::Dense{scratch.rows, bias, gate}, lists);
  }
}

}  // namespace

/* Any z is summed over d alone and in one order; whole tiles, so that slices fill theirs. */
int64_t esp_sae_encode_panel(int64_t group) {
  if (group <= 0) return esp::fail(ESP_INVALID_ARGUMENT, "no groups of %ld latents", group);
  return group > esp::kTile ? group : esp::kTile / group * group;
}

int64_t esp_sae_encode_scratch(int64_t d, int64_t m) {
  if (d <= 0 || m <= 0) return esp::fail(ESP_INVALID_ARGUMENT, "bad sizes: d=%ld m=%ld", d, m);
  return esp::Scratch(nullptr, d, m).floats;
}

int32_t esp_sae_encode(const void *x, const void *w_enc, const float *b_enc, const float *b_pre, int32_t kind,
                       const float *threshold, float margin, int64_t k, const uint8_t *keep, int32_t *index,
                       float *value, float *pre, int32_t *count, int64_t capacity, int32_t *overflow, float *scratch,
                       int64_t tokens, int64_t d, int64_t m, int32_t dtype) {
  ESP_REQUIRE(dtype == ESP_F32 || dtype == ESP_BF16, "activations are float32 or bfloat16, not of type %d", dtype);
  ESP_REQUIRE(tokens >= 0 && d > 0 && m > 0 && capacity > 0, "bad sizes: tokens=%ld d=%ld m=%ld capacity=%ld", tokens,
              d, m, capacity);
  ESP_REQUIRE(kind >= ESP_RELU && kind <= ESP_GROUPMAX, "no SAE kind %d", kind);
  ESP_REQUIRE((kind == ESP_JUMPRELU) == (threshold != nullptr), "threshold belongs to ESP_JUMPRELU, and only to it");
  const bool counted = kind == ESP_TOPK || kind == ESP_GROUPMAX;
  ESP_REQUIRE(!counted || (k > 0 && k <= m), "k must be in [1, %ld], got %ld", m, k);
  ESP_REQUIRE(kind != ESP_GROUPMAX || m % k == 0, "%ld latents do not make %ld equal groups", m, k);
  const esp::Encoder encoder{x, w_enc, b_enc, b_pre, d, m, dtype};
  const esp::Scratch parts(scratch, d, m);
  const esp::Gate gate{threshold, margin};
  const esp::Lists lists{index, value, pre, count, keep, capacity, overflow};
  int32_t status = encoder.prepare(parts);
  const int64_t chunk = esp::chunk_rows(m);
  for (int64_t first = 0; first < tokens && status == ESP_OK; first += chunk) {
    const int64_t rows = std::min(chunk, tokens - first);
    status = is_fused(encoder, kind) ? encode_fused(encoder, parts, gate, first, rows, lists.from(first))
                                     : encode_dense(encoder, parts, kind, gate, k, first, rows, lists.from(first));
  }
  return status;
}
