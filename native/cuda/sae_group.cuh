/*
 * The largest z of each of k groups of consecutive latents (ESP_GROUPMAX). A block takes a row. Internal.
 *
 * A warp takes one group at a time: its lanes go through it 32 columns apart and then agree on the largest z, of equal
 * ones the first. The results of 32 groups are put into the list as those of a word are in sae_list.cuh. It reads 4
 * bytes a z, once.
 */
#ifndef ESPALIER_CUDA_SAE_GROUP_CUH
#define ESPALIER_CUDA_SAE_GROUP_CUH

#include <cfloat>

#include "sae_list.cuh"

namespace esp {

struct Winner {
  float z;
  int64_t latent;

  __device__ void challenge(float other_z, int64_t other) {
    if (other_z > z || (other_z == z && other < latent)) {
      z = other_z;
      latent = other;
    }
  }
};

/* Groups have `size` latents each, and a slice consists of whole groups. */
__global__ void list_groups(Rows rows, const float *bias, int64_t size, Slice slice, Lists lists) {
  const int64_t t = blockIdx.x, groups = rows.m / size;
  if (lists.keeps(t)) {
    if (threadIdx.x == 0) lists.count[t] = 0;
    return;
  }
  const float *z = rows.z + t * rows.ld();
  bool nan;
  int32_t entries = slice.start(lists, t, nan), of_strip;
  for (int64_t strip = 0; strip < groups; strip += kThreads) {
    const int64_t first = strip + threadIdx.x / 32 * 32; /* the first of the warp's 32 groups */
    Winner own{-FLT_MAX, 0};                             /* each lane keeps that of one group */
    for (int i = 0; i < 32 && first + i < groups; i++) {
      const int64_t begin = (first + i) * size;
      Winner best{-FLT_MAX, begin};
      for (int64_t c = begin + lane_index(); c < begin + size; c += 32) {
        const float sum = z[c] + bias[c];
        nan = nan || sum != sum;
        best.challenge(sum, c);
      }
      for (int lanes = 16; lanes > 0; lanes /= 2) {
        const float other_z = __shfl_xor_sync(kAllLanes, best.z, lanes);
        const int64_t other = __shfl_xor_sync(kAllLanes, best.latent, lanes);
        best.challenge(other_z, other);
      }
      if (lane_index() == i) own = best;
    }
    const int32_t taken = own.z > 0 ? 1 : 0;
    const int64_t at = entries + block_scan(taken, of_strip);
    entries += of_strip;
    if (taken != 0) lists.put(t, at, slice.first + own.latent, own.z, own.z);
  }
  nan = __syncthreads_or(nan ? 1 : 0) != 0;
  if (threadIdx.x == 0) slice.end(lists, t, entries, nan);
}

}  // namespace esp

#endif
