/*
 * Exponentials and reciprocals by the GPU's special function unit, for scores that are rounded to bfloat16 afterwards,
 * or come from what was. libm's on the emulator.
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

/* 1 / x; relative error 2^-23, 0 for infinity; a subnormal x counts as 0. */
__device__ inline float reciprocal_approximate(float x) {
#ifdef __CUDACC__
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return 1.0f / x;
#endif
}

/* tanh(x) = 1 - 2 / (1 + e^2x), absolute error below 2^-20. tanh.approx is one instruction less, but its error of 2^-11
 * would be the largest in a score that a cap of 50 is multiplied with. */
__device__ inline float tanh_approximate(float x) {
  return 1.0f - __fdividef(2.0f, 1.0f + exp2_approximate(2.885390081777927f * x));
}

}  // namespace esp

#endif
