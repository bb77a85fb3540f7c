/*
 * Lists from words with a bit for each latent. The encoder's kernel (sae_tile.cuh) or sae_mark.cuh has set the bits of
 * active latents. Internal.
 *
 * It works as sae_list.cuh describes, but a thread has up to 8 consecutive words, so that 65536 latents are one strip
 * and need one prefix sum. It reads 1/8 byte a latent, and 4 bytes an entry of z (32 of a sector).
 */
#ifndef ESPALIER_CUDA_SAE_WORDS_CUH
#define ESPALIER_CUDA_SAE_WORDS_CUH

#include "sae_list.cuh"

namespace esp {

struct Marked {
  Rows rows;
  const float *bias; /* what z lacks, or NULL */
  Gate gate;
  Slice slice;

  struct Row {
    const float *z, *bias;
    Gate gate;
    int64_t first;

    __device__ float at(int64_t c) const { return bias == nullptr ? z[c] : z[c] + bias[c]; }
    __device__ int64_t latent(int64_t c) const { return first + c; }
    __device__ float value(float z_c, int64_t c) const { return gate.value(z_c, c); }
  };
};

__global__ void list_marked(Marked marked, Lists lists) {
  constexpr int kMost = 8;
  const int64_t t = blockIdx.x, words = words_of(marked.rows.m);
  if (lists.keeps(t)) {
    if (threadIdx.x == 0) lists.count[t] = 0;
    return;
  }
  const uint32_t *of_row = marked.rows.words + t * words;
  const Marked::Row row{marked.rows.z + t * marked.rows.ld(), marked.bias, marked.gate, marked.slice.first};
  const int64_t share = (words + kThreads - 1) / kThreads; /* so that short rows keep all threads busy, too */
  const int each = static_cast<int>(share < kMost ? share : kMost);
  bool nan;
  int32_t entries = marked.slice.start(lists, t, nan), of_strip;
  for (int64_t strip = 0; strip < words; strip += each * kThreads) {
    const int64_t first = strip + each * static_cast<int64_t>(threadIdx.x);
    uint32_t own[kMost];
    int32_t active = 0;
#pragma unroll
    for (int i = 0; i < kMost; i++) {
      own[i] = i < each && first + i < words ? of_row[first + i] : 0;
      active += __popc(own[i]);
    }
    int64_t at = entries + block_scan(active, of_strip);
    entries += of_strip;
#pragma unroll
    for (int i = 0; i < kMost; i++) put_word(row, own[i], 32 * (first + i), t, lists, at, nan);
  }
  nan = __syncthreads_or(nan ? 1 : 0) != 0;
  if (threadIdx.x == 0) marked.slice.end(lists, t, entries, nan);
}

}  // namespace esp

#endif
