/*
 * BatchTopK: keeps the largest entries of a whole batch's lists. And for each list, how many entries are among the
 * first latents (esp_sae_prefix).
 *
 * The bits of positive floats, read as integers, are in the same order as the floats, with NaN above all. So the
 * smallest value that stays is found one byte at a time, from the highest byte down, by counting how many entries have
 * each value of that byte. That is four passes over the lists, and a fifth removes the rest. Lists have a few hundred
 * thousand entries: too little work for several threads. Nothing is sorted, so of equal values those first by row and
 * index stay.
 */
#include <cstring>

#include "kernel.h"

namespace {

uint32_t bits(float value) {
  uint32_t result;
  std::memcpy(&result, &value, sizeof result);
  return result;
}

/* Describes the `wanted` largest of all entries: they are those above `bar` and the first `ties` of those equal to it.
 */
struct Largest {
  uint32_t bar;
  int64_t ties;
};

Largest find(const float *value, const int32_t *count, int64_t capacity, int64_t tokens, int64_t wanted) {
  uint32_t prefix = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    int64_t entries[256] = {};
    for (int64_t t = 0; t < tokens; t++) {
      for (int64_t at = t * capacity; at < t * capacity + count[t]; at++) {
        const uint32_t key = bits(value[at]);
        if (shift == 24 || key >> (shift + 8) == prefix) entries[key >> shift & 255]++;
      }
    }
    uint32_t byte = 255;
    while (entries[byte] < wanted) wanted -= entries[byte--];
    prefix = prefix << 8 | byte;
  }
  return {prefix, wanted};
}

}  // namespace

int32_t esp_sae_batch_topk(int32_t *index, float *value, int32_t *count, int64_t capacity, int64_t k,
                           const uint8_t *keep, float *smallest, int32_t * /*overflow*/, int64_t tokens, int64_t m) {
  ESP_REQUIRE(tokens >= 0 && m > 0 && capacity > 0 && k > 0, "bad sizes: tokens=%ld m=%ld capacity=%ld k=%ld", tokens,
              m, capacity, k);
  int64_t rows = 0, listed = 0;
  for (int64_t t = 0; t < tokens; t++) {
    ESP_REQUIRE(count[t] >= 0 && count[t] <= capacity, "count[%ld] = %d does not fit a capacity of %ld", t, count[t],
                capacity);
    rows += keep == nullptr || keep[t] == 0 ? 1 : 0;
    listed += count[t];
  }
  const int64_t wanted = std::min(rows * k, listed);
  if (wanted == 0) {
    std::fill(count, count + tokens, 0);
    *smallest = -1;
    return ESP_OK;
  }
  const Largest largest = find(value, count, capacity, tokens, wanted);
  if (capacity < m) {
    int64_t ties = largest.ties;
    for (int64_t t = 0; t < tokens; t++) {
      int64_t kept = 0;
      for (int64_t at = t * capacity; at < t * capacity + count[t]; at++) {
        const uint32_t key = bits(value[at]);
        kept += key > largest.bar || (key == largest.bar && ties-- > 0) ? 1 : 0;
      }
      if (kept == capacity) {
        return esp::fail(ESP_CAPACITY, "row %ld keeps all %ld entries that it has room for", t, capacity);
      }
    }
  }
  int64_t ties = largest.ties;
  for (int64_t t = 0; t < tokens; t++) {
    int64_t kept = t * capacity;
    for (int64_t at = t * capacity; at < t * capacity + count[t]; at++) {
      const uint32_t key = bits(value[at]);
      if (key < largest.bar || (key == largest.bar && ties-- <= 0)) continue;
      index[kept] = index[at];
      value[kept] = value[at];
      kept++;
    }
    count[t] = static_cast<int32_t>(kept - t * capacity);
  }
  float bar;
  std::memcpy(&bar, &largest.bar, sizeof bar);
  *smallest = bar == bar ? bar : -1;
  return ESP_OK;
}

int32_t esp_sae_prefix(const int32_t *index, const int32_t *count, int64_t capacity, int64_t limit, int32_t *prefix,
                       int64_t tokens) {
  ESP_REQUIRE(tokens >= 0 && capacity > 0, "bad sizes: tokens=%ld capacity=%ld", tokens, capacity);
  esp::parallel_rows(tokens, 16, [=](int64_t t) {
    const int32_t *row = index + t * capacity;
    prefix[t] = static_cast<int32_t>(std::lower_bound(row, row + count[t], limit) - row);
  });
  return ESP_OK;
}
