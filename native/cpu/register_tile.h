/*
 * The inner loop of dense products: a tile of c that stays in registers while k runs. Internal.
 *
 *   sum[rows, vectors * kLanes] += a[rows, k] b[k, vectors * kLanes]
 *
 * Both operands come in words of four bytes. A word holds kTerms<T> terms of a sum: one float, or two bfloat16, which
 * are terms 2 i and 2 i + 1. Each step loads a row of words of b in vectors, and broadcasts one word of a for each row.
 *
 * A full tile is 6 x 16 with 8 lanes, where its sums take 12 of 16 registers, and 12 x 32 with 16 lanes, where they
 * take 24 of 32. With 8 lanes a step makes 8 loads for 12 fused multiply-adds. So it is the multiply-adds that take the
 * time; but only just. Zen 3 begins 6 instructions a cycle, so that a step with the loop's own takes 4 cycles, while
 * its multiply-adds take 6. Where another thread shares the core it would take 8. So two steps make a turn. (This is by
 * count, not by counters; what it brought is measured in gemm.cpp.)
 */
#ifndef ESPALIER_CPU_REGISTER_TILE_H
#define ESPALIER_CPU_REGISTER_TILE_H

#include "lanes.h"

namespace esp {

/* The rows of a full tile, and its vectors in a row. */
constexpr int kTileRows = kLanes == 16 ? 12 : 6, kTileVectors = 2;

/* One word, and kLanes consecutive words, at any address that a bfloat16 may have. Their type is float whatever they
 * hold. (An alignment that depends on T would be ignored.) */
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

/* Words of two bfloat16: their first terms, and their second terms, as floats. */
inline Lanes first_terms(Words two) { return reinterpret_cast<Lanes>(two << 16); }
inline Lanes second_terms(Words two) { return reinterpret_cast<Lanes>(two & 0xffff0000u); }

/* Whether one instruction multiplies and adds both bfloat16 of each word. */
#if defined(__AVX512BF16__)
constexpr bool kHasDotProducts = kLanes == 16;
#else
constexpr bool kHasDotProducts = false;
#endif

/* sum + a * b. With AVX2 the instruction is written out, so that the result stays in the register of the sum. The
 * compiler would write it to the register of a and move it, up to three times in a step of 24 instructions, and
 * products would take 2 % longer. */
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

/* sum + one word of a * words of b, all their terms. Of two terms the second is added first, as VDPBF16PS does it. */
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
    /* Without AVX512-BF16: two products of floats, as a bfloat16 is the upper half of a float. (VDPBF16PS takes
     * denormal numbers for 0 and gives 0 for them; here they stay.) */
    const Words a_words = Words{} + __builtin_bit_cast(uint32_t, a), b_words = reinterpret_cast<Words>(b);
    const Lanes later = sum + second_terms(a_words) * second_terms(b_words);
    return later + first_terms(a_words) * first_terms(b_words);
  }
}

/* sum = a[kRows, k] b[k, kVectors * kLanes], with k in words. Word (r, i) of a is at a[r * row + i * step], and row i
 * of words of b is at b[i * ldb]. */
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
  [[gnu::always_inline]] void add(int64_t k, const T *a, int64_t row, int64_t step, const T *b, int64_t ldb) {
#pragma GCC unroll kLanes == 8 ? 2 : 1
    for (int64_t i = 0; i < k; i++) add_step(a + i * step, row, b + i * ldb);
  }

  /* The same, for k so small that unrolling costs more than it gives. */
  [[gnu::always_inline]] void add_few(int64_t k, const T *a, int64_t row, int64_t step, const T *b, int64_t ldb) {
    for (int64_t i = 0; i < k; i++) add_step(a + i * step, row, b + i * ldb);
  }

  void scale(float factor) {
#pragma GCC unroll 12
    for (int r = 0; r < kRows; r++) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; v++) sum[r][v] = factor * sum[r][v];
    }
  }

  /* Writes c = result(sum, address of c), one vector at a time. */
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

 private:
  /* sum += a[kRows, 1] b[1, kVectors * kLanes] */
  [[gnu::always_inline]] void add_step(const T *a, int64_t row, const T *b) {
    Lanes line[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; v++) line[v] = words(b + v * kLanes * kTerms<T>);
#pragma GCC unroll 12
    for (int r = 0; r < kRows; r++) {
      const float factor = word(a + r * row);
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; v++) sum[r][v] = multiply_add<T>(factor, line[v], sum[r][v]);
    }
  }
};

}  // namespace esp

#endif
