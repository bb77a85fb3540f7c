/*
 * How well an SAE reconstructs: the squared error with its gradient, and running statistics over tokens.
 *
 * Bytes: 8 to 12 tokens d in float32, half of that in bfloat16: bound by memory. Threads take tokens; for sums of
 * columns they take columns. All sums are float64, because a few tokens (attention sinks) have norms a hundred times
 * those of the others.
 */
#include <cmath>

#include "bf16.h"
#include "row_sums.h"

namespace {

bool is_kept(const uint8_t *keep, int64_t t) { return keep != nullptr && keep[t] != 0; }

/* Adds to stats what esp_sae_stats takes from x and y, token by token. The rows are divided into at most 64 blocks, by
 * `tokens` alone, which are added in order. */
template <typename T>
void add_rows(const T *x, const T *y, const uint8_t *keep, double *stats, int64_t tokens, int64_t d) {
  constexpr int64_t kBlocks = 64;
  struct Sums {
    double error, square, cosine, output_square, product, norm, output_norm, ratio;
  } partial[kBlocks] = {};
  const int64_t block = std::max<int64_t>(1, (tokens + kBlocks - 1) / kBlocks);
  esp::parallel_rows((tokens + block - 1) / block, 8 * block * d, [&](int64_t i) {
    Sums sums{};
    for (int64_t t = i * block; t < std::min(tokens, (i + 1) * block); t++) {
      if (is_kept(keep, t)) continue;
      const esp::RowSums row = esp::row_sums(x + t * d, y + t * d, d);
      const double norm = std::sqrt(row.aa), output_norm = std::sqrt(row.bb);
      sums.error += row.error;
      sums.square += row.aa;
      sums.cosine += row.cosine();
      sums.output_square += row.bb;
      sums.product += row.ab;
      sums.norm += norm;
      sums.output_norm += output_norm;
      sums.ratio += norm < 1e-4 ? 1 : output_norm / norm;
    }
    partial[i] = sums;
  });
  for (const Sums &sums : partial) {
    stats[1] += sums.error;
    stats[2] += sums.square;
    stats[3] += sums.cosine;
    stats[5] += sums.output_square;
    stats[6] += sums.product;
    stats[7] += sums.norm;
    stats[8] += sums.output_norm;
    stats[9] += sums.ratio;
  }
}

/* totals[c] += sum of x[t, c] over the rows that are not kept. */
template <typename T>
void add_columns(const T *x, const uint8_t *keep, double *totals, int64_t tokens, int64_t d) {
  const int64_t columns = (d + esp::kColumnBlock - 1) / esp::kColumnBlock;
  esp::parallel_rows(columns, tokens * esp::kColumnBlock, [=](int64_t column) {
    const int64_t begin = column * esp::kColumnBlock, width = std::min(esp::kColumnBlock, d - begin);
    double *__restrict sums = totals + begin;
    for (int64_t t = 0; t < tokens; t++) {
      if (is_kept(keep, t)) continue;
      const T *__restrict row = x + t * d + begin;
#pragma omp simd
      for (int64_t c = 0; c < width; c++) sums[c] += static_cast<double>(row[c]);
    }
  });
}

}  // namespace

int32_t esp_sae_mse(const void *x_, const void *y_, const uint8_t *keep, float *loss, void *d_y_, float grad_scale,
                    int64_t tokens, int64_t d, int32_t dtype) {
  ESP_REQUIRE(tokens >= 0 && d > 0, "bad sizes: tokens=%ld d=%ld", tokens, d);
  return esp::with_type(dtype, [=](auto type) {
    using T = decltype(type);
    const auto *x = static_cast<const T *>(x_), *y = static_cast<const T *>(y_);
    auto *d_y = static_cast<T *>(d_y_);
    esp::parallel_rows(tokens, 4 * d, [=](int64_t t) {
      const T *__restrict target = x + t * d;
      const T *__restrict output = y + t * d;
      T *__restrict gradient = d_y == nullptr ? nullptr : d_y + t * d;
      if (is_kept(keep, t)) {
        loss[t] = 0;
        if (gradient != nullptr) std::fill(gradient, gradient + d, T{});
        return;
      }
      double sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t c = 0; c < d; c++) {
        const double difference = static_cast<double>(output[c]) - static_cast<double>(target[c]);
        sum += difference * difference;
      }
      loss[t] = static_cast<float>(sum);
      if (gradient == nullptr) return;
      const float factor = 2 * grad_scale;
#pragma omp simd
      for (int64_t c = 0; c < d; c++) gradient[c] = static_cast<T>(factor * (output[c] - target[c]));
    });
  });
}

int32_t esp_sae_mse_backward(const void *x_, const void *y_, const uint8_t *keep, const float *error, const float *kl,
                             float balance, void *d_y_, int32_t accumulate, float grad_scale, int64_t tokens, int64_t d,
                             int32_t dtype) {
  ESP_REQUIRE(tokens >= 0 && d > 0, "bad sizes: tokens=%ld d=%ld", tokens, d);
  ESP_REQUIRE((error == nullptr) == (kl == nullptr), "error and kl: one is NULL, the other is not");
  float weight = 1;
  if (kl != nullptr) {
    const auto sum = [tokens](const float *losses) {
      return esp::blocked_sum(tokens, [losses](int64_t begin, int64_t end) {
        double part = 0;
        for (int64_t t = begin; t < end; t++) part += static_cast<double>(losses[t]);
        return part;
      });
    };
    const double divergence = sum(kl);
    weight = divergence == 0 ? 0 : static_cast<float>(static_cast<double>(balance) * sum(error) / divergence);
  }
  const float factor = 2 * grad_scale;
  return esp::with_type(dtype, [=](auto type) {
    using T = decltype(type);
    const auto *x = static_cast<const T *>(x_), *y = static_cast<const T *>(y_);
    auto *d_y = static_cast<T *>(d_y_);
    esp::parallel_rows(tokens, 4 * d, [=](int64_t t) {
      const T *__restrict target = x + t * d;
      const T *__restrict output = y + t * d;
      T *__restrict gradient = d_y + t * d;
      if (is_kept(keep, t)) {
        if (accumulate == 0) {
          std::fill(gradient, gradient + d, T{});
        } else if (weight != 1) {
#pragma omp simd
          for (int64_t c = 0; c < d; c++) gradient[c] = static_cast<T>(weight * gradient[c]);
        }
      } else if (accumulate == 0) {
#pragma omp simd
        for (int64_t c = 0; c < d; c++) gradient[c] = static_cast<T>(factor * (output[c] - target[c]));
      } else {
#pragma omp simd
        for (int64_t c = 0; c < d; c++) {
          /* By fma, because a compiler that fuses one of the two products could choose either. */
          gradient[c] = static_cast<T>(__builtin_fmaf(factor, output[c] - target[c], weight * gradient[c]));
        }
      }
    });
  });
}

int32_t esp_sae_stats(const void *x_, const void *y_, const int32_t *index, const float *value, const int32_t *count,
                      int64_t capacity, const uint8_t *keep, double *stats, int64_t *fired, int64_t tokens, int64_t d,
                      int64_t m, int32_t dtype) {
  ESP_REQUIRE(tokens >= 0 && d > 0 && m > 0 && capacity > 0, "bad sizes: tokens=%ld d=%ld m=%ld capacity=%ld", tokens,
              d, m, capacity);
  for (int64_t t = 0; t < tokens; t++) {
    for (int64_t entry = t * capacity; entry < t * capacity + count[t]; entry++) {
      ESP_REQUIRE(index[entry] >= 0 && index[entry] < m, "latent %d of row %ld is not in [0, %ld)", index[entry], t, m);
    }
  }
  const int32_t status = esp::with_type(dtype, [=](auto type) {
    using T = decltype(type);
    const auto *x = static_cast<const T *>(x_), *y = static_cast<const T *>(y_);
    add_rows(x, y, keep, stats, tokens, d);
    add_columns(x, keep, stats + 11, tokens, d);
  });
  if (status != ESP_OK) return status;
  for (int64_t t = 0; t < tokens; t++) {
    if (is_kept(keep, t)) continue;
    stats[0] += 1;
    for (int64_t entry = t * capacity; entry < t * capacity + count[t]; entry++) {
      if (value[entry] == 0) continue;
      stats[4] += 1;
      stats[10] += static_cast<double>(value[entry]);
      fired[index[entry]]++;
    }
  }
  return ESP_OK;
}
