/*
 * An SAE whose latents are divided among ranks, each of which holds a slice of them. These kernels merge the lists of
 * slices into lists of the whole SAE, divide such lists again, and put columns that ranks computed side by side.
 *
 * merge: a block takes a token. The places of all parts' lists, one part after another, are treated like a row of the
 * encoder (sae_list.cuh): the filled ones are listed, or the k largest of them (sae_largest.cuh), with prefix sums for
 * the order. It reads 8 bytes an entry, and for the k largest 4 more three or four times, from L1. That is little
 * beside what it takes to send the lists between GPUs.
 *
 * part, join: a warp takes a token; 8 bytes an entry. Columns: a thread takes a pack of 16 bytes; 2 elements are moved
 * for each of the output.
 */
#include <climits>

#include "sae_largest.cuh"
#include "vector.cuh"

namespace {

constexpr int kWarps = esp::kThreads / 32;

int64_t blocks_of_warps(int64_t tokens) { return (tokens + kWarps - 1) / kWarps; }

/* The packed lists of all parts, and the number of each part's first latent. */
struct Parts {
  const int32_t *packed, *first;
  int32_t parts, capacity;
  int64_t tokens;

  __device__ const int32_t *block(int32_t p) const { return packed + p * tokens * (1 + 2 * int64_t{capacity}); }
  /* How many entries the part's list needs. It holds no more than capacity. */
  __device__ int32_t count(int32_t p, int64_t t) const { return block(p)[t]; }
  __device__ int32_t index(int32_t p, int64_t t, int32_t j) const {
    return first[p] + block(p)[tokens + t * capacity + j];
  }
  __device__ float value(int32_t p, int64_t t, int32_t j) const {
    return __int_as_float(block(p)[tokens * (1 + int64_t{capacity}) + t * capacity + j]);
  }
};

/* The row of a token: place c is entry c % capacity of part c / capacity. */
struct Places {
  Parts parts;
  int64_t t;
  int32_t k; /* 0: take all */
  esp::Bar bar;
  int32_t ties;

  struct Place {
    int32_t part, entry;
  };

  __device__ Place place(int64_t c) const {
    const int32_t number = static_cast<int32_t>(c), part = number / parts.capacity;
    return {part, number - part * parts.capacity};
  }
  __device__ int32_t places() const { return parts.parts * parts.capacity; }
  __device__ bool is_filled(Place of) const { return of.entry < parts.count(of.part, t); }
  __device__ float at(Place of) const { return parts.value(of.part, t, of.entry); }
  __device__ float at(int64_t c) const { return at(place(c)); }
  __device__ float at_or_0(int64_t c) const {
    const Place of = place(c);
    return is_filled(of) ? at(of) : 0.0f;
  }
  __device__ bool start() {
    bool nan = false;
    if (k > 0) bar = esp::find_bar([this](int64_t c) { return at_or_0(c); }, places(), k, nan);
    ties = 0;
    return nan;
  }
  __device__ uint32_t active(int64_t strip) {
    if (k == 0) return esp::vote(strip, places(), [this](int64_t c) { return is_filled(place(c)); });
    return esp::largest_of_strip([this](int64_t c) { return at_or_0(c); }, strip, places(), bar, ties);
  }
  __device__ int64_t latent(int64_t c) const {
    const Place of = place(c);
    return parts.index(of.part, t, of.entry);
  }
  __device__ float value(float v, int64_t) const { return v; }
};

__global__ void merge(Parts parts, int32_t k, esp::Lists lists) {
  const int64_t t = blockIdx.x;
  int32_t needed = 0;
  for (int32_t p = 0; k == 0 && p < parts.parts; p++) needed += parts.count(p, t);
  const Places places{parts, t, k, {}, 0};
  esp::list_row(places, places.places(), t, lists, needed);
}

__global__ void part(const int32_t *index, const int32_t *count, int64_t capacity, int64_t first, int64_t latents,
                     int32_t *part_index, int32_t *part_count, int64_t tokens) {
  const int64_t t = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (t >= tokens) return;
  const int32_t *row = index + t * capacity;
  const int32_t begin = esp::entries_below(row, count[t], first);
  const int32_t end = esp::entries_below(row, count[t], first + latents);
  for (int32_t j = begin + esp::lane_index(); j < end; j += 32) {
    part_index[t * capacity + j - begin] = static_cast<int32_t>(row[j] - first);
  }
  if (esp::lane_index() == 0) part_count[t] = end - begin;
}

__global__ void join(const float *part_value, const int32_t *first, int32_t parts, const int32_t *index,
                     const int32_t *count, int64_t capacity, float *value, int64_t tokens) {
  const int64_t t = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (t >= tokens) return;
  int32_t begin = 0;
  for (int32_t p = 0; p < parts; p++) {
    const int32_t end = p + 1 < parts ? esp::entries_below(index + t * capacity, count[t], first[p + 1]) : count[t];
    const float *from = part_value + (p * tokens + t) * capacity;
    for (int32_t j = begin + esp::lane_index(); j < end; j += 32) value[t * capacity + j] = from[j - begin];
    begin = end;
  }
}

template <typename T, int N>
__global__ void join_columns(const T *parts, int64_t width, const uint8_t *keep, const T *kept, T *out, int64_t rows,
                             int64_t cols) {
  ESP_FOR_EACH(i, rows * cols / N) {
    const int64_t r = i * N / cols, c = i * N % cols;
    const bool passes = keep != nullptr && keep[r] != 0;
    const T *from = passes ? kept + r * cols + c : parts + (c / width * rows + r) * width + c % width;
    esp::store(out + r * cols + c, esp::load<N>(from));
  }
}

}  // namespace

int32_t esp_sae_merge(const void *packed, const int32_t *first, int64_t parts, int64_t k, int32_t *index, float *value,
                      float *pre, int32_t *count, int64_t capacity, int32_t *overflow, int64_t tokens) {
  ESP_REQUIRE(tokens >= 0 && parts > 0 && capacity > 0, "bad sizes: tokens=%ld parts=%ld capacity=%ld", tokens, parts,
              capacity);
  ESP_REQUIRE(parts <= INT_MAX / capacity, "%ld lists of %ld entries: not below 2^31", parts, capacity);
  ESP_REQUIRE(k >= 0 && k <= capacity, "k must be in [0, %ld], got %ld", capacity, k);
  const Parts all{static_cast<const int32_t *>(packed), first, static_cast<int32_t>(parts),
                  static_cast<int32_t>(capacity), tokens};
  const esp::Lists lists{index, value, pre, count, nullptr, capacity, overflow};
  return ESP_LAUNCH(merge, tokens, esp::kThreads, all, static_cast<int32_t>(k), lists);
}

int32_t esp_sae_part(const int32_t *index, const int32_t *count, int64_t capacity, int64_t first, int64_t latents,
                     int32_t *part_index, int32_t *part_count, int64_t tokens) {
  ESP_REQUIRE(tokens >= 0 && capacity > 0 && first >= 0 && latents >= 0,
              "bad sizes: tokens=%ld capacity=%ld first=%ld latents=%ld", tokens, capacity, first, latents);
  return ESP_LAUNCH(part, blocks_of_warps(tokens), esp::kThreads, index, count, capacity, first, latents, part_index,
                    part_count, tokens);
}

int32_t esp_sae_join(const float *part_value, const int32_t *first, int64_t parts, const int32_t *index,
                     const int32_t *count, int64_t capacity, float *value, int64_t tokens) {
  ESP_REQUIRE(tokens >= 0 && parts > 0 && parts <= INT_MAX && capacity > 0,
              "bad sizes: tokens=%ld parts=%ld capacity=%ld", tokens, parts, capacity);
  return ESP_LAUNCH(join, blocks_of_warps(tokens), esp::kThreads, part_value, first, static_cast<int32_t>(parts), index,
                    count, capacity, value, tokens);
}

int32_t esp_join_columns(const void *parts, int64_t width, const uint8_t *keep, const void *kept, void *out,
                         int64_t rows, int64_t cols, int32_t dtype) {
  ESP_REQUIRE(rows >= 0 && cols > 0 && width > 0, "bad sizes: rows=%ld cols=%ld width=%ld", rows, cols, width);
  ESP_REQUIRE(keep == nullptr || kept != nullptr, "keep needs the rows that are kept");
  const int64_t in_packs = width % 8 == 0 ? cols : 1; /* otherwise a pack might lie in two parts, or not be aligned */
  return esp::with_packs(dtype, in_packs, {parts, kept, out}, [=](auto type, auto pack) {
    using T = decltype(type);
    constexpr int N = decltype(pack)::value;
    return ESP_LAUNCH((join_columns<T, N>), esp::blocks_for(rows * cols / N), esp::kThreads,
                      static_cast<const T *>(parts), width, keep, static_cast<const T *>(kept), static_cast<T *>(out),
                      rows, cols);
  });
}
