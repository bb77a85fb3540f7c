/*
 * The sum of the terms of a long vector, by many blocks, in float64 and in an order that depends on n alone. Each block
 * leaves its part in a table of the library, and one more block adds the parts up. All kernels go to one stream, so
 * nothing else uses the table in between. Internal; each file that includes this has its own table.
 */
#ifndef ESPALIER_CUDA_SUMS_CUH
#define ESPALIER_CUDA_SUMS_CUH

#include "vector.cuh"

namespace esp {
namespace {

constexpr int kParts = 1024;
/* How many elements each thread of the first stage has at least. For fewer, one block does everything. */
constexpr int64_t kPartThreadElements = 32;

__device__ double parts[kParts];

/* How many blocks the first stage has. */
inline int64_t part_count(int64_t n) {
  const int64_t blocks = (n + kThreads * kPartThreadElements - 1) / (kThreads * kPartThreadElements);
  return blocks < 1 ? 1 : blocks < kParts ? blocks : kParts;
}

/* Adds up term(x) of each of n floats. A thread takes packs that are one grid apart. */
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

/* Calls finish(sum of term(x[i])) on the device. term and finish are functors with a __device__ operator(). */
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
