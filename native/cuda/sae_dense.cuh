/*
 * What encoding and the search among silent latents have in common: scratch memory, the order in which z are made, and
 * z by the library's product. Internal.
 *
 * 1024 rows at a time, and of those 65536 latents at a time: 256 MB of z. w_enc is then read once every 1024 rows, and
 * a product has 2 * 1024 * 65536 d FLOPs: with d = 2304, 0.39 ms at 800 TFLOP/s, in which its start and end are lost.
 * Chunks of 256 rows and all latents, as there were before, made products that wait for w_enc: all that is done for a z
 * took 15 ps on an H200 (d = 2304, 262144 and 1048576 latents, selection included), where a product of 1024 rows takes
 * 6. Selections that need whole rows of z get fewer rows, but at least 256.
 *
 * b_pre: a float row has it subtracted before the product, as on the CPU.
 */
#ifndef ESPALIER_CUDA_SAE_DENSE_CUH
#define ESPALIER_CUDA_SAE_DENSE_CUH

#include <algorithm>

#include "sae_list.cuh"
#include "vector.cuh"

namespace esp {

#ifdef __CUDACC__
constexpr int64_t kChunkRows = 1024, kFewestRows = 256, kSliceLatents = 65536;
#else /* the emulator goes the ways of large shapes with small ones */
constexpr int64_t kChunkRows = 256, kFewestRows = 64, kSliceLatents = 4096;
#endif

/* Floats of z that exist at a time. */
inline int64_t chunk_floats(int64_t m) {
  const auto row = [](int64_t latents) { return Rows{nullptr, nullptr, latents}.ld(); };
  return std::max(kChunkRows * row(std::min(m, kSliceLatents)), kFewestRows * row(m));
}

/* Rows and latents of a product. */
struct Chunk {
  int64_t rows, latents;
};

/* Slices that are about equal, of whole units of latents that must not be parted, and as many rows as there is room. */
inline Chunk chunk_of(int64_t m, int64_t unit) {
  const int64_t slices = (m + kSliceLatents - 1) / kSliceLatents, equal = (m + slices - 1) / slices;
  const int64_t latents = std::min(m, (equal + unit - 1) / unit * unit);
  return {std::min(kChunkRows, chunk_floats(m) / Rows{nullptr, nullptr, latents}.ld()), latents};
}

/* Parts of the caller's scratch memory, each 256 bytes aligned. */
struct Scratch {
  float *centred; /* [kChunkRows, d] */
  float *z;       /* [chunk_floats] */
  uint32_t *words;
  int64_t floats; /* of all */

  Scratch(float *base, int64_t d, int64_t m) {
    constexpr uintptr_t kAlignment = 256;
    const uintptr_t start = (reinterpret_cast<uintptr_t>(base) + kAlignment - 1) / kAlignment * kAlignment;
    floats = kAlignment / sizeof(float);
    const auto take = [&](int64_t n) {
      auto *part = reinterpret_cast<float *>(start) + floats - kAlignment / sizeof(float);
      floats += (n + 63) / 64 * 64;
      return part;
    };
    centred = take(kChunkRows * d);
    words = reinterpret_cast<uint32_t *>(take(chunk_floats(m) / 32));
    z = take(chunk_floats(m));
  }
  Rows rows(int64_t latents) const { return {z, words, latents}; }
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

/* An encoder and the rows it reads. */
struct Encoder {
  const void *x, *w_enc;
  const float *b_enc, *b_pre;
  int64_t d, m;
  int32_t dtype;

  int64_t row_bytes() const { return d * static_cast<int64_t>(dtype == ESP_BF16 ? sizeof(bf16) : sizeof(float)); }
  const void *row(int64_t t) const { return static_cast<const uint8_t *>(x) + t * row_bytes(); }
  const void *weights(const Slice &slice) const {
    return static_cast<const uint8_t *>(w_enc) + slice.first * row_bytes();
  }
  /* n rows from `first` on as the product has them. */
  int32_t centre(const Scratch &scratch, int64_t first, int64_t n, const void *&input) const {
    input = row(first);
    if (b_pre == nullptr) return ESP_OK;
    constexpr int N = kPack<float>;
    const auto *in = static_cast<const float *>(input);
    input = scratch.centred;
    return in_packs<float>(d, {in, b_pre})
               ? ESP_LAUNCH(subtract_row<N>, n, threads_for_row(d, N), in, b_pre, scratch.centred, d)
               : ESP_LAUNCH(subtract_row<1>, n, threads_for_row(d, 1), in, b_pre, scratch.centred, d);
  }

  /* scratch.z = the product of n such rows and a slice's latents, without bias. */
  int32_t multiply(const Scratch &scratch, const void *input, int64_t n, const Slice &slice) const {
    return esp_gemm(0, 1, n, slice.latents, d, 1, input, d, weights(slice), d, 0, scratch.z,
                    scratch.rows(slice.latents).ld(), ESP_F32, dtype);
  }
};

/* body(first, n, slice) for all slices of n rows from `first` on, one row chunk after another. */
template <typename Body>
int32_t for_chunks(int64_t tokens, int64_t m, int64_t unit, const Body &body) {
  const Chunk chunk = chunk_of(m, unit);
  for (int64_t first = 0; first < tokens; first += chunk.rows) {
    for (int64_t latent = 0; latent < m; latent += chunk.latents) {
      const int64_t latents = std::min(chunk.latents, m - latent);
      const Slice slice{latent, latents, latent == 0, latent + latents == m};
      if (const int32_t status = body(first, std::min(chunk.rows, tokens - first), slice)) return status;
    }
  }
  return ESP_OK;
}

}  // namespace esp

#endif
