/* Rows of pre-activations to lists of active latents, and how rows are cut into chunks. Internal. */
#ifndef ESPALIER_CPU_SAE_SELECT_H
#define ESPALIER_CPU_SAE_SELECT_H

#include <cmath>
#include <utility>

#include "bf16.h"

namespace esp {

/* Rows of x and latents of a product: 16 MB of z, whatever m. */
constexpr int64_t kChunkRows = 512, kPanel = 8192;

/* Rows of x without b_pre: in `centred`, unless nothing is to be subtracted. */
template <typename T>
inline const T *less_bias(const T *x, const float *b_pre, int64_t rows, int64_t d, T *centred) {
  if (b_pre == nullptr) return x;
  parallel_rows(rows, d, [=](int64_t r) {
    const T *__restrict row = x + r * d;
    T *__restrict target = centred + r * d;
#pragma omp simd
    for (int64_t c = 0; c < d; c++) target[c] = static_cast<T>(row[c] - b_pre[c]);
  });
  return centred;
}

constexpr int64_t kSelectBlock = 64;

/* A row's list while it is filled, a panel of latents after another. Entries beyond capacity are counted but not
 * stored. */
struct Entries {
  int32_t *index;
  float *value;
  float *pre; /* or NULL */
  int64_t capacity, count = 0;
  int64_t first = 0; /* of the panel's latents */

  void add(int64_t i, float v, float z) {
    if (count < capacity) {
      index[count] = static_cast<int32_t>(first + i);
      value[count] = v;
      if (pre != nullptr) pre[count] = z;
    }
    count++;
  }
};

/* Whether z[i] > bar for an i < n. */
inline bool any_above(const float *z, float bar, int64_t n) {
  int found = 0;
#pragma omp simd reduction(| : found)
  for (int64_t i = 0; i < n; i++) found |= z[i] > bar ? 1 : 0;
  return found != 0;
}

/* Whether z[i] - bar[i] > offset for an i < n. */
inline bool any_above(const float *z, const float *bar, float offset, int64_t n) {
  int found = 0;
#pragma omp simd reduction(| : found)
  for (int64_t i = 0; i < n; i++) found |= z[i] - bar[i] > offset ? 1 : 0;
  return found != 0;
}

inline void select_relu(const float *z, int64_t m, Entries &entries) {
  for (int64_t block = 0; block < m; block += kSelectBlock) {
    const int64_t n = std::min(kSelectBlock, m - block);
    const float *part = z + block;
    if (!any_above(part, 0, n)) continue;
    for (int64_t i = 0; i < n; i++) {
      if (part[i] > 0) entries.add(block + i, part[i], part[i]);
    }
  }
}

inline void select_jumprelu(const float *z, const float *threshold, float margin, int64_t m, Entries &entries) {
  const float below = margin > 0 ? margin : 0;
  for (int64_t block = 0; block < m; block += kSelectBlock) {
    const int64_t n = std::min(kSelectBlock, m - block);
    const float *part = z + block, *theta = threshold + block;
    if (!any_above(part, theta, -below, n)) continue;
    for (int64_t i = 0; i < n; i++) {
      const bool active = part[i] > theta[i];
      if (!active && !(std::fabs(part[i] - theta[i]) < margin)) continue;
      entries.add(block + i, active && part[i] > 0 ? part[i] : 0.0f, part[i]);
    }
  }
}

/* The k largest positive z as a heap whose root is the worst entry: the smallest value, of equal ones the higher
 * index. */
struct Heap {
  int32_t *index;
  float *value;
  int64_t count = 0;

  bool worse(int64_t a, int64_t b) const {
    return value[a] < value[b] || (value[a] == value[b] && index[a] > index[b]);
  }
  void swap(int64_t a, int64_t b) {
    std::swap(index[a], index[b]);
    std::swap(value[a], value[b]);
  }
  void push(int32_t i, float v) {
    index[count] = i;
    value[count] = v;
    for (int64_t at = count++; at > 0 && worse(at, (at - 1) / 2); at = (at - 1) / 2) swap(at, (at - 1) / 2);
  }
  void replace_root(int32_t i, float v) {
    index[0] = i;
    value[0] = v;
    sift(0, count, [this](int64_t a, int64_t b) { return worse(a, b); });
  }
  template <typename Before>
  void sift(int64_t at, int64_t end, const Before &before) {
    for (int64_t child = 2 * at + 1; child < end; at = child, child = 2 * at + 1) {
      if (child + 1 < end && before(child + 1, child)) child++;
      if (!before(child, at)) return;
      swap(child, at);
    }
  }
  /* Heapsort. */
  void sort_by_index() {
    const auto later = [this](int64_t a, int64_t b) { return index[a] > index[b]; };
    for (int64_t at = count / 2 - 1; at >= 0; at--) sift(at, count, later);
    for (int64_t end = count - 1; end > 0; end--) {
      swap(0, end);
      sift(0, end, later);
    }
  }
};

/* A number that at least k of z exceed and few others do, or 0: of kSlots maxima of elements kSlots apart, each of
 * another element, k are above it. Found by halving an interval, which no branch has to guess. */
inline float below_largest(const float *z, int64_t m, int64_t k) {
  constexpr int64_t kSlots = 256, kHalvings = 12;
  if (k > kSlots / 2 || m < 2 * kSlots) return 0;
  float maxima[kSlots], high = 0, low = 0;
  std::copy_n(z, kSlots, maxima);
  for (int64_t first = kSlots; first + kSlots <= m; first += kSlots) {
#pragma omp simd
    for (int64_t i = 0; i < kSlots; i++) maxima[i] = z[first + i] > maxima[i] ? z[first + i] : maxima[i];
  }
#pragma omp simd reduction(max : high)
  for (int64_t i = 0; i < kSlots; i++) high = maxima[i] > high ? maxima[i] : high;
  for (int64_t step = 0; step < kHalvings; step++) {
    const float middle = 0.5f * low + 0.5f * high;
    int32_t above = 0;
#pragma omp simd reduction(+ : above)
    for (int64_t i = 0; i < kSlots; i++) above += maxima[i] > middle ? 1 : 0;
    low = above >= k ? middle : low;
    high = above >= k ? high : middle;
  }
  return low;
}

/* Until finish_topk, the list is a heap, and count that of the candidates there have been. */
inline void select_topk(const float *z, int64_t m, int64_t k, Entries &entries) {
  const int64_t room = std::min(k, entries.capacity);
  int64_t positive = entries.count;
  Heap heap{entries.index, entries.value, std::min(room, positive)};
  /* A candidate must be above: of k found the smallest, or what k will be found above. */
  float bar = std::max(heap.count == k ? heap.value[0] : 0, below_largest(z, m, k));
  for (int64_t block = 0; block < m; block += kSelectBlock) {
    const int64_t n = std::min(kSelectBlock, m - block);
    const float *part = z + block;
    if (!any_above(part, bar, n)) continue;
    for (int64_t i = 0; i < n; i++) {
      if (!(part[i] > bar)) continue;
      positive++;
      if (heap.count < room) {
        heap.push(static_cast<int32_t>(entries.first + block + i), part[i]);
        if (heap.count == k) bar = std::max(bar, heap.value[0]);
      } else if (room == k) {
        heap.replace_root(static_cast<int32_t>(entries.first + block + i), part[i]);
        bar = heap.value[0];
      }
    }
  }
  entries.count = positive;
}

inline void finish_topk(int64_t k, Entries &entries) {
  Heap heap{entries.index, entries.value, std::min({k, entries.capacity, entries.count})};
  heap.sort_by_index();
  if (entries.pre != nullptr) std::copy(heap.value, heap.value + heap.count, entries.pre);
  entries.count = std::min(k, entries.count);
}

inline void select_groupmax(const float *z, int64_t m, int64_t size, Entries &entries) {
  for (int64_t group = 0; group < m; group += size) {
    int64_t best = group;
    for (int64_t i = group + 1; i < group + size; i++) best = z[i] > z[best] ? i : best;
    if (z[best] > 0) entries.add(best, z[best], z[best]);
  }
}

}  // namespace esp

#endif
