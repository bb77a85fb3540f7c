/*
 * The k largest z above 0 of a row, for ESP_TOPK and for silent latents. Internal.
 *
 * The bits of floats above 0, read as integers, are in the same order as the floats. So the k-th largest is found by
 * radix selection: one pass counts z by their upper 11 bits, the next those that agree with it so far by the next 11,
 * and the last by the remaining 10. A pass ends the search early if all that agree are among the k. Of z equal to the
 * k-th, those with the lowest indices are taken. It reads 4 bytes a z three or four times, mostly from L2. The
 * alternatives, sorting candidates or keeping heaps, need passes of the same size for k up to 512, and do not work
 * beyond.
 */
#ifndef ESPALIER_CUDA_SAE_LARGEST_CUH
#define ESPALIER_CUDA_SAE_LARGEST_CUH

#include "sae_list.cuh"

namespace esp {

/* The result of the search: z above `bar` are taken, and the first `ties` of those equal to it. */
struct Bar {
  float bar;
  int32_t ties;
};

constexpr int kBins = 2048;

/* From counts in bins, in shared memory: the bin with the entry that has `wanted` - 1 larger ones. */
struct Bin {
  int32_t bin, wanted, entries; /* the bin, how many of its entries are wanted, and how many it has */
};

__device__ inline Bin find_bin(const int32_t *bins, int32_t wanted) {
  __shared__ Bin found;
  const int per_thread = kBins / static_cast<int>(blockDim.x);
  const int last = kBins - 1 - static_cast<int>(threadIdx.x) * per_thread; /* threads take bins from the highest down */
  int32_t own = 0, all;
  for (int i = 0; i < per_thread; i++) own += bins[last - i];
  int32_t above = block_scan(own, all);
  if (above < wanted && wanted <= above + own) { /* true for one thread only */
    int bin = last;
    while (above + bins[bin] < wanted) above += bins[bin--];
    found = {bin, wanted - above, bins[bin]};
  }
  __syncthreads();
  return found;
}

/* Finds the bar among z(c), c < m. All threads of the block must call it. `nan` receives whether this thread saw a NaN.
 */
template <typename Z>
__device__ inline Bar find_bar(const Z &z, int64_t m, int64_t k, bool &nan) {
  __shared__ int32_t bins[kBins];
  Bin found{};
  uint32_t prefix = 0;
  found.wanted = static_cast<int32_t>(k);
  int shift = 32;
  for (int bits : {11, 11, 10}) {
    for (int i = static_cast<int>(threadIdx.x); i < kBins; i += kThreads) bins[i] = 0;
    __syncthreads();
    const int above = shift;
    shift -= bits;
    int32_t positive = 0;
#pragma unroll 4
    for (int64_t c = threadIdx.x; c < m; c += kThreads) {
      const float value = z(c);
      nan = nan || value != value;
      if (!(value > 0)) continue;
      const uint32_t key = __float_as_uint(value);
      if (above < 32 && key >> above != prefix) continue;
      positive++;
      atomicAdd(bins + (key >> shift & ((1u << bits) - 1)), 1);
    }
    if (above == 32) {
      int32_t all;
      block_scan(positive, all);
      if (all <= k) return {0, 0};
    }
    __syncthreads();
    found = find_bin(bins, found.wanted);
    prefix = prefix << bits | static_cast<uint32_t>(found.bin);
    if (found.entries == found.wanted) return {__uint_as_float((prefix << shift) - 1), 0};
    __syncthreads(); /* all have read the bins and what was found */
  }
  return {__uint_as_float(prefix), found.wanted};
}

/* A word that says which of this thread's 32 columns of a strip the bar lets through. `ties`: how many equal to the bar
 * were met in the strips before. All threads of the block must call it. */
template <typename Z>
__device__ inline uint32_t largest_of_strip(const Z &z, int64_t strip, int64_t m, const Bar &bar, int32_t &ties) {
  const uint32_t above = vote(strip, m, [&](int64_t c) { return z(c) > bar.bar; });
  if (bar.ties == 0) return above; /* the whole block */
  uint32_t equal = vote(strip, m, [&](int64_t c) { return z(c) == bar.bar; });
  int32_t of_strip;
  int32_t before = ties + block_scan(__popc(equal), of_strip);
  ties += of_strip;
  uint32_t taken = 0;
  for (; equal != 0 && before < bar.ties; before++, equal &= equal - 1) taken |= equal & -equal;
  return above | taken;
}

struct Largest {
  Rows rows;
  const float *bias;
  int64_t k;
  const float *silent; /* if not NULL, only latents with silent[i] > limit count, and NaN does not */
  float limit;

  struct Row {
    const float *z, *bias, *silent;
    float limit;
    int64_t m, k;
    Bar bar;
    int32_t ties; /* met so far */

    __device__ bool start() {
      bool nan = false;
      bar = find_bar([this](int64_t c) { return at(c); }, m, k, nan);
      ties = 0;
      return nan;
    }
    __device__ uint32_t active(int64_t strip) {
      return largest_of_strip([this](int64_t c) { return at(c); }, strip, m, bar, ties);
    }
    __device__ float at(int64_t c) const {
      const float sum = z[c] + bias[c];
      return silent == nullptr || (silent[c] > limit && sum == sum) ? sum : 0.0f;
    }
    __device__ int64_t latent(int64_t c) const { return c; }
    __device__ float value(float z_c, int64_t) const { return z_c; }
  };

  __device__ Row row(int64_t t) const { return {rows.z + t * rows.ld(), bias, silent, limit, rows.m, k, {}, 0}; }
};

}  // namespace esp

#endif
