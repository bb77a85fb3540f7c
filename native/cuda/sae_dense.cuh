/*
 * What encoding and the search among silent latents have in common: scratch memory, the order in which z are computed,
 * and z by a product of cuBLAS. Internal.
 *
 * z is computed for 1024 rows at a time, and of those for 65536 latents at a time: 256 MB. So w_enc is read once every
 * 1024 rows, and a product has 2 * 1024 * 65536 d FLOPs. With d = 2304 that takes 0.39 ms at 800 TFLOP/s, beside which
 * its start and end do not matter. An earlier version had chunks of 256 rows and all latents, and its products waited
 * for w_enc: on an H200 (d = 2304, 262144 and 1048576 latents) all work for one z, selection included, took 15 ps,
 * where a product of 1024 rows takes 6. Selections that need whole rows of z get fewer rows, but at least 256.
 *
 * b_pre is subtracted from float rows before the product, as on the CPU.
 */
#ifndef ESPALIER_CUDA_SAE_DENSE_CUH
#define ESPALIER_CUDA_SAE_DENSE_CUH

#include <algorithm>

#include "sae_list.cuh"
#include "vector.cuh"

namespace esp {

#ifdef __CUDACC__
constexpr int64_t kChunkRows = 1024, kFewestRows = 256, kSliceLatents = 65536;
#else /* on the emulator small shapes are treated like large ones */
constexpr int64_t kChunkRows = 256, kFewestRows = 64, kSliceLatents = 4096;
#endif

/* How many floats of z exist at a time. */
inline int64_t chunk_floats(int64_t m) {
  const auto row = [](int64_t latents) { return Rows{nullptr, nullptr, latents}.ld(); };
  return std::max(kChunkRows * row(std::min(m, kSliceLatents)), kFewestRows * row(m));
}

/* The rows and latents of one product. */
struct Chunk {
  int64_t rows, latents;
};

/* Slices that are about equal and consist of whole units of latents, which must not be parted; and as many rows as
 * there is room for. */
inline Chunk chunk_of(int64_t m, int64_t unit) {
  const int64_t slices = (m + kSliceLatents - 1) / kSliceLatents, equal = (m + slices - 1) / slices;
  const int64_t latents = std::min(m, (equal + unit - 1) / unit * unit);
  return {std::min(kChunkRows, chunk_floats(m) / Rows{nullptr, nullptr, latents}.ld()), latents};
}

/* The parts of the caller's scratch memory. Each is aligned to 256 bytes. */
struct Scratch {
  float *centred; /* [kChunkRows, d] */
  float *z;       /* [chunk_floats] */
  uint32_t *words;
  int64_t floats; /* the size of all parts */

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
  /* The n rows from `first` on as the product takes them: less b_pre, if there is one. */
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

  /* scratch.z = the product of these n rows and a slice's latents, without the bias. */
  int32_t multiply(const Scratch &scratch, const void *input, int64_t n, const Slice &slice) const {
    return esp_gemm(0, 1, n, slice.latents, d, 1, input, d, weights(slice), d, 0, scratch.z,
                    scratch.rows(slice.latents).ld(), ESP_F32, dtype);
  }
};

/* Calls body(first, n, slice) for all slices of the n rows from `first` on, one chunk of rows after another. */
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
