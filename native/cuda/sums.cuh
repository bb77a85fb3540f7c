/*
 * The sum of a long vector's terms by many blocks, in float64 and in an order that n alone decides: each block leaves
 * its part in a table of the library's own, and one more block adds the parts up. Kernels go to one stream, so that
 * nobody else uses the table in between. Internal; each file that includes this has its own table.
 */
#ifndef ESPALIER_CUDA_SUMS_CUH
#define ESPALIER_CUDA_SUMS_CUH

#include "vector.cuh"

namespace esp {
namespace {

constexpr int kParts = 1024;
/* Elements for each thread of stage one, at least: below, one block does it all. */
constexpr int64_t kPartThreadElements = 32;

__device__ double parts[kParts];

/* Blocks of the first stage. */
inline int64_t part_count(int64_t n) {
  const int64_t blocks = (n + kThreads * kPartThreadElements - 1) / (kThreads * kPartThreadElements);
  return blocks < 1 ? 1 : blocks < kParts ? blocks : kParts;
}

/* term(x) of each of n floats; a thread takes packs a grid apart. */
template <int N, typename Term>
__global__ void sum_parts(const float *x, int64_t n, Term term) {
  double own = 0;
  ESP_FOR_EACH(p, n / N) {
    const Pack<N> pack = load<N>(x + p * N);
    for (int i = 0; i < N; i++) own += term(pack[i]);
  }
  own = block_sum(own);
  if (threadIdx.x == 0) parts[blockIdx.x] = own;
}

template <typename Finish>
__global__ void sum_of_parts(int count, Finish finish) {
  double own = 0;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kThreads) own += parts[i];
  own = block_sum(own);
  if (threadIdx.x == 0) finish(own);
}

/* finish(sum of term(x[i])), on the device; term and finish are functors with a __device__ operator(). */
template <typename Term, typename Finish>
int32_t sum_terms(const float *x, int64_t n, const Term &term, const Finish &finish) {
  const int64_t blocks = part_count(n);
  const int32_t status = in_packs<float>(n, {x})
                             ? ESP_LAUNCH((sum_parts<kPack<float>, Term>), blocks, kThreads, x, n, term)
                             : ESP_LAUNCH((sum_parts<1, Term>), blocks, kThreads, x, n, term);
  if (status != ESP_OK) return status;
  return ESP_LAUNCH(sum_of_parts<Finish>, 1, kThreads, static_cast<int>(blocks), finish);
}

}  // namespace
}  // namespace esp

#endif
