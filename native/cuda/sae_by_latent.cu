/*
 * The reverse index of lists of latents, which gives the entries of each latent: a counting sort without scratch
 * memory, in four steps.
 *
 *   count     offsets[i + 1] = the number of entries of latent i. These are integers: any order of counting will do
 *   scan      offsets[i + 1] = the number of entries of the latents before i, by one block
 *   place     each entry takes the next place of its latent, in any order. Then offsets[i + 1] is the end of latent i
 *   order     each latent's entries are sorted, so the result does not depend on the order in which they were placed
 *
 * It moves 4 bytes an entry four times and 4 m bytes twice, and is bound by latency. A warp takes a token, in the last
 * step a latent. Most latents have few entries: up to 32 are ranked by shuffles. More are sorted by the block, in
 * shared memory up to 4096, beyond that in place.
 */
#include <climits>

#include "scan.cuh"

namespace {

constexpr int kWarps = esp::kThreads / 32;
constexpr unsigned kScanThreads = 1024;
constexpr int kScanned = 4; /* how many offsets a thread has */
constexpr int32_t kSorted = 4096;

inline int64_t blocks_of_warps(int64_t n) { return (n + kWarps - 1) / kWarps; }

__device__ inline int lane_index() { return static_cast<int>(threadIdx.x % 32); }

__global__ void clear(int32_t *offsets, int64_t n) { ESP_FOR_EACH(i, n) offsets[i] = 0; }

/* Calls body(entry) for the entries of the warp's token, one for each lane at a time. */
template <typename Body>
__device__ inline void for_entries(const int32_t *count, int64_t capacity, int64_t tokens, const Body &body) {
  const int64_t t = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (t >= tokens) return;
  const int32_t begin = static_cast<int32_t>(t * capacity), end = begin + count[t];
  for (int32_t entry = begin + lane_index(); entry < end; entry += 32) body(entry);
}

__global__ void count_entries(const int32_t *index, const int32_t *count, int64_t capacity, int32_t *offsets,
                              int64_t tokens) {
  for_entries(count, capacity, tokens, [=](int32_t entry) { atomicAdd(offsets + index[entry] + 1, 1); });
}

__global__ void scan(int32_t *offsets, int64_t m) {
  int32_t before = 0;
  for (int64_t strip = 0; strip < m; strip += kScanThreads * kScanned) {
    const int64_t first = strip + threadIdx.x * kScanned;
    int32_t entries[kScanned], own = 0, all;
    for (int i = 0; i < kScanned; i++) {
      entries[i] = first + i < m ? offsets[first + i + 1] : 0;
      own += entries[i];
    }
    int32_t start = before + esp::block_scan(own, all);
    for (int i = 0; i < kScanned; i++) {
      if (first + i < m) offsets[first + i + 1] = start;
      start += entries[i];
    }
    before += all;
  }
}

__global__ void place(const int32_t *index, const int32_t *count, int64_t capacity, int32_t *offsets,
                      int32_t *by_latent, int64_t tokens) {
  for_entries(count, capacity, tokens,
              [=](int32_t entry) { by_latent[atomicAdd(offsets + index[entry] + 1, 1)] = entry; });
}

__device__ inline void exchange(int32_t *at, int64_t low, int64_t high, int64_t n) {
  if (high >= n || at[low] <= at[high]) return;
  const int32_t larger = at[low];
  at[low] = at[high];
  at[high] = larger;
}

/* Sorts by a bitonic network (Batcher 1968) all of whose exchanges put the smaller entry first. What lies beyond n
 * counts as infinite, so it never moves. */
__device__ inline void sort(int32_t *at, int64_t n) {
  for (int64_t size = 2; size / 2 < n; size *= 2) {
    const int64_t half = size / 2, pairs = (n + size - 1) / size * half;
    for (int64_t i = threadIdx.x; i < pairs; i += esp::kThreads) {
      const int64_t low = i / half * size + i % half;
      exchange(at, low, low + size - 1 - 2 * (i % half), n);
    }
    __syncthreads();
    for (int64_t stride = half / 2; stride > 0; stride /= 2) {
      for (int64_t i = threadIdx.x; i < pairs; i += esp::kThreads) {
        const int64_t low = i / stride * 2 * stride + i % stride;
        exchange(at, low, low + stride, n);
      }
      __syncthreads();
    }
  }
}

__global__ void order(const int32_t *offsets, int32_t *by_latent, int64_t m) {
  __shared__ int32_t begins[kWarps], lengths[kWarps], sorted[kSorted];
  const int lane = lane_index(), warp = static_cast<int>(threadIdx.x / 32);
  const int64_t latent = static_cast<int64_t>(blockIdx.x) * kWarps + warp;
  const int32_t begin = latent < m ? offsets[latent] : 0;
  const int32_t length = latent < m ? offsets[latent + 1] - begin : 0;
  if (lane == 0) {
    begins[warp] = begin;
    lengths[warp] = length;
  }
  if (length > 1 && length <= 32) { /* the whole warp */
    const int32_t entry = lane < length ? by_latent[begin + lane] : INT_MAX;
    int32_t rank = 0;
    for (int other = 0; other < length; other++) rank += __shfl_sync(esp::kAllLanes, entry, other) < entry ? 1 : 0;
    __syncwarp(); /* all have read */
    if (lane < length) by_latent[begin + rank] = entry;
  }
  __syncthreads();
  for (int w = 0; w < kWarps; w++) {
    const int32_t n = lengths[w];
    if (n <= 32) continue; /* the whole block */
    int32_t *entries = by_latent + begins[w];
    if (n > kSorted) {
      sort(entries, n);
      continue;
    }
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < n; i += esp::kThreads) sorted[i] = entries[i];
    __syncthreads();
    sort(sorted, n);
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < n; i += esp::kThreads) entries[i] = sorted[i];
    __syncthreads(); /* before the next latent's entries come */
  }
}

}  // namespace

int32_t esp_sae_by_latent(const int32_t *index, const int32_t *count, int64_t capacity, int32_t *offsets,
                          int32_t *by_latent, int64_t tokens, int64_t m) {
  ESP_REQUIRE(tokens >= 0 && m > 0 && capacity > 0, "bad sizes: tokens=%ld m=%ld capacity=%ld", tokens, m, capacity);
  ESP_REQUIRE(tokens * capacity <= INT_MAX, "tokens * capacity = %ld is not below 2^31", tokens * capacity);
  int32_t status = ESP_LAUNCH(clear, esp::blocks_for(m + 1), esp::kThreads, offsets, m + 1);
  if (status != ESP_OK) return status;
  status = ESP_LAUNCH(count_entries, blocks_of_warps(tokens), esp::kThreads, index, count, capacity, offsets, tokens);
  if (status != ESP_OK) return status;
  status = ESP_LAUNCH(scan, 1, kScanThreads, offsets, m);
  if (status != ESP_OK) return status;
  status =
      ESP_LAUNCH(place, blocks_of_warps(tokens), esp::kThreads, index, count, capacity, offsets, by_latent, tokens);
  if (status != ESP_OK) return status;
  return ESP_LAUNCH(order, blocks_of_warps(m), esp::kThreads, offsets, by_latent, m);
}
