/*
 * Exponentials and reciprocals by the GPU's special function unit. They are for scores that are computed from bfloat16,
 * or rounded to it afterwards. On the emulator they are libm's.
 */
#ifndef ESPALIER_CUDA_APPROXIMATE_CUH
#define ESPALIER_CUDA_APPROXIMATE_CUH

#include "device.cuh"

namespace esp {

/* 2^x; relative error 2^-22. */
__device__ inline float exp2_approximate(float x) {
#ifdef __CUDACC__
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return exp2f(x);
#endif
}

/* 1 / x, with a relative error of 2^-23. It is 0 for infinity. A subnormal x counts as 0. */
__device__ inline float reciprocal_approximate(float x) {
#ifdef __CUDACC__
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return 1.0f / x;
#endif
}

}  // namespace esp

#endif
