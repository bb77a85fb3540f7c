/*
 * BatchTopK: keeps the largest entries of a whole batch's lists. And for each list, how many entries are among the
 * first latents (esp_sae_prefix).
 *
 * The bits of positive floats, read as integers, are in the same order as the floats, with NaN above all. One block
 * finds the smallest value that stays, in the way of sae_largest.cuh: three passes over the values, 4 bytes an entry,
 * at the speed of one multiprocessor (about 20 us for a pass over 2 MB). If not all entries equal to that value stay,
 * it also finds the last one that does. Then a warp takes a row and moves what stays to the row's front. The first
 * kernel hands its result to the second in a variable of the library, which is safe because all kernels go to one
 * stream.
 */
#include <climits>

#include "sae_largest.cuh"

namespace {

constexpr int kWarps = esp::kThreads / 32;
constexpr unsigned kSearchThreads = 1024;

/* Which entries stay: those above `bar`, and those equal to it up to number `last`, where numbers are t * capacity + j.
 */
struct Choice {
  uint32_t bar;
  int64_t last;

  __device__ bool takes(uint32_t key, int64_t entry) const { return key > bar || (key == bar && entry <= last); }
};

__device__ Choice choice;

struct Batch {
  int32_t *index;
  float *value;
  int32_t *count;
  int64_t capacity, tokens;
};

/* Calls body(entry, key) for all entries; warps take rows in turn. */
template <typename Body>
__device__ inline void for_entries(const Batch &batch, const Body &body) {
  for (int64_t t = threadIdx.x / 32; t < batch.tokens; t += kSearchThreads / 32) {
    const int64_t begin = t * batch.capacity, end = begin + batch.count[t];
    for (int64_t entry = begin + esp::lane_index(); entry < end; entry += 32) {
      body(entry, __float_as_uint(batch.value[entry]));
    }
  }
}

/* The number of the wanted-th entry among those equal to bar. A thread takes consecutive rows. */
__device__ inline int64_t find_last(const Batch &batch, uint32_t bar, int32_t wanted) {
  __shared__ int64_t last;
  const int64_t rows = (batch.tokens + kSearchThreads - 1) / kSearchThreads;
  const int64_t first = threadIdx.x * rows, end = first + rows < batch.tokens ? first + rows : batch.tokens;
  /* Calls found(entry) for the entries of this thread's rows that equal bar. */
  const auto walk = [&](const auto &found) {
    for (int64_t t = first; t < end; t++) {
      for (int64_t entry = t * batch.capacity; entry < t * batch.capacity + batch.count[t]; entry++) {
        if (__float_as_uint(batch.value[entry]) == bar) found(entry);
      }
    }
  };
  int32_t own = 0, all;
  walk([&](int64_t) { own++; });
  int32_t before = esp::block_scan(own, all);
  if (before < wanted && wanted <= before + own) {
    walk([&](int64_t entry) {
      if (++before == wanted) last = entry;
    });
  }
  __syncthreads();
  return last;
}

__global__ void search(Batch batch, int64_t k, const uint8_t *keep) {
  __shared__ int32_t bins[esp::kBins];
  double rows = 0, listed = 0; /* whole numbers */
  for (int64_t t = threadIdx.x; t < batch.tokens; t += kSearchThreads) {
    rows += keep == nullptr || keep[t] == 0 ? 1 : 0;
    listed += batch.count[t];
  }
  rows = esp::block_sum(rows) * static_cast<double>(k);
  listed = esp::block_sum(listed);
  const int32_t wanted = static_cast<int32_t>(rows < listed ? rows : listed);
  if (wanted == 0) { /* the whole block */
    if (threadIdx.x == 0) choice = {UINT_MAX, -1};
    return;
  }
  esp::Bin found{0, wanted, 0};
  uint32_t bar = 0;
  int shift = 32;
  for (int bits : {11, 11, 10}) {
    for (int i = static_cast<int>(threadIdx.x); i < esp::kBins; i += kSearchThreads) bins[i] = 0;
    __syncthreads();
    const int above = shift;
    shift -= bits;
    for_entries(batch, [&](int64_t, uint32_t key) {
      if (above == 32 || key >> above == bar) atomicAdd(bins + (key >> shift & ((1u << bits) - 1)), 1);
    });
    __syncthreads();
    found = esp::find_bin(bins, found.wanted);
    bar = bar << bits | static_cast<uint32_t>(found.bin);
    __syncthreads(); /* all have read the bins and what was found */
  }
  const int64_t last = found.wanted == found.entries ? LLONG_MAX : find_last(batch, bar, found.wanted);
  if (threadIdx.x == 0) choice = {bar, last};
}

__global__ void move(Batch batch, int32_t *overflow, int64_t m) {
  const int64_t t = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (t >= batch.tokens) return; /* the whole warp */
  const Choice chosen = choice;
  const int lane = esp::lane_index();
  const int32_t entries = batch.count[t];
  int64_t to = t * batch.capacity;
  for (int32_t first = 0; first < entries; first += 32) {
    const int64_t entry = t * batch.capacity + first + lane;
    const bool inside = first + lane < entries;
    const int32_t latent = inside ? batch.index[entry] : 0;
    const float v = inside ? batch.value[entry] : 0.0f;
    const uint32_t kept = __ballot_sync(esp::kAllLanes, inside && chosen.takes(__float_as_uint(v), entry));
    __syncwarp(); /* all have read */
    if (kept >> lane & 1u) {
      const int64_t at = to + __popc(kept & ((1u << lane) - 1));
      batch.index[at] = latent;
      batch.value[at] = v;
    }
    to += __popc(kept);
  }
  __syncwarp(); /* all have read the count, also that of an empty list */
  if (lane != 0) return;
  const int32_t kept = static_cast<int32_t>(to - t * batch.capacity);
  batch.count[t] = kept;
  if (kept == batch.capacity && batch.capacity < m && overflow != nullptr) atomicMax(overflow, kept + 1);
}

/* Runs in one thread. */
__global__ void tell(float *smallest) {
  const float bar = __uint_as_float(choice.bar); /* NaN if nothing stays */
  *smallest = bar == bar ? bar : -1;
}

__global__ void count_prefix(const int32_t *index, const int32_t *count, int64_t capacity, int64_t limit,
                             int32_t *prefix, int64_t tokens) {
  ESP_FOR_EACH(t, tokens) prefix[t] = esp::entries_below(index + t * capacity, count[t], limit);
}

}  // namespace

int32_t esp_sae_batch_topk(int32_t *index, float *value, int32_t *count, int64_t capacity, int64_t k,
                           const uint8_t *keep, float *smallest, int32_t *overflow, int64_t tokens, int64_t m) {
  ESP_REQUIRE(tokens >= 0 && m > 0 && capacity > 0 && k > 0, "bad sizes: tokens=%ld m=%ld capacity=%ld k=%ld", tokens,
              m, capacity, k);
  ESP_REQUIRE(tokens * capacity <= INT_MAX, "tokens * capacity = %ld is not below 2^31", tokens * capacity);
  const Batch batch{index, value, count, capacity, tokens};
  int32_t status = ESP_LAUNCH(search, 1, kSearchThreads, batch, k, keep);
  if (status == ESP_OK) {
    status = ESP_LAUNCH(move, (tokens + kWarps - 1) / kWarps, esp::kThreads, batch, overflow, m);
  }
  if (status == ESP_OK) status = ESP_LAUNCH(tell, 1, 1, smallest);
  return status;
}

int32_t esp_sae_prefix(const int32_t *index, const int32_t *count, int64_t capacity, int64_t limit, int32_t *prefix,
                       int64_t tokens) {
  ESP_REQUIRE(tokens >= 0 && capacity > 0, "bad sizes: tokens=%ld capacity=%ld", tokens, capacity);
  return ESP_LAUNCH(count_prefix, esp::blocks_for(tokens), esp::kThreads, index, count, capacity, limit, prefix,
                    tokens);
}
