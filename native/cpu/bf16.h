/*
 * bfloat16, the type of activations beside float: the upper half of a float. It is read as the float that it is.
 * Arithmetic is in float, and a result is rounded once, to nearest even, where it is stored. Internal.
 */
#ifndef ESPALIER_CPU_BF16_H
#define ESPALIER_CPU_BF16_H

#include <cstdint>
#include <type_traits>

#include "kernel.h"

namespace esp {

/* The bits of the bfloat16 nearest to floats; of two equally near ones that with an even last place. Bits is a word or
 * a vector of words. nan has all bits set where the float is NaN, which then stays NaN. */
template <typename Bits>
inline Bits upper_half(Bits whole, Bits nan) {
  /* Adding half of the last place that stays rounds up from above the middle; adding one more where that place is odd
   * rounds up from the middle, too. */
  const Bits nearest = whole + 0x7fffu + (whole >> 16 & 1u), quiet = whole | 0x00400000u;
  return ((nearest & ~nan) | (quiet & nan)) >> 16;
}

struct bf16 {
  uint16_t bits;

  bf16() = default;
  bf16(const bf16 &) = default;
  /* Copies the number in it: GCC 12 does not vectorise loops that assign structures. */
  bf16 &operator=(const bf16 &other) {
    bits = other.bits;
    return *this;
  }

  explicit bf16(float x) {
    const uint32_t whole = __builtin_bit_cast(uint32_t, x);
    const uint32_t nan = (whole & 0x7fffffffu) > 0x7f800000u ? ~0u : 0u; /* no branch: loops get vectorised */
    bits = static_cast<uint16_t>(upper_half(whole, nan));
  }

  /* Rounds once. Rounding to float first must not make a tie out of what is none. So if x is no float, that of its two
   * neighbours is rounded whose last place is odd: it leads to the same bfloat16 as x. */
  explicit bf16(double x) {
    const float near = static_cast<float>(x);
    const double distance = (x < 0 ? -x : x) - static_cast<double>(near < 0 ? -near : near);
    const uint32_t whole = __builtin_bit_cast(uint32_t, near);
    const uint32_t odd = distance > 0 ? whole + 1 : whole - 1;
    *this = bf16(distance == 0 || distance != distance || (whole & 1u) != 0 ? near : __builtin_bit_cast(float, odd));
  }

  operator float() const { return __builtin_bit_cast(float, static_cast<uint32_t>(bits) << 16); }
};

/* How many elements of T four bytes hold: the terms of a word. */
template <typename T>
constexpr int kTerms = sizeof(float) / sizeof(T);

/* out[n] = x[n], each element rounded. */
template <typename T>
inline void round_row(const float *x, T *out, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) out[i] = static_cast<T>(x[i]);
}

/* Calls body(T{}) with the type of activations that `dtype` names. Returns the status that body returns, or ESP_OK if
 * it returns none. */
template <typename Body>
int32_t with_type(int32_t dtype, const Body &body) {
  const auto of = [&](auto type) -> int32_t {
    if constexpr (std::is_void_v<decltype(body(type))>) {
      body(type);
      return ESP_OK;
    } else {
      return body(type);
    }
  };
  switch (dtype) {
    case ESP_F32:
      return of(float{});
    case ESP_BF16:
      return of(bf16{});
    default:
      return fail(ESP_INVALID_ARGUMENT, "activations are float32 or bfloat16, not of type %d", dtype);
  }
}

}  // namespace esp

#endif
