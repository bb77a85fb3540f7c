/* What the kernels of attention on Hopper's tensor cores share. */
#ifndef ESPALIER_CUDA_ATTENTION_WARPGROUP_CUH
#define ESPALIER_CUDA_ATTENTION_WARPGROUP_CUH

#include "attention.cuh"
#include "warpgroup.cuh"

namespace esp::attention {

/* c[64, kB] = products of the rows of a with the rows of b, over kDim columns. */
template <int kDim, int kB>
__device__ inline void multiply_rows(float (&c)[kB / 8][4], const Panels<64, kDim> &a, const Panels<kB, kDim> &b) {
#pragma unroll
  for (int column = 0; column < kDim; column += 16) {
    product<false>(c, a.of_rows(0, column), b.of_rows(0, column), column > 0);
  }
}

/* Weights [64, kB] in bfloat16, as left operands of products over kB. */
template <int kB>
struct Weights {
  uint32_t a[kB / 16][4];

  __device__ explicit Weights(const float (&c)[kB / 8][4]) {
#pragma unroll
    for (int n = 0; n < kB / 16; n++) pack_a(a[n], c[2 * n], c[2 * n + 1]);
  }
};

/* sum[64, kDim] += weights b */
template <int kDim, int kB>
__device__ inline void add_weighted(float (&sum)[kDim / 8][4], const Weights<kB> &weights, const Panels<kB, kDim> &b) {
#pragma unroll
  for (int n = 0; n < kB / 16; n++) product<true>(sum, weights.a[n], b.of_columns(16 * n, 0), true);
}

}  // namespace esp::attention

#endif
