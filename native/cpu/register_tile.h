/*
 * The inner loop of dense products: a tile of c that stays in registers while k runs. Internal.
 *
 * Of both operands it takes words of kTerms<T> terms of a sum: a float, or two bfloat16, terms 2 i and 2 i + 1. Each
 * step takes a row of words of b in vectors and broadcasts words of a. With 16 lanes 12 x 32, which is 24 of 32
 * registers for the sums, with 8 lanes 6 x 16, 12 of 16: 8 loads for 12 fused multiply-adds, which are what takes time.
 */
#ifndef ESPALIER_CPU_REGISTER_TILE_H
#define ESPALIER_CPU_REGISTER_TILE_H

#include "lanes.h"

namespace esp {

/* Rows and vectors of a full tile. */
constexpr int kTileRows = kLanes == 16 ? 12 : 6, kTileVectors = 2;

/* A word, and kLanes that follow each other, at any address that a bfloat16 may have; as floats, which they may not be.
 * (An alignment that depends on T would be ignored.) */
typedef float LooseWord __attribute__((aligned(sizeof(bf16)), may_alias));
typedef float LooseWords __attribute__((vector_size(kLanes * sizeof(float)), aligned(sizeof(bf16)), may_alias));

template <typename T>
inline float word(const T *p) {
  return *reinterpret_cast<const LooseWord *>(p);
}

template <typename T>
inline Lanes words(const T *p) {
  return *reinterpret_cast<const LooseWords *>(p);
}

template <typename T>
inline void store_words(T *p, Lanes bits) {
  *reinterpret_cast<LooseWords *>(p) = bits;
}

/* The floats that words of two bfloat16 are. */
inline Lanes first_terms(Words two) { return reinterpret_cast<Lanes>(two << 16); }
inline Lanes second_terms(Words two) { return reinterpret_cast<Lanes>(two & 0xffff0000u); }

/* Whether an instruction multiplies and adds two bfloat16 of each word. */
#if defined(__AVX512BF16__)
constexpr bool kHasDotProducts = kLanes == 16;
#else
constexpr bool kHasDotProducts = false;
#endif

/* sum + a * b. Where a vector is a register of AVX2, in that of the sum: the compiler would multiply into that of a and
 * move the result, up to three times in a step of 24 instructions, for which products take 2 % longer. */
inline Lanes multiply_add(float a, Lanes b, Lanes sum) {
#if defined(__FMA__)
  if constexpr (kLanes == 8) {
    const Lanes factor = {a, a, a, a, a, a, a, a};
    asm("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(factor), "x"(b));
    return sum;
  }
#endif
  return sum + a * b;
}

/* sum + a word of a * words of b: all their terms. Of two, the second is added first, as VDPBF16PS does it. */
template <typename T>
inline Lanes multiply_add(float a, Lanes b, Lanes sum) {
  if constexpr (kTerms<T> == 1) {
    return multiply_add(a, b, sum);
  } else {
#if defined(__AVX512BF16__)
    if constexpr (kLanes == 16) {
      return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(_mm512_set1_ps(a)), reinterpret_cast<__m512bh>(b));
    }
#endif
    /* Without AVX512-BF16 two products of floats: a bfloat16 is the upper half of one. (Denormal numbers, which that
     * takes and gives as 0, stay.) */
    const Words a_words = Words{} + __builtin_bit_cast(uint32_t, a), b_words = reinterpret_cast<Words>(b);
    const Lanes later = sum + second_terms(a_words) * second_terms(b_words);
    return later + first_terms(a_words) * first_terms(b_words);
  }
}

/* sum = a[kRows, k] b[k, kVectors * kLanes], k in words. Element (r, i) of a, a word, is at a[r * row + i * step]; a
 * row i of words of b at b[i * ldb]. */
template <typename T, int kRows, int kVectors>
struct RegisterTile {
  Lanes sum[kRows][kVectors];

  /* Zeros. */
  RegisterTile() {
#pragma GCC unroll 12
    for (int r = 0; r < kRows; r++) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; v++) sum[r][v] = Lanes{};
    }
  }

  RegisterTile(int64_t k, const T *a, int64_t row, int64_t step, const T *b, int64_t ldb) : RegisterTile() {
    add(k, a, row, step, b, ldb);
  }

  /* sum = c */
  void load_from(const float *c, int64_t ldc) {
#pragma GCC unroll 12
    for (int r = 0; r < kRows; r++) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; v++) sum[r][v] = load(c + r * ldc + v * kLanes);
    }
  }

  /* sum += a[kRows, k] b[k, kVectors * kLanes] */
  void add(int64_t k, const T *a, int64_t row, int64_t step, const T *b, int64_t ldb) {
    for (int64_t i = 0; i < k; i++) {
      Lanes line[kVectors];
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; v++) line[v] = words(b + i * ldb + v * kLanes * kTerms<T>);
#pragma GCC unroll 12
      for (int r = 0; r < kRows; r++) {
        const float factor = word(a + r * row + i * step);
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; v++) sum[r][v] = multiply_add<T>(factor, line[v], sum[r][v]);
      }
    }
  }

  void scale(float factor) {
#pragma GCC unroll 12
    for (int r = 0; r < kRows; r++) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; v++) sum[r][v] = factor * sum[r][v];
    }
  }

  /* c = result(sum, address of c), by vectors. */
  template <typename C, typename Result>
  void store_to(C *c, int64_t ldc, const Result &result) const {
#pragma GCC unroll 12
    for (int r = 0; r < kRows; r++) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; v++) {
        C *target = c + r * ldc + v * kLanes;
        store(target, result(sum[r][v], target));
      }
    }
  }
};

}  // namespace esp

#endif
