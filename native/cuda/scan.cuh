/* Prefix sums over a block. Internal. */
#ifndef ESPALIER_CUDA_SCAN_CUH
#define ESPALIER_CUDA_SCAN_CUH

#include "device.cuh"

namespace esp {

/* The sum of the values of the threads before this one; `total` receives the sum of all. All threads of the block must
 * call it. */
__device__ inline int32_t block_scan(int32_t value, int32_t &total) {
  __shared__ int32_t warps[32];
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  int32_t inclusive = value;
  for (int lanes = 1; lanes < 32; lanes *= 2) {
    const int32_t below = __shfl_up_sync(kAllLanes, inclusive, static_cast<unsigned>(lanes));
    if (lane >= lanes) inclusive += below;
  }
  if (lane == 31) warps[warp] = inclusive;
  __syncthreads();
  int32_t before = 0;
  total = 0;
  for (int w = 0; w < static_cast<int>(blockDim.x / 32); w++) {
    if (w < warp) before += warps[w];
    total += warps[w];
  }
  __syncthreads(); /* the next scan may overwrite */
  return before + inclusive - value;
}

}  // namespace esp

#endif
