/*
 * An SAE whose latents are divided among ranks, each of which holds a slice of them. These kernels merge the lists of
 * slices into lists of the whole SAE, divide such lists again, and put columns that ranks computed side by side.
 *
 * Bound by memory: 8 to 12 bytes an entry, 8 an element of the columns (4 in bfloat16). That is little beside what
 * ranks send each other. The k largest of a token are found as in the encoder.
 */
#include <climits>
#include <cmath>
#include <cstring>

#include "bf16.h"
#include "sae_select.h"

namespace {

/* The packed lists of all parts, and the number of each part's first latent. */
struct Parts {
  const int32_t *packed, *first;
  int64_t parts, capacity, tokens;

  const int32_t *block(int64_t p) const { return packed + p * tokens * (1 + 2 * capacity); }
  /* How many entries the part's list needs. It holds no more than capacity. */
  int64_t count(int64_t p, int64_t t) const { return block(p)[t]; }

  /* Calls found(latent, value) for the entries of a token, in the order of latents. Returns whether one is NaN. */
  template <typename Found>
  bool walk(int64_t t, const Found &found) const {
    for (int64_t p = 0; p < parts; p++) {
      const int32_t *index = block(p) + tokens + t * capacity;
      for (int64_t j = 0; j < std::min(count(p, t), capacity); j++) {
        float value;
        std::memcpy(&value, index + tokens * capacity + j, sizeof value);
        if (value != value) return true;
        found(first[p] + index[j], value);
      }
    }
    return false;
  }
};

/* How many entries of a list have an index below `limit`. They come first. */
int64_t entries_below(const int32_t *index, int64_t entries, int64_t limit) {
  return std::lower_bound(index, index + entries, limit) - index;
}

/* Merges one token's list. Returns how many entries it needs, which may be more than `entries` has room for. */
int64_t merge(const Parts &parts, int64_t t, int64_t k, esp::Entries &entries) {
  int64_t needed = 0;
  bool nan = false;
  if (k == 0) {
    nan = parts.walk(t, [&](int32_t latent, float value) { entries.add(latent, value, value); });
    for (int64_t p = 0; p < parts.parts; p++) needed += parts.count(p, t);
  } else {
    esp::Largest largest(k, -INFINITY);
    nan = parts.walk(t, [&](int32_t latent, float value) { largest.add(latent, value); });
    largest.reduce();
    needed = largest.count();
    entries.replace(largest);
  }
  if (!nan) return needed;
  entries.replace_by_nan();
  return 1;
}

}  // namespace

int32_t esp_sae_merge(const void *packed, const int32_t *first, int64_t parts, int64_t k, int32_t *index, float *value,
                      float *pre, int32_t *count, int64_t capacity, int32_t *overflow, int64_t tokens) {
  ESP_REQUIRE(tokens >= 0 && parts > 0 && capacity > 0, "bad sizes: tokens=%ld parts=%ld capacity=%ld", tokens, parts,
              capacity);
  ESP_REQUIRE(parts <= INT_MAX / capacity, "%ld lists of %ld entries: not below 2^31", parts, capacity);
  ESP_REQUIRE(k >= 0 && k <= capacity, "k must be in [0, %ld], got %ld", capacity, k);
  const Parts all{static_cast<const int32_t *>(packed), first, parts, capacity, tokens};
  constexpr int64_t kTypicalEntries = 64;
  esp::parallel_rows(tokens, kTypicalEntries * parts, [=](int64_t t) {
    esp::Entries entries{index + t * capacity, value + t * capacity, pre == nullptr ? nullptr : pre + t * capacity,
                         capacity};
    count[t] = static_cast<int32_t>(merge(all, t, k, entries)); /* needed, not listed: the loop below cuts it off */
  });
  int32_t longest = 0;
  for (int64_t t = 0; t < tokens; t++) {
    longest = std::max(longest, count[t]);
    count[t] = static_cast<int32_t>(std::min<int64_t>(count[t], capacity));
  }
  if (longest > capacity && overflow != nullptr) *overflow = std::max(*overflow, longest);
  return ESP_OK;
}

int32_t esp_sae_part(const int32_t *index, const int32_t *count, int64_t capacity, int64_t first, int64_t latents,
                     int32_t *part_index, int32_t *part_count, int64_t tokens) {
  ESP_REQUIRE(tokens >= 0 && capacity > 0 && first >= 0 && latents >= 0,
              "bad sizes: tokens=%ld capacity=%ld first=%ld latents=%ld", tokens, capacity, first, latents);
  for (int64_t t = 0; t < tokens; t++) {
    const int32_t *row = index + t * capacity;
    const int64_t begin = entries_below(row, count[t], first), end = entries_below(row, count[t], first + latents);
    for (int64_t j = begin; j < end; j++) {
      part_index[t * capacity + j - begin] = static_cast<int32_t>(row[j] - first);
    }
    part_count[t] = static_cast<int32_t>(end - begin);
  }
  return ESP_OK;
}

int32_t esp_sae_join(const float *part_value, const int32_t *first, int64_t parts, const int32_t *index,
                     const int32_t *count, int64_t capacity, float *value, int64_t tokens) {
  ESP_REQUIRE(tokens >= 0 && parts > 0 && parts <= INT_MAX && capacity > 0,
              "bad sizes: tokens=%ld parts=%ld capacity=%ld", tokens, parts, capacity);
  for (int64_t t = 0; t < tokens; t++) {
    int64_t begin = 0;
    for (int64_t p = 0; p < parts; p++) {
      const int64_t end = p + 1 < parts ? entries_below(index + t * capacity, count[t], first[p + 1]) : count[t];
      const float *from = part_value + (p * tokens + t) * capacity;
      std::copy(from, from + end - begin, value + t * capacity + begin);
      begin = end;
    }
  }
  return ESP_OK;
}

int32_t esp_join_columns(const void *parts_, int64_t width, const uint8_t *keep, const void *kept_, void *out_,
                         int64_t rows, int64_t cols, int32_t dtype) {
  ESP_REQUIRE(rows >= 0 && cols > 0 && width > 0, "bad sizes: rows=%ld cols=%ld width=%ld", rows, cols, width);
  ESP_REQUIRE(keep == nullptr || kept_ != nullptr, "keep needs the rows that are kept");
  return esp::with_type(dtype, [=](auto type) {
    using T = decltype(type);
    const auto *parts = static_cast<const T *>(parts_), *kept = static_cast<const T *>(kept_);
    auto *out = static_cast<T *>(out_);
    esp::parallel_rows(rows, cols, [=](int64_t r) {
      if (keep != nullptr && keep[r] != 0) {
        std::copy(kept + r * cols, kept + (r + 1) * cols, out + r * cols);
        return;
      }
      for (int64_t c = 0; c < cols; c += width) {
        const T *from = parts + (c / width * rows + r) * width;
        std::copy(from, from + std::min(width, cols - c), out + r * cols + c);
      }
    });
  });
}
