/*
 * Products of bfloat16 by AMX, the matrix unit of Intel's processors since Sapphire Rapids. It has eight registers that
 * hold tiles of 16 rows of 64 bytes each; a tile of c is 16 x 16 floats. Internal.
 *
 * The instruction TDPBF16PS adds a[16, 16] b[16, 16] to c[16, 16], where the elements of a and b are words of two
 * terms. It makes one chain of multiply-adds over the first terms of all words and another over the second terms, and
 * then adds their sum to c. It reads a by rows, as a is stored, and b by rows of words, as panels have it (pack.h). It
 * takes denormal numbers for 0.
 *
 * With ESPALIER_MODEL_AMX a model of the unit takes its place, for tests on machines without one.
 */
#ifndef ESPALIER_CPU_AMX_H
#define ESPALIER_CPU_AMX_H

#include <cstdint>

#include "bf16.h"

#if defined(ESPALIER_MODEL_AMX) || (defined(__AMX_TILE__) && defined(__AMX_BF16__))
#define ESPALIER_AMX
#endif

namespace esp {
namespace amx {

/* The rows of a tile, and the words of four bytes in a row. */
constexpr int64_t kRows = 16, kWords = 16;

/* Whether there is a unit that this process may use. The operating system has to be asked for it. */
bool permitted();

#if defined(ESPALIER_MODEL_AMX)

struct Tile {
  alignas(64) uint32_t word[kRows][kWords];
};
extern thread_local Tile tiles[8];

inline void configure() {}
inline void release() {}

template <int t>
inline void zero() {
  tiles[t] = {};
}

template <int t>
inline void load(const void *rows, int64_t bytes) {
  for (int64_t r = 0; r < kRows; r++)
    __builtin_memcpy(tiles[t].word[r], static_cast<const char *>(rows) + r * bytes, sizeof tiles[t].word[r]);
}

template <int t>
inline void store(void *rows, int64_t bytes) {
  for (int64_t r = 0; r < kRows; r++)
    __builtin_memcpy(static_cast<char *>(rows) + r * bytes, tiles[t].word[r], sizeof tiles[t].word[r]);
}

template <int c, int a, int b>
inline void multiply_add() {
  const auto first = [](uint32_t two) { return __builtin_bit_cast(float, two << 16); };
  const auto second = [](uint32_t two) { return __builtin_bit_cast(float, two & 0xffff0000u); };
  for (int64_t m = 0; m < kRows; m++) {
    float firsts[kWords] = {}, seconds[kWords] = {};
    for (int64_t k = 0; k < kWords; k++) {
      const uint32_t factor = tiles[a].word[m][k];
      for (int64_t n = 0; n < kWords; n++) {
        firsts[n] += first(factor) * first(tiles[b].word[k][n]);
        seconds[n] += second(factor) * second(tiles[b].word[k][n]);
      }
    }
    for (int64_t n = 0; n < kWords; n++) {
      uint32_t &sum = tiles[c].word[m][n];
      sum = __builtin_bit_cast(uint32_t, __builtin_bit_cast(float, sum) + (firsts[n] + seconds[n]));
    }
  }
}

#elif defined(ESPALIER_AMX)

/* Sets up all eight registers as whole tiles, on the calling thread. */
inline void configure() {
  struct alignas(64) Configuration {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  };
  static constexpr Configuration whole{};
  asm volatile("ldtilecfg %0" : : "m"(whole));
}

/* Gives the registers back: a thread that holds tiles has 8 KB more to save whenever it is interrupted. */
inline void release() { asm volatile("tilerelease"); }

template <int t>
inline void zero() {
  asm volatile("tilezero %%tmm%c0" : : "i"(t));
}

/* In assembly, because the compiler's own functions do not say that they read memory. */
template <int t>
inline void load(const void *rows, int64_t bytes) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(rows), "r"(bytes), "i"(t) : "memory");
}

template <int t>
inline void store(void *rows, int64_t bytes) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(rows), "r"(bytes), "i"(t) : "memory");
}

template <int c, int a, int b>
inline void multiply_add() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(c), "i"(a), "i"(b));
}

#endif

#if defined(ESPALIER_AMX)

/* sums[kDown * kRows, kAcross * kWords] = a b, where k counts tiles of kWords words. Rows of a are row_a bytes apart,
 * and rows of words of b are row_b bytes apart. */
template <int kDown, int kAcross>
inline void product(int64_t k, const char *a, int64_t row_a, const char *b, int64_t row_b, float *sums) {
  static_assert(kDown <= 2 && kAcross <= 2, "four tiles of sums, two of a and two of b are all that there are");
  constexpr int64_t tile_bytes = kWords * 4, row_sums = kAcross * tile_bytes;
  zero<0>();
  if constexpr (kAcross == 2) zero<1>();
  if constexpr (kDown == 2) zero<2>();
  if constexpr (kDown == 2 && kAcross == 2) zero<3>();
  for (int64_t i = 0; i < k; i++, a += tile_bytes, b += kWords * row_b) {
    load<6>(b, row_b);
    load<4>(a, row_a);
    multiply_add<0, 4, 6>();
    if constexpr (kAcross == 2) {
      load<7>(b + tile_bytes, row_b);
      multiply_add<1, 4, 7>();
    }
    if constexpr (kDown == 2) {
      load<5>(a + kRows * row_a, row_a);
      multiply_add<2, 5, 6>();
      if constexpr (kAcross == 2) multiply_add<3, 5, 7>();
    }
  }
  char *at = reinterpret_cast<char *>(sums);
  store<0>(at, row_sums);
  if constexpr (kAcross == 2) store<1>(at + tile_bytes, row_sums);
  if constexpr (kDown == 2) store<2>(at + kRows * row_sums, row_sums);
  if constexpr (kDown == 2 && kAcross == 2) store<3>(at + kRows * row_sums + tile_bytes, row_sums);
}

#endif

}  // namespace amx
}  // namespace esp

#endif
