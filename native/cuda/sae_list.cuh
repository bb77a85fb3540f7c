/*
 * Lists of active latents from pre-activations. A block takes a row. Internal.
 *
 * The block goes through the row in strips of 32 columns a thread. A source says, as the bits of a word, which of a
 * thread's 32 columns are active. A prefix sum over the counts of the strip gives each thread its place in the list, to
 * which it writes its entries. So indices ascend, and nothing depends on the order in which threads run. The sources
 * are:
 *
 *   words    words that exist already, with the z that they stand for: sae_words.cuh
 *   Largest  the k largest above 0 among z of cuBLAS's product; the smallest of them is searched first. A warp looks at
 *            32 columns at a time and votes (sae_largest.cuh)
 *
 * The places of a row are latents; in sae_parts.cu they are entries of lists. Latents may come a slice at a time: a
 * list then continues where the slice before ended.
 */
#ifndef ESPALIER_CUDA_SAE_LIST_CUH
#define ESPALIER_CUDA_SAE_LIST_CUH

#include "scan.cuh"

namespace esp {

/* How many words of 32 columns a row of m has. */
__host__ __device__ inline int64_t words_of(int64_t m) { return (m + 31) / 32; }

/* Rows of z. A row's length is whole words. */
struct Rows {
  float *z;
  uint32_t *words;
  int64_t m;

  __host__ __device__ int64_t ld() const { return 32 * words_of(m); }
};

/* The lists of a chunk of rows. */
struct Lists {
  int32_t *index;
  float *value, *pre; /* pre: or NULL */
  int32_t *count;
  const uint8_t *keep; /* or NULL */
  int64_t capacity;
  int32_t *overflow; /* or NULL */

  Lists from(int64_t row) const {
    return {index + row * capacity,
            value + row * capacity,
            pre == nullptr ? nullptr : pre + row * capacity,
            count + row,
            keep == nullptr ? nullptr : keep + row,
            capacity,
            overflow};
  }
  __device__ bool keeps(int64_t t) const { return keep != nullptr && keep[t] != 0; }
  __device__ void put(int64_t t, int64_t at, int64_t latent, float v, float z) const {
    if (at >= capacity) return;
    index[t * capacity + at] = static_cast<int32_t>(latent);
    value[t * capacity + at] = v;
    if (pre != nullptr) pre[t * capacity + at] = z;
  }
  /* Ends a list. One thread calls it, after all entries of the last slice have been put. A row with NaN has it as its
   * only entry. */
  __device__ void finish(int64_t t, int32_t entries, bool nan) const {
    if (nan) {
      const float z = __uint_as_float(0x7fc00000u);
      put(t, 0, 0, z, z);
      entries = 1;
    }
    count[t] = static_cast<int32_t>(entries < capacity ? entries : capacity);
    if (entries > capacity && overflow != nullptr) atomicMax(overflow, entries);
  }
};

/* Stands in the place of a row's number of entries, between slices, if a z was NaN. */
constexpr int32_t kNaN = -1;

/* The latents whose z exist at a time: `latents` of them from `first` on. */
struct Slice {
  int64_t first, latents;
  bool begins, ends; /* whether lists begin, and end, with this slice */

  /* The number of entries so far; `nan` receives whether one was NaN. All threads must have called it before one calls
   * end(). */
  __device__ int32_t start(const Lists &lists, int64_t t, bool &nan) const {
    const int32_t entries = begins ? 0 : lists.count[t];
    nan = entries == kNaN;
    return nan ? 0 : entries;
  }
  /* One thread calls it, after all entries have been put. */
  __device__ void end(const Lists &lists, int64_t t, int32_t entries, bool nan) const {
    if (ends) {
      lists.finish(t, entries, nan);
    } else {
      lists.count[t] = nan ? kNaN : entries;
    }
  }
};

/* Which z are entries and with what value, for ESP_RELU and ESP_JUMPRELU. NaN is an entry, so that it is noticed. */
struct Gate {
  const float *threshold; /* NULL for ESP_RELU */
  float margin;           /* 0 for ESP_RELU */

  Gate from(int64_t latent) const { return {threshold == nullptr ? nullptr : threshold + latent, margin}; }
  __device__ bool passes(float z, float theta) const { return z > theta || fabsf(z - theta) < margin || z != z; }
  __device__ bool takes(float z, int64_t i) const { return passes(z, threshold == nullptr ? 0 : threshold[i]); }
  __device__ float value(float z, int64_t i) const {
    return z > 0 && z > (threshold == nullptr ? 0 : threshold[i]) ? z : 0.0f;
  }
};

__device__ inline int lane_index() { return static_cast<int>(threadIdx.x % 32); }

/* The word of this thread's 32 columns in the strip that starts at column `strip`. takes(c) says which columns count.
 */
template <typename Takes>
__device__ inline uint32_t vote(int64_t strip, int64_t m, const Takes &takes) {
  const int64_t first = strip + 32 * (threadIdx.x / 32 * 32); /* of the warp */
  uint32_t own = 0;
#pragma unroll 8
  for (int word = 0; word < 32 && first + 32 * word < m; word++) { /* the whole warp */
    const int64_t c = first + 32 * word + lane_index();
    const uint32_t taken = __ballot_sync(kAllLanes, c < m && takes(c));
    if (lane_index() == word) own = taken;
  }
  return own;
}

/* Puts the entries of a word, which stands for the 32 columns from c on, into row t's list, from place `at` on. */
template <typename Row>
__device__ inline void put_word(const Row &row, uint32_t word, int64_t c, int64_t t, const Lists &lists, int64_t &at,
                                bool &nan) {
  for (; word != 0; word &= word - 1) {
    const int64_t column = c + __ffs(static_cast<int>(word)) - 1;
    const float z = row.at(column);
    nan = nan || z != z;
    lists.put(t, at++, row.latent(column), row.value(z, column), z);
  }
}

/* Makes row t's list of what is active among m places. All threads of the block must call it. needed: what the list
 * needs at least. */
template <typename Row>
__device__ inline void list_row(Row row, int64_t m, int64_t t, const Lists &lists, int32_t needed = 0) {
  bool nan = row.start();
  int32_t entries = 0, of_strip;
  for (int64_t strip = 0; strip < m; strip += 32 * kThreads) {
    const uint32_t word = row.active(strip);
    int64_t at = entries + block_scan(__popc(word), of_strip);
    entries += of_strip;
    put_word(row, word, strip + 32 * static_cast<int64_t>(threadIdx.x), t, lists, at, nan);
  }
  nan = __syncthreads_or(nan ? 1 : 0) != 0;
  if (threadIdx.x == 0) lists.finish(t, needed > entries ? needed : entries, nan);
}

template <typename Source>
__global__ void list_rows(Source source, Lists lists) {
  const int64_t t = blockIdx.x;
  if (lists.keeps(t)) {
    if (threadIdx.x == 0) lists.count[t] = 0;
    return;
  }
  list_row(source.row(t), source.rows.m, t, lists);
}

/* How many entries of a list have an index below `limit`. They come first. */
__device__ inline int32_t entries_below(const int32_t *index, int32_t entries, int64_t limit) {
  int32_t low = 0, high = entries; /* entries before `low` are below limit, those from `high` on are not */
  while (low < high) {
    const int32_t middle = low + (high - low) / 2;
    if (index[middle] < limit) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

}  // namespace esp

#endif
