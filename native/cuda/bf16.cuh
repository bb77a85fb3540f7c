/*
 * bfloat16, the type of activations beside float: esp::bf16 and esp::bf16x2, which are CUDA's types (on the emulator
 * its own), and conversions for kernels that are templates over both types. Arithmetic is in float; a result is rounded
 * once, to nearest even, when it is stored.
 */
#ifndef ESPALIER_CUDA_BF16_CUH
#define ESPALIER_CUDA_BF16_CUH

#include "device.cuh"

#ifdef __CUDACC__
#include <cuda_bf16.h>
#endif

namespace esp {

using bf16 = __nv_bfloat16;
using bf16x2 = __nv_bfloat162;

__host__ __device__ inline float to_float(float x) { return x; }
__host__ __device__ inline float to_float(bf16 x) { return __bfloat162float(x); }

/* x as a T. */
template <typename T>
__host__ __device__ inline T rounded(float x);
template <>
__host__ __device__ inline float rounded<float>(float x) {
  return x;
}
template <>
__host__ __device__ inline bf16 rounded<bf16>(float x) {
  return __float2bfloat16_rn(x);
}
template <typename T>
__host__ __device__ inline T rounded(double x);
template <>
__host__ __device__ inline float rounded<float>(double x) {
  return static_cast<float>(x);
}
template <>
__host__ __device__ inline bf16 rounded<bf16>(double x) {
  return __double2bfloat16(x);
}

/* Calls body(T{}) with the type of activations that `dtype` names. */
template <typename Body>
int32_t with_type(int32_t dtype, const Body &body) {
  switch (dtype) {
    case ESP_F32:
      return body(float{});
    case ESP_BF16:
      return body(bf16{});
    default:
      return fail(ESP_INVALID_ARGUMENT, "activations are float32 or bfloat16, not of type %d", dtype);
  }
}

}  // namespace esp

#endif
