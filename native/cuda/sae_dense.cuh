/*
 * What encoding and the search among silent latents have in common: scratch memory, and z of a chunk of rows by the
 * library's product. Internal.
 *
 * b_pre: a float row has it subtracted before the product, as on the CPU. A bfloat16 row would lose more than it gains
 * by another rounding, so that z = w_enc x + (b_enc - w_enc b_pre): the bracket is made once a call, in float32, for
 * 2 d m bytes; the products of bfloat16 numbers are exact in it.
 */
#ifndef ESPALIER_CUDA_SAE_DENSE_CUH
#define ESPALIER_CUDA_SAE_DENSE_CUH

#include <algorithm>

#include "sae_list.cuh"
#include "vector.cuh"

namespace esp {

/* As many rows as make 64 MB of z, at least 256, with which reading w_enc again for the next chunk takes no longer than
 * its product, and at most 1024. */
inline int64_t chunk_rows(int64_t m) {
  return std::min<int64_t>(1024, std::max<int64_t>(256, (int64_t{1} << 24) / m / 128 * 128));
}

/* Parts of the caller's scratch memory, each 256 bytes aligned if it is. */
struct Scratch {
  float *bias;    /* [m] */
  float *centred; /* [chunk, d] */
  Rows rows;      /* [chunk, m] */
  int64_t floats; /* of all */

  Scratch(float *base, int64_t d, int64_t m) {
    const int64_t chunk = chunk_rows(m);
    floats = 0;
    const auto take = [&](int64_t n) {
      float *part = base + floats;
      floats += (n + 63) / 64 * 64;
      return part;
    };
    bias = take(m);
    centred = take(chunk * d);
    rows.m = m;
    rows.words = reinterpret_cast<uint32_t *>(take(chunk * words_of(m)));
    rows.z = take(chunk * rows.ld());
  }
};

template <int N>
__global__ void subtract_row(const float *x, const float *row, float *out, int64_t d) {
  const int64_t t = blockIdx.x;
  for (int64_t c = threadIdx.x * N; c < d; c += blockDim.x * N) {
    Pack<N> a = load<N>(x + t * d + c);
    const Pack<N> b = load<N>(row + c);
    for (int i = 0; i < N; i++) a[i] -= b[i];
    store(out + t * d + c, a);
  }
}

/* bias = b_enc - w_enc b_pre, a warp a latent. */
template <int N>
__global__ void fold_bias(const bf16 *w_enc, const float *b_pre, const float *b_enc, float *bias, int64_t d,
                          int64_t m) {
  const int64_t latent = static_cast<int64_t>(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
  if (latent >= m) return; /* the whole warp */
  float dot = 0;
  for (int64_t c = lane_index() * N; c < d; c += 32 * N) {
    const Pack<N> w = load<N>(w_enc + latent * d + c), b = load<N>(b_pre + c);
    for (int i = 0; i < N; i++) dot += w[i] * b[i];
  }
  dot = warp_sum(dot);
  if (lane_index() == 0) bias[latent] = b_enc[latent] - dot;
}

/* An encoder and the rows it reads. */
struct Encoder {
  const void *x, *w_enc;
  const float *b_enc, *b_pre;
  int64_t d, m;
  int32_t dtype;

  const void *row(int64_t t) const {
    return static_cast<const uint8_t *>(x) + t * d * (dtype == ESP_BF16 ? sizeof(bf16) : sizeof(float));
  }
  bool folds() const { return dtype == ESP_BF16 && b_pre != nullptr; }
  /* What is added to the product. */
  const float *bias(const Scratch &scratch) const { return folds() ? scratch.bias : b_enc; }

  int32_t prepare(const Scratch &scratch) const {
    if (!folds()) return ESP_OK;
    const int64_t blocks = (m + kThreads / 32 - 1) / (kThreads / 32);
    const auto *w = static_cast<const bf16 *>(w_enc);
    return in_packs<bf16>(d, {w_enc, b_pre})
               ? ESP_LAUNCH(fold_bias<kPack<bf16>>, blocks, kThreads, w, b_pre, b_enc, scratch.bias, d, m)
               : ESP_LAUNCH(fold_bias<1>, blocks, kThreads, w, b_pre, b_enc, scratch.bias, d, m);
  }

  /* scratch.rows.z = the product for n rows from `first` on, without bias. */
  int32_t multiply(const Scratch &scratch, int64_t first, int64_t n) const {
    const void *input = row(first);
    if (dtype == ESP_F32 && b_pre != nullptr) {
      constexpr int N = kPack<float>;
      const auto *in = static_cast<const float *>(input);
      const int32_t status = in_packs<float>(d, {input, b_pre, scratch.centred})
                                 ? ESP_LAUNCH(subtract_row<N>, n, threads_for_row(d, N), in, b_pre, scratch.centred, d)
                                 : ESP_LAUNCH(subtract_row<1>, n, threads_for_row(d, 1), in, b_pre, scratch.centred, d);
      if (status != ESP_OK) return status;
      input = scratch.centred;
    }
    return esp_gemm(0, 1, n, m, d, 1, input, d, w_enc, d, 0, scratch.rows.z, scratch.rows.ld(), ESP_F32, dtype);
  }
};

}  // namespace esp

#endif
