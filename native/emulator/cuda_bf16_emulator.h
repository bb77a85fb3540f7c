/* The part of CUDA's cuda_bf16.h that is used: bfloat16 with conversions that round to nearest even and keep NaN.
 * Arithmetic is that of floats. */
#ifndef ESPALIER_EMULATOR_CUDA_BF16_H
#define ESPALIER_EMULATOR_CUDA_BF16_H

#include <cstdint>

#include "intrinsics.h"
#include "vector_types.h"

struct __nv_bfloat16 {
  uint16_t bits;

  __nv_bfloat16() = default;
  inline __nv_bfloat16(float x);
  inline operator float() const;
};

struct alignas(4) __nv_bfloat162 {
  __nv_bfloat16 x, y;
};

inline float __bfloat162float(__nv_bfloat16 x) { return __uint_as_float(static_cast<uint32_t>(x.bits) << 16); }

inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) {
  __nv_bfloat16 result;
  result.bits = bits;
  return result;
}
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) { return x.bits; }

inline __nv_bfloat16 __float2bfloat16_rn(float x) {
  const uint32_t bits = __float_as_uint(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return __ushort_as_bfloat16(0x7fff); /* CUDA has only one NaN, too */
  return __ushort_as_bfloat16(static_cast<unsigned short>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16));
}
inline __nv_bfloat16 __float2bfloat16(float x) { return __float2bfloat16_rn(x); }

/* Rounds once: the float in between is rounded to odd, so that rounding to it cannot make a tie. */
inline __nv_bfloat16 __double2bfloat16(double x) {
  float near = static_cast<float>(x);
  const double error = x - static_cast<double>(near);
  uint32_t bits = __float_as_uint(near);
  if (error != 0 && error == error && (bits & 1u) == 0 && (bits & 0x7f800000u) != 0x7f800000u) {
    bits += (error > 0) == (near > 0 || (near == 0 && x > 0)) ? 1u : -1u;
    near = __uint_as_float(bits);
  }
  return __float2bfloat16_rn(near);
}

inline __nv_bfloat16::__nv_bfloat16(float x) { *this = __float2bfloat16_rn(x); }
inline __nv_bfloat16::operator float() const { return __bfloat162float(*this); }

inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 low, __nv_bfloat16 high) { return {low, high}; }
inline __nv_bfloat162 __floats2bfloat162_rn(float low, float high) {
  return {__float2bfloat16_rn(low), __float2bfloat16_rn(high)};
}
inline __nv_bfloat162 __float22bfloat162_rn(float2 x) { return __floats2bfloat162_rn(x.x, x.y); }
inline float2 __bfloat1622float2(__nv_bfloat162 x) { return {__bfloat162float(x.x), __bfloat162float(x.y)}; }
inline float __low2float(__nv_bfloat162 x) { return __bfloat162float(x.x); }
inline float __high2float(__nv_bfloat162 x) { return __bfloat162float(x.y); }

#endif
