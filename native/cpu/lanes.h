/* Vectors of floats, as wide as the instruction set that the library is compiled for. Internal. */
#ifndef ESPALIER_CPU_LANES_H
#define ESPALIER_CPU_LANES_H

#include <immintrin.h>

#include <cstdint>

#include "bf16.h"

namespace esp {

#if !defined(ESPALIER_LANES)
#if defined(__AVX512F__)
#define ESPALIER_LANES 16
#else
#define ESPALIER_LANES 8
#endif
#endif
constexpr int kLanes = ESPALIER_LANES;

/* kLanes floats at any alignment (a GCC and Clang vector type). */
typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float)), aligned(sizeof(float)), may_alias));

inline Lanes load(const float *p) { return *reinterpret_cast<const Lanes *>(p); }
inline void store(float *p, Lanes x) { *reinterpret_cast<Lanes *>(p) = x; }

/* a * b + c, rounded once where the processor can. (In a sum of two products the compiler would choose which one to
 * fuse.) */
inline float fused_multiply_add(float a, float b, float c) {
#if defined(__FMA__)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

inline Lanes fused_multiply_add(Lanes a, Lanes b, Lanes c) {
#if ESPALIER_LANES == 16 && defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif ESPALIER_LANES == 8 && defined(__FMA__)
  return _mm256_fmadd_ps(a, b, c);
#else
  for (int i = 0; i < kLanes; i++) c[i] = fused_multiply_add(a[i], b[i], c[i]);
  return c;
#endif
}

/* Bit i says whether a[i] > b[i]. */
inline uint32_t bits_above(Lanes a, Lanes b) {
#if ESPALIER_LANES == 16 && defined(__AVX512F__)
  return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ);
#elif ESPALIER_LANES == 8 && defined(__AVX__)
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ)));
#else
  uint32_t bits = 0;
  for (int i = 0; i < kLanes; i++) bits |= static_cast<uint32_t>(a[i] > b[i]) << i;
  return bits;
#endif
}

/* kLanes integers of 32 bits, and kLanes of 16 bits at any alignment. */
typedef uint32_t Words __attribute__((vector_size(kLanes * sizeof(uint32_t))));
typedef uint16_t Halves __attribute__((vector_size(kLanes * sizeof(uint16_t)), aligned(sizeof(uint16_t)), may_alias));

inline Words load_halves(const bf16 *p) { return __builtin_convertvector(*reinterpret_cast<const Halves *>(p), Words); }

inline Lanes load(const bf16 *p) { return reinterpret_cast<Lanes>(load_halves(p) << 16); }

inline void store(bf16 *p, Lanes x) {
  const Words rounded = upper_half(reinterpret_cast<Words>(x), reinterpret_cast<Words>(x != x));
  *reinterpret_cast<Halves *>(p) = __builtin_convertvector(rounded, Halves);
}

}  // namespace esp

#endif
