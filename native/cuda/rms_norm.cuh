/*
 * What the kernels of RMSNorm share (rms_norm.cu, rms_norm_branch.cu). Internal.
 *
 * A warp takes a row, in packs of 16 bytes, and loads all of them at once. The gains, weight_offset + weight, are twice
 * the bytes of a row of bfloat16. So a block of kWarps rows loads them once, together with its rows, and keeps them in
 * shared memory. In this way a warp waits for memory once.
 *
 * Sums are float64 between packs, as rows that hold an attention sink span five orders of magnitude; for float32 rows
 * every term is (float64 runs at 1/64 of float32's rate on sm_89, at 1/2 on sm_80 and sm_90).
 */
#ifndef ESPALIER_CUDA_RMS_NORM_CUH
#define ESPALIER_CUDA_RMS_NORM_CUH

#include "vector.cuh"

namespace esp::rms {

constexpr int kWarps = 8, kMostPacks = 16;

/* 1 / sqrt(mean(x^2) + eps) */
__device__ inline float rstd_of(double squares, int64_t d, float eps) {
  return static_cast<float>(1 / sqrt(squares / static_cast<double>(d) + static_cast<double>(eps)));
}

/* d_x = scale g - x (scale^3 <g, x> / d). This is the factor of x. */
__device__ inline float along_row(double dot, float scale, int64_t d) {
  const double cube = static_cast<double>(scale) * static_cast<double>(scale) * static_cast<double>(scale);
  return static_cast<float>(cube * dot / static_cast<double>(d));
}

template <typename T, int N>
__device__ inline double squares_of(const Pack<N> &row) {
  PackSum<T> sum = 0;
#pragma unroll
  for (int i = 0; i < N; i++) sum += static_cast<PackSum<T>>(row[i]) * static_cast<PackSum<T>>(row[i]);
  return static_cast<double>(sum);
}

/* <g, x> for the packs of g = dy gain and of the row. */
template <typename T, int N>
__device__ inline double dot_of(const Pack<N> &row, const Pack<N> &dy, const Pack<N> &gain) {
  PackSum<T> sum = 0;
#pragma unroll
  for (int i = 0; i < N; i++) sum += static_cast<PackSum<T>>(dy[i] * gain[i]) * static_cast<PackSum<T>>(row[i]);
  return static_cast<double>(sum);
}

template <int N>
__device__ inline Pack<N> normed(Pack<N> row, float scale, const Pack<N> &gain) {
#pragma unroll
  for (int i = 0; i < N; i++) row[i] = row[i] * scale * gain[i];
  return row;
}

/* before + d_x. The rounding of one product is made explicit, so that every kernel rounds alike. */
template <int N>
__device__ inline Pack<N> with_gradient(Pack<N> before, const Pack<N> &row, const Pack<N> &dy, const Pack<N> &gain,
                                        float scale, float along) {
#pragma unroll
  for (int i = 0; i < N; i++) before[i] += __fmaf_rn(scale, dy[i] * gain[i], -(row[i] * along));
  return before;
}

/* ---- a warp takes a row ---- */

/* The warp's row, and which part of it this lane has: kPacks packs. */
template <typename T, int kPacks>
struct Lane {
  static constexpr int N = kPack<T>;
  using Packs = uint4[kPacks];

  int64_t row, d;
  int end; /* d, or 0 if the row does not exist */

  __device__ Lane(int64_t rows, int64_t width)
      : row(static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32),
        d(width),
        end(row < rows ? static_cast<int>(width) : 0) {}

  __device__ bool is_there() const { return end > 0; }

  __device__ int column(int p) const { return (p * 32 + static_cast<int>(threadIdx.x % 32)) * N; }

  /* Loads the lane's packs, with zeros beyond the row. */
  __device__ void load(const T *x, Packs &packs) const {
    const T *mine = x + row * d + column(0);
#pragma unroll
    for (int p = 0; p < kPacks; p++) {
      packs[p] = make_uint4(0, 0, 0, 0);
      if (column(p) < end) packs[p] = load_16(mine + p * 32 * N);
    }
  }

  __device__ void store(T *x, int64_t ld, int p, uint4 pack) const {
    if (column(p) < end) store_16(x + row * ld + column(p), pack);
  }

  /* Computes and stores rstd, for a row that exists. */
  __device__ float rstd_of(const Packs &packs, float eps, float *rstd) const {
    double squares = 0;
#pragma unroll
    for (int p = 0; p < kPacks; p++) squares += squares_of<T>(unpacked<T>(packs[p]));
    const float scale = rms::rstd_of(warp_sum(squares), d, eps);
    if (threadIdx.x % 32 == 0) rstd[row] = scale;
    return scale;
  }

  /* For a row x that exists: computes before + d_x in place of dy, and stores it. */
  template <typename AnyGains>
  __device__ void gradient(const Packs &x, Packs &dy, const Packs &before, const AnyGains &gains, float scale,
                           T *d_x) const {
    double dot = 0;
#pragma unroll
    for (int p = 0; p < kPacks; p++) dot += dot_of<T>(unpacked<T>(x[p]), unpacked<T>(dy[p]), gains.of(p));
    const float along = along_row(warp_sum(dot), scale, d);
#pragma unroll
    for (int p = 0; p < kPacks; p++) {
      dy[p] = packed<T>(
          with_gradient(unpacked<T>(before[p]), unpacked<T>(x[p]), unpacked<T>(dy[p]), gains.of(p), scale, along));
      store(d_x, d, p, dy[p]);
    }
  }
};

/* The gains weight_offset + weight, 0 beyond the end. The 16 bytes of a warp's lanes lie side by side: a warp reads 512
 * bytes in a row. */
template <int N, int kPacks>
struct Gains {
  static constexpr int kOfThread = (kPacks * N / 4 + kWarps - 1) / kWarps; /* as many of each: no branches */

  alignas(16) float at[4 * kOfThread * 32 * kWarps];

  /* A thread's part of the weights, which is being loaded while rows are. */
  struct Asked {
    Pack<4> part[kOfThread];
  };
  __device__ static Asked ask(const float *weight, int64_t d) {
    Asked asked;
#pragma unroll
    for (int i = 0; i < kOfThread; i++) {
      asked.part[i] = {};
      if (column(quad(i)) < d) asked.part[i] = esp::load<4>(weight + column(quad(i)));
    }
    return asked;
  }

  /* Stores the gains to shared memory. All threads of the block must call it, and a barrier must follow. */
  __device__ void keep(Asked asked, float weight_offset) {
#pragma unroll
    for (int i = 0; i < kOfThread; i++) {
#pragma unroll
      for (int e = 0; e < 4; e++) asked.part[i][e] += weight_offset;
      esp::store(at + 4 * quad(i), asked.part[i]);
    }
  }

  /* The gains for pack p of the calling lane. */
  __device__ Pack<N> of(int p) const {
    Pack<N> pack;
#pragma unroll
    for (int i = 0; i < N / 4; i++) {
      const Pack<4> part = esp::load<4>(at + 4 * ((p * (N / 4) + i) * 32 + threadIdx.x % 32));
#pragma unroll
      for (int e = 0; e < 4; e++) pack[4 * i + e] = part[e];
    }
    return pack;
  }

 private:
  __device__ static int quad(int i) { return i * 32 * kWarps + static_cast<int>(threadIdx.x); }
  __device__ static int column(int quad) {
    const int lane = quad % 32, part = quad / 32 % (N / 4), pack = quad / 32 / (N / 4);
    return (pack * 32 + lane) * N + 4 * part;
  }
};

/* Calls body(packs), where decltype(packs)::value packs a lane are enough for d. Returns false if no such number is, or
 * if packs have one element. */
template <typename T, int N, typename Body>
bool by_warps(int64_t d, const Body &body) {
  if constexpr (N == kPack<T>) {
    const int64_t packs = (d + 32 * N - 1) / (32 * N);
    if (packs > kMostPacks) return false;
    if (packs <= 4) {
      body(std::integral_constant<int, 4>{});
    } else if (packs <= 9) {
      body(std::integral_constant<int, 9>{});
    } else {
      body(std::integral_constant<int, kMostPacks>{});
    }
    return true;
  }
  return false;
}

inline int64_t blocks_of(int64_t rows) { return (rows + kWarps - 1) / kWarps; }

}  // namespace esp::rms

#endif
