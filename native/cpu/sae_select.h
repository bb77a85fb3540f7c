/* How rows of pre-activations become lists of active latents, and how rows are cut into chunks. Internal. */
#ifndef ESPALIER_CPU_SAE_SELECT_H
#define ESPALIER_CPU_SAE_SELECT_H

#include <algorithm>
#include <functional>
#include <vector>

#include "kernel.h"
#include "lanes.h"

namespace esp {

/* The rows of x and the latents of one product: z has 16 MB whatever m is. */
constexpr int64_t kChunkRows = 512, kPanel = 8192;

/* Rows of x minus b_pre. They are written to `centred`, unless there is nothing to subtract, as always in bfloat16. */
template <typename T>
inline const T *less_bias(const T *x, [[maybe_unused]] const float *b_pre, [[maybe_unused]] int64_t rows,
                          [[maybe_unused]] int64_t d, [[maybe_unused]] float *centred) {
  if constexpr (std::is_same_v<T, float>) {
    if (b_pre == nullptr) return x;
    parallel_rows(rows, d, [=](int64_t r) {
      const float *__restrict row = x + r * d;
      float *__restrict target = centred + r * d;
#pragma omp simd
      for (int64_t c = 0; c < d; c++) target[c] = row[c] - b_pre[c];
    });
    return centred;
  }
  return x;
}

constexpr int64_t kSelectBlock = 64;

/* The k largest of what is added, in the order in which it was added; of equal values the first stay. It keeps somewhat
 * more than k until they are sorted out, so that not each new value has to be put in its place. It uses memory of the
 * calling thread, so a thread has one at a time. */
class Largest {
 public:
  /* bar: only values above it are taken. */
  Largest(int64_t k, float bar) : k_(k), bar_(bar) {
    if (memory().index.size() < static_cast<size_t>(k + kMore)) memory().resize(static_cast<size_t>(k + kMore));
    index_ = memory().index.data();
    value_ = memory().value.data();
  }

  const float &bar() const { return bar_; }
  void raise_bar(float bar) { bar_ = std::max(bar_, bar); }
  int64_t count() const { return count_; }
  const int32_t *index() const { return index_; }
  const float *value() const { return value_; }

  void add(int32_t i, float v) {
    if (count_ == k_ + kMore) reduce();
    if (!(v > bar_)) return;
    index_[count_] = i;
    value_[count_++] = v;
  }

  /* Leaves the k largest, if there are more. */
  void reduce() {
    if (count_ <= k_) return;
    float *const ranked = memory().ranked.data();
    std::copy_n(value_, count_, ranked);
    std::nth_element(ranked, ranked + k_ - 1, ranked + count_, std::greater<>());
    const float least = ranked[k_ - 1];
    int64_t ties = k_ - std::count_if(ranked, ranked + k_, [least](float v) { return v > least; }), kept = 0;
    for (int64_t j = 0; j < count_; j++) {
      if (value_[j] < least || (value_[j] == least && ties-- <= 0)) continue;
      index_[kept] = index_[j];
      value_[kept++] = value_[j];
    }
    raise_bar(least);
    count_ = kept;
  }

 private:
  static constexpr int64_t kMore = 256;

  struct Memory {
    std::vector<int32_t> index;
    std::vector<float> value, ranked;

    void resize(size_t size) {
      index.resize(size);
      value.resize(size);
      ranked.resize(size);
    }
  };
  static Memory &memory() {
    static thread_local Memory mine;
    return mine;
  }

  int64_t k_, count_ = 0;
  float bar_;
  int32_t *index_;
  float *value_;
};

/* A row's list while it is being filled, one panel of latents after another. Entries beyond capacity are counted but
 * not stored. */
struct Entries {
  int32_t *index;
  float *value;
  float *pre; /* or NULL */
  int64_t capacity, count = 0;
  int64_t first = 0; /* the number of the panel's first latent */

  void add(int64_t i, float v, float z) {
    if (count < capacity) {
      index[count] = static_cast<int32_t>(first + i);
      value[count] = v;
      if (pre != nullptr) pre[count] = z;
    }
    count++;
  }

  /* Replaces the list by `largest`, whose indices count from the first latent of all, not from that of the panel. */
  void replace(const Largest &largest) {
    count = largest.count();
    const int64_t listed = std::min(count, capacity);
    std::copy_n(largest.index(), listed, index);
    std::copy_n(largest.value(), listed, value);
    if (pre != nullptr) std::copy_n(largest.value(), listed, pre);
  }

  /* A row with a NaN becomes the one entry (0, NaN). */
  void replace_by_nan() {
    count = first = 0;
    add(0, __builtin_nanf(""), __builtin_nanf(""));
  }
};

/* Calls body(i) for every i < n with z[i] - bar[i] > offset, in ascending order; without bars for those with z[i] >
 * offset. offset may rise meanwhile, which takes effect from the next kSelectBlock on. */
template <typename Body>
inline void each_above(const float *z, const float *bar, const float &offset, int64_t n, const Body &body) {
  const auto among = [&](int64_t first, uint64_t bits) {
    for (; bits != 0; bits &= bits - 1) body(first + __builtin_ctzll(bits));
  };
  int64_t block = 0;
  for (; block + kSelectBlock <= n; block += kSelectBlock) {
    const Lanes all = Lanes{} + offset;
    uint64_t bits = 0;
    for (int64_t i = 0; i < kSelectBlock; i += kLanes) {
      const Lanes some = load(z + block + i);
      bits |= uint64_t{bits_above(bar == nullptr ? some : some - load(bar + block + i), all)} << i;
    }
    among(block, bits);
  }
  for (int64_t i = block; i < n; i++) among(i, (bar == nullptr ? z[i] : z[i] - bar[i]) > offset ? 1 : 0);
}

inline void select_relu(const float *z, int64_t m, Entries &entries) {
  each_above(z, nullptr, 0, m, [&](int64_t i) { entries.add(i, z[i], z[i]); });
}

inline void select_jumprelu(const float *z, const float *threshold, float margin, int64_t m, Entries &entries) {
  each_above(z, threshold, -std::max(margin, 0.0f), m,
             [&](int64_t i) { entries.add(i, z[i] > threshold[i] && z[i] > 0 ? z[i] : 0.0f, z[i]); });
}

/* A number that at least k of z exceed, and few others do; or 0. It takes kSlots maxima, each over elements kSlots
 * apart, so that each maximum is another element, and finds a number that k of the maxima exceed. It halves an interval
 * for that, without a branch that could be mispredicted. */
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

/* The list holds the k largest of the panels before. */
inline void select_topk(const float *z, int64_t m, int64_t k, Entries &entries) {
  const int64_t before = std::min(entries.count, entries.capacity);
  Largest largest(k, 0);
  for (int64_t j = 0; j < before; j++) largest.add(entries.index[j], entries.value[j]);
  if (before == k) largest.raise_bar(*std::min_element(entries.value, entries.value + k));
  largest.raise_bar(below_largest(z, m, k));
  each_above(z, nullptr, largest.bar(), m,
             [&](int64_t i) { largest.add(static_cast<int32_t>(entries.first + i), z[i]); });
  largest.reduce();
  const int64_t unlisted = entries.count - before; /* entries that a list without room for k could not store */
  entries.replace(largest);
  entries.count = std::min(k, unlisted + entries.count);
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
