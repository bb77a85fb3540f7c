/*
 * Elementary functions that a compiler can vectorise: branch-free, in float32, inline. Internal.
 *
 * The largest errors against the exact value, over all floats whose result is normal: exp 1.03 ulp, exp2 0.94, tanh
 * 1.34, sigmoid 2.49, gaussian 2.22, normal_cdf 10.1 (which is a relative 9.5e-7 at -1.41, and 3.6e-7 in the tail).
 */
#ifndef ESPALIER_CPU_VECTOR_MATH_H
#define ESPALIER_CPU_VECTOR_MATH_H

#include <cstdint>

#include "lanes.h"

namespace esp {

/* The type of a float's bits; for a vector of floats a vector of words. */
template <typename Real>
struct BitsOf {
  typedef Words type;
};
template <>
struct BitsOf<float> {
  typedef uint32_t type;
};

/* For x in [-127, 127]: the integer n nearest to x, and 2^n. Here 2^-127 is 0. */
template <typename Real>
struct Power {
  Real n, two_to_n;
};

template <typename Real>
inline Power<Real> nearest_power(Real x) {
  /* Adding 1.5 * 2^23 rounds to an integer, which is then in the low bits. With 127 added as well these bits are the
   * exponent of 2^n. */
  const float magic = 12582912.0f + 127.0f;
  const Real shifted = x + magic;
  return {shifted - magic, __builtin_bit_cast(Real, __builtin_bit_cast(typename BitsOf<Real>::type, shifted) << 23)};
}

/* e^x = 2^n e^r with |r| <= ln 2 / 2 and a polynomial for e^r (coefficients: Cephes expf). Below -87.68, where n is
 * -127, it is 0; no denormals occur on the way except for n = -126. Above 88.37 it stays at 2.4e38 instead of
 * overflowing. NaN stays NaN. The only comparisons are the two clamps. */
inline float exp(float x) {
  const float low = -88.02f, high = 88.37f;
  float y = high < x ? high : x;
  y = y < low ? low : y;
  const Power<float> power = nearest_power(y * 1.44269504088896341f);
  const float r = (y - power.n * 0.693359375f) - power.n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  return p * power.two_to_n;
}

/* 2^x for x <= 127. It is cheaper than e^x, as x - n is exact. The polynomial is that for (2^f - 1) / f, |f| <= 1/2,
 * with the least largest error (2e-9). Below -126.5 the result is 0; NaN stays NaN. Real is float or Lanes. */
template <typename Real>
inline Real exp2(Real x) {
  const Real low = Real{} - 127.0f;
  const Real y = x < low ? low : x;
  const Power<Real> power = nearest_power(y);
  const Real f = y - power.n;
  Real p = Real{} + 1.5353361960e-4f;
  p = p * f + 1.3398875017e-3f;
  p = p * f + 9.6184369177e-3f;
  p = p * f + 5.5503323674e-2f;
  p = p * f + 2.4022647738e-1f;
  p = p * f + 6.9314718246e-1f;
  p = p * f + 1.0f;
  return p * power.two_to_n;
}

inline float sigmoid(float x) { return 1.0f / (1.0f + exp(-x)); }

/* An odd polynomial near 0 (Cephes tanhf), and 1 - 2 / (e^2|x| + 1) elsewhere. */
inline float tanh(float x) {
  const float a = x < 0 ? -x : x;
  const float z = x * x;
  float p = -5.70498872745e-3f;
  p = p * z + 2.06390887954e-2f;
  p = p * z - 5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z - 3.33332819422e-1f;
  const float near = p * z * x + x;
  const float far = 1.0f - 2.0f / (exp(2.0f * a) + 1.0f);
  return a < 0.625f ? near : (x < 0 ? -far : far);
}

/* e^(-x^2 / 2). The exponential would magnify the rounding error of the square, so that error is computed and made up
 * for. Beyond 16 the result is 0 in any case, and squares could overflow. */
inline float gaussian(float x) {
  const float a = x < 0 ? -x : x;
  const float y = a > 16.0f ? 16.0f : a;
  const float square = 0.5f * y * y;
  const float rest = __builtin_fmaf(0.5f * y, y, -square);
  return exp(-square) * (1.0f - rest);
}

/* The normal distribution function, 1/2 erfc(-x / sqrt 2): near 0 by a polynomial for erf, elsewhere by e^-t^2 times a
 * polynomial in 1 / t^2 (coefficients: Cephes erff and erfcf). */
inline float normal_cdf(float x) {
  const float t = (x < 0 ? -x : x) * 0.70710678118654752440f;
  const float square = 0.5f * x * x;
  float p = 7.853861353153693e-5f;
  p = p * square - 8.010193625184903e-4f;
  p = p * square + 5.188327685732524e-3f;
  p = p * square - 2.685381193529856e-2f;
  p = p * square + 1.128358514861418e-1f;
  p = p * square - 3.761262582423300e-1f;
  p = p * square + 1.128379165726710f;
  const float near = 0.5f - 0.5f * p * t; /* (0.5 p) t is rounded once, 0.5 (p t) twice */
  const float inverse = 1.0f / (t < 1.0f ? 1.0f : t);
  const float q = inverse * inverse;
  float a = 2.326819970068386e-2f;
  a = a * q - 1.387039388740657e-1f;
  a = a * q + 3.687424674597105e-1f;
  a = a * q - 5.824733027278666e-1f;
  a = a * q + 6.210004621745983e-1f;
  a = a * q - 4.944515323274145e-1f;
  a = a * q + 3.404879937665872e-1f;
  a = a * q - 2.741127028184656e-1f;
  a = a * q + 5.638259427386472e-1f;
  float b = -1.047766399936249e+1f;
  b = b * q + 1.297719955372516e+1f;
  b = b * q - 7.495518717768503f;
  b = b * q + 2.921019019210786f;
  b = b * q - 1.015265279202700f;
  b = b * q + 4.218463358204948e-1f;
  b = b * q - 2.820767439740514e-1f;
  b = b * q + 5.641895067754075e-1f;
  const float far = 0.5f * gaussian(x) * inverse * (t < 2.0f ? a : b);
  const float below = t < 1.0f ? near : far;
  return x < 0 ? below : 1.0f - below;
}

}  // namespace esp

#endif
