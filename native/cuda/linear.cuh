/* The linear map with low-rank terms, for the files that compute it. */
#ifndef ESPALIER_CUDA_LINEAR_CUH
#define ESPALIER_CUDA_LINEAR_CUH

#include "bf16.cuh"
#include "device.cuh"

namespace esp::linear {

/* Columns [from, from + n) get scale u op(v): u [m, r], op(v) [r, n]. */
struct Term {
  const bf16 *u, *v;
  int64_t ld_u, ld_v;
  int from, n, r;
  float scale;
};

/* y[m, n] = beta y + x[m, k] op(w) + terms */
struct Map {
  const bf16 *x, *w;
  bf16 *y;
  int64_t ldx, ldw, ldy;
  int m, n, k, count;
  float beta;
  Term terms[ESP_LARGEST_TERMS];
};

/* In one kernel, with tiles of 128 x 128 or 128 x 256. Except for m, all sizes, offsets, lds and pointers must be
 * multiples of 8 elements. */
int32_t fused(const Map &map, bool transposed, bool wide);

}  // namespace esp::linear

#endif
