/* Sums over two rows that are compared with each other, by a warp, as in cpu/row_sums.h. Internal. */
#ifndef ESPALIER_CUDA_ROW_SUMS_CUH
#define ESPALIER_CUDA_ROW_SUMS_CUH

#include "vector.cuh"

namespace esp {
namespace {

/* |a - b|^2, |a|^2, |b|^2 and <a, b>. */
struct RowSums {
  double error, aa, bb, ab;

  __device__ double cosine() const {
    const double norms = sqrt(aa) * sqrt(bb);
    return ab / (norms > 1e-8 ? norms : 1e-8);
  }
};

/* The sums, in every lane. A lane takes packs that are a warp apart. */
template <int N, typename T>
__device__ RowSums row_sums(const T *a, const T *b, int64_t d) {
  double error = 0, aa = 0, bb = 0, ab = 0;
  for (int64_t c = static_cast<int64_t>(threadIdx.x % 32) * N; c < d; c += 32 * N) {
    const Pack<N> x = load<N>(a + c), y = load<N>(b + c);
    for (int i = 0; i < N; i++) {
      const double u = static_cast<double>(x[i]), w = static_cast<double>(y[i]);
      error += (u - w) * (u - w);
      aa += u * u;
      bb += w * w;
      ab += u * w;
    }
  }
  return {warp_sum(error), warp_sum(aa), warp_sum(bb), warp_sum(ab)};
}

}  // namespace
}  // namespace esp

#endif
