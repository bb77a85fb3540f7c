/*
 * How far two streams of activations are apart: for each sequence the sums over its rows of |x - y| and of cos(x, y).
 * And a copy of a stream in which only some rows are kept, the others 0.
 *
 * Bytes: 8 tokens d in float32, half of that in bfloat16: bound by memory. For the distance threads take sequences,
 * whose rows are added in order in float64; for the copy they take rows.
 */
#include <cmath>

#include "bf16.h"
#include "row_sums.h"

int32_t esp_keep_rows(const void *x_, const uint8_t *keep, void *out_, int64_t rows, int64_t cols, int32_t dtype) {
  ESP_REQUIRE(rows >= 0 && cols >= 0, "sizes must not be negative: rows=%ld cols=%ld", rows, cols);
  return esp::with_type(dtype, [=](auto type) {
    using T = decltype(type);
    const auto *x = static_cast<const T *>(x_);
    auto *out = static_cast<T *>(out_);
    esp::parallel_rows(rows, cols, [=](int64_t r) {
      if (keep != nullptr && keep[r] != 0) {
        std::copy(x + r * cols, x + (r + 1) * cols, out + r * cols);
      } else {
        std::fill(out + r * cols, out + (r + 1) * cols, T{});
      }
    });
  });
}

int32_t esp_sequence_distance(const void *x_, const void *y_, const uint8_t *skip, double *out, int64_t sequences,
                              int64_t length, int64_t d, int32_t dtype) {
  ESP_REQUIRE(sequences >= 0 && length > 0 && d > 0, "bad sizes: sequences=%ld length=%ld d=%ld", sequences, length, d);
  return esp::with_type(dtype, [=](auto type) {
    using T = decltype(type);
    const auto *x = static_cast<const T *>(x_), *y = static_cast<const T *>(y_);
    esp::parallel_rows(sequences, 8 * length * d, [=](int64_t s) {
      double rows = 0, distance = 0, cosine = 0;
      for (int64_t r = s * length; r < (s + 1) * length; r++) {
        if (skip != nullptr && skip[r] != 0) continue;
        const esp::RowSums sums = esp::row_sums(x + r * d, y + r * d, d);
        rows += 1;
        distance += std::sqrt(sums.error);
        cosine += sums.cosine();
      }
      out[3 * s] = rows;
      out[3 * s + 1] = distance;
      out[3 * s + 2] = cosine;
    });
  });
}
