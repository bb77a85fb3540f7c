/*
 * SAE encoding: z = w_enc (x - b_pre) + b_enc, then the active latents of each row as a list of (index, value).
 *
 * z takes 2 tokens d m FLOPs. There is memory for 1024 rows of 65536 latents of it at a time (sae_dense.cuh); lists are
 * continued from one slice of latents to the next. There are two ways:
 *
 *   fused    a tensor-core kernel, which then adds the bias, compares, and stores what passes, and a bit for each
 *            latent (sae_tile.cuh). A second kernel turns the bits into lists (sae_words.cuh). For bfloat16, ESP_RELU
 *            and ESP_JUMPRELU, and rows of whole 16 bytes.
 *   library  cuBLAS computes z of the slice. A second kernel makes such bits of it (sae_mark.cuh), and the same kernel
 *            as above turns them into lists. For ESP_TOPK whole rows of z are read, three or four times
 *            (sae_largest.cuh). For float32 (no TF32), and whatever the fused kernel is not made for.
 *
 * Which is faster: let cuBLAS make P_l FLOP/s and our kernel P_f. With cuBLAS z takes 8 more bytes a latent, at B
 * byte/s. So fused is faster if 2 d / P_f < 2 d / P_l + 8 / B. On an H200, with 700 and 400 TFLOP/s and 4.3 TB/s, that
 * is d < 870; with the 200 TFLOP/s that kernels of mma.sync have made there (linear.cu), d < 260. On an A100, with 260
 * and 210 TFLOP/s and 1.5 TB/s, it is d < 2900. The rule is d <= 1024 until it is measured.
 *
 * Measured on an H200 (1f7a513: bfloat16, d 2304, 1024 tokens, ESP_JUMPRELU, 70 active, library), ms:
 *
 *   m                                  16384    65536   262144   1048576
 *   encoding                           0.156    0.557     2.16      9.05
 *   the product alone, to bfloat16     0.111    0.433     1.63      6.98
 *   an earlier version                  0.21     1.10     4.11      15.9
 *
 * The earlier version did not divide latents into slices, and had no separate kernel that makes bits.
 */
#include "sae_dense.cuh"
#include "sae_group.cuh"
#include "sae_largest.cuh"
#include "sae_mark.cuh"
#include "sae_tile.cuh"
#include "sae_words.cuh"

namespace {

constexpr int64_t kWidestFused = 1024;

bool is_fused(const esp::Encoder &encoder, int32_t kind) {
  return encoder.dtype == ESP_BF16 && (kind == ESP_RELU || kind == ESP_JUMPRELU) && encoder.d <= kWidestFused &&
         esp::in_packs<esp::bf16>(encoder.d, {encoder.x, encoder.w_enc});
}

/* What is selected, and how. */
struct Selection {
  int32_t kind;
  esp::Gate gate;
  int64_t k;
};

/* How many consecutive latents must not be parted by slices. */
int64_t unit_of(const Selection &selection, int64_t m) {
  switch (selection.kind) {
    case ESP_TOPK:
      return m;
    case ESP_GROUPMAX:
      return m / selection.k;
    default:
      return 1024; /* whole tiles, and rows of w_enc that are aligned like the first */
  }
}

int32_t encode_fused(const esp::Encoder &encoder, const esp::Scratch &scratch, const esp::Gate &gate, int64_t first,
                     int64_t rows, const esp::Slice &slice, const esp::Lists &lists) {
  const esp::Rows z = scratch.rows(slice.latents);
  const int64_t tiles = (rows + esp::kTile - 1) / esp::kTile * ((slice.latents + esp::kTile - 1) / esp::kTile);
  const int32_t status = ESP_LAUNCH_SHARED(esp::encode_tile, tiles, esp::kTileThreads, esp::kTileBytes,
                                           static_cast<const esp::bf16 *>(encoder.row(first)),
                                           static_cast<const esp::bf16 *>(encoder.weights(slice)),
                                           encoder.b_enc + slice.first, gate.from(slice.first), z, rows, encoder.d);
  if (status != ESP_OK) return status;
  return ESP_LAUNCH(esp::list_marked, rows, esp::kThreads, esp::Marked{z, nullptr, gate.from(slice.first), slice},
                    lists);
}

/* Lists the active latents of a slice. Its z exist, without the bias. */
int32_t select(const Selection &selection, const esp::Rows &z, const float *bias, int64_t m, int64_t rows,
               const esp::Slice &slice, const esp::Lists &lists) {
  switch (selection.kind) {
    case ESP_TOPK:
      return ESP_LAUNCH(esp::list_rows<esp::Largest>, rows, esp::kThreads,
                        esp::Largest{z, bias, selection.k, nullptr, 0}, lists);
    case ESP_GROUPMAX:
      return ESP_LAUNCH(esp::list_groups, rows, esp::kThreads, z, bias, m / selection.k, slice, lists);
    default: {
      const esp::Gate gate = selection.gate.from(slice.first);
      const int32_t status =
          ESP_LAUNCH(esp::mark, esp::blocks_to_mark(slice.latents, rows), esp::kThreads, z, bias, gate, rows);
      if (status != ESP_OK) return status;
      return ESP_LAUNCH(esp::list_marked, rows, esp::kThreads, esp::Marked{z, bias, gate, slice}, lists);
    }
  }
}

}  // namespace

/* Every z is summed over d alone and in one order, so one group would do. It is whole tiles, so that slices fill
 * theirs. */
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
  ESP_REQUIRE(dtype == ESP_F32 || b_pre == nullptr, "in bfloat16 b_pre belongs into b_enc: esp_sae_fold_bias");
  const esp::Encoder encoder{x, w_enc, b_enc, b_pre, d, m, dtype};
  const esp::Scratch parts(scratch, d, m);
  const Selection selection{kind, {threshold, kind == ESP_JUMPRELU ? margin : 0}, k};
  const esp::Lists lists{index, value, pre, count, keep, capacity, overflow};
  const void *input = nullptr;
  return esp::for_chunks(tokens, m, unit_of(selection, m), [&](int64_t first, int64_t rows, const esp::Slice &slice) {
    const esp::Lists own = lists.from(first);
    if (is_fused(encoder, kind)) return encode_fused(encoder, parts, selection.gate, first, rows, slice, own);
    int32_t status = slice.begins ? encoder.centre(parts, first, rows, input) : ESP_OK;
    if (status == ESP_OK) status = encoder.multiply(parts, input, rows, slice);
    if (status != ESP_OK) return status;
    return select(selection, parts.rows(slice.latents), encoder.b_enc + slice.first, m, rows, slice, own);
  });
}
