/*
 * CUDA's functions of warps and blocks, atomics, bits, memory and arithmetic, as far as native/cuda may use them. What
 * is missing here does not compile, so nothing is emulated by accident.
 */
#ifndef ESPALIER_EMULATOR_INTRINSICS_H
#define ESPALIER_EMULATOR_INTRINSICS_H

#include <math.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "block.h"

constexpr int warpSize = 32;

/* ---- blocks ---- */

inline void __syncthreads() { emulator::block_barrier(false); }
inline int __syncthreads_count(int predicate) { return emulator::block_barrier(predicate != 0); }
inline int __syncthreads_or(int predicate) { return emulator::block_barrier(predicate != 0) != 0; }
inline int __syncthreads_and(int predicate) { return emulator::block_barrier(predicate == 0) == 0; }

/* Every thread sees every write at once, so fences do nothing here. races.h does not treat them as barriers. */
inline void __threadfence() {}
inline void __threadfence_block() {}
[[noreturn]] inline void __trap() { emulator::fault("__trap()"); }

/* ---- warps ---- */

namespace emulator {

template <typename T>
struct Exchange {
  T value;
  int source;
  T taken;
};

/* What a lane reads from a lane that gives nothing is undefined. Here it is NaN, or -1. */
template <typename T>
T exchange(const char *name, uint32_t mask, T value, int source) {
  Exchange<T> mine{value, source, value};
  collective(name, mask, &mine, [](void *const *lanes) {
    for (unsigned lane = 0; lane < kWarp; lane++) {
      auto *own = static_cast<Exchange<T> *>(lanes[lane]);
      if (own == nullptr) continue;
      const auto *giver = static_cast<const Exchange<T> *>(lanes[own->source]);
      if (giver == nullptr) {
        std::memset(&own->taken, 0xff, sizeof own->taken);
      } else {
        own->taken = giver->value;
      }
    }
  });
  return mine.taken;
}

/* The lane to read from, `offset` lanes away, within groups of `width` lanes. It is the lane itself if that would leave
 * the group. */
inline int within(int lane, int source, int width) {
  return source / width == lane / width && source >= 0 ? source : lane;
}

inline int lane() {
  const Place &at = *esp_emulated_place;
  const unsigned thread = at.thread_index.x + at.block.x * (at.thread_index.y + at.block.y * at.thread_index.z);
  return static_cast<int>(thread % kWarp);
}

uint32_t ballot(const char *name, uint32_t mask, bool predicate);
void warp_barrier(uint32_t mask);

}  // namespace emulator

template <typename T>
T __shfl_sync(uint32_t mask, T value, int source, int width = warpSize) {
  const int group = emulator::lane() / width * width;
  return emulator::exchange("__shfl_sync", mask, value,
                            group + static_cast<int>(static_cast<unsigned>(source) % static_cast<unsigned>(width)));
}
template <typename T>
T __shfl_xor_sync(uint32_t mask, T value, int lanes, int width = warpSize) {
  const int lane = emulator::lane(), source = lane ^ lanes;
  return emulator::exchange("__shfl_xor_sync", mask, value, source / width > lane / width ? lane : source);
}
template <typename T>
T __shfl_down_sync(uint32_t mask, T value, unsigned lanes, int width = warpSize) {
  const int lane = emulator::lane();
  return emulator::exchange("__shfl_down_sync", mask, value,
                            emulator::within(lane, lane + static_cast<int>(lanes), width));
}
template <typename T>
T __shfl_up_sync(uint32_t mask, T value, unsigned lanes, int width = warpSize) {
  const int lane = emulator::lane();
  return emulator::exchange("__shfl_up_sync", mask, value,
                            emulator::within(lane, lane - static_cast<int>(lanes), width));
}
inline void __syncwarp(uint32_t mask = 0xffffffffu) { emulator::warp_barrier(mask); }
inline uint32_t __ballot_sync(uint32_t mask, int predicate) {
  return emulator::ballot("__ballot_sync", mask, predicate != 0);
}
inline int __any_sync(uint32_t mask, int predicate) {
  return emulator::ballot("__any_sync", mask, predicate != 0) != 0;
}
inline int __all_sync(uint32_t mask, int predicate) {
  return emulator::ballot("__all_sync", mask, predicate == 0) == 0;
}

/* ---- atomics: each returns the previous value ---- */

int atomicAdd(int *address, int value);
unsigned atomicAdd(unsigned *address, unsigned value);
unsigned long long atomicAdd(unsigned long long *address, unsigned long long value);
float atomicAdd(float *address, float value);
double atomicAdd(double *address, double value);
int atomicMax(int *address, int value);
unsigned atomicMax(unsigned *address, unsigned value);
int atomicMin(int *address, int value);
unsigned atomicMin(unsigned *address, unsigned value);
int atomicCAS(int *address, int expected, int value);
unsigned atomicCAS(unsigned *address, unsigned expected, unsigned value);
unsigned long long atomicCAS(unsigned long long *address, unsigned long long expected, unsigned long long value);
int atomicExch(int *address, int value);
unsigned atomicExch(unsigned *address, unsigned value);
int atomicOr(int *address, int value);
unsigned atomicOr(unsigned *address, unsigned value);

/* ---- bits ---- */

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline int __clzll(long long x) { return x == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(x)); }

namespace emulator {
template <typename To, typename From>
To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From), "bits are as many");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}
}  // namespace emulator

inline int __float_as_int(float x) { return emulator::bits_as<int>(x); }
inline unsigned __float_as_uint(float x) { return emulator::bits_as<unsigned>(x); }
inline float __int_as_float(int x) { return emulator::bits_as<float>(x); }
inline float __uint_as_float(unsigned x) { return emulator::bits_as<float>(x); }
inline long long __double_as_longlong(double x) { return emulator::bits_as<long long>(x); }
inline double __longlong_as_double(long long x) { return emulator::bits_as<double>(x); }

/* ---- loads and stores with hints ---- */

template <typename T>
T __ldg(const T *address) {
  return *address;
}
template <typename T>
T __ldcs(const T *address) {
  return *address;
}
template <typename T>
T __ldcg(const T *address) {
  return *address;
}
template <typename T>
void __stcs(T *address, T value) {
  *address = value;
}
template <typename T>
void __stcg(T *address, T value) {
  *address = value;
}

/* ---- arithmetic ---- */

template <typename A, typename B>
std::common_type_t<A, B> max(A a, B b) {
  using T = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<T>)
    return static_cast<T>(std::is_same_v<T, float> ? fmaxf(a, b) : fmax(a, b));
  else
    return static_cast<T>(a) < static_cast<T>(b) ? static_cast<T>(b) : static_cast<T>(a);
}
template <typename A, typename B>
std::common_type_t<A, B> min(A a, B b) {
  using T = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<T>)
    return static_cast<T>(std::is_same_v<T, float> ? fminf(a, b) : fmin(a, b));
  else
    return static_cast<T>(b) < static_cast<T>(a) ? static_cast<T>(b) : static_cast<T>(a);
}

/* The normal distribution function, which C++ does not have. */
inline float normcdff(float x) { return static_cast<float>(0.5 * erfc(-static_cast<double>(x) / sqrt(2.0))); }
inline float __expf(float x) { return expf(x); }
inline float __exp2f(float x) { return exp2f(x); }
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1.0f / x; }
/* Not inline: the compiler would fuse it with a product in x or y to one multiply-add. */
[[gnu::noinline]] inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
inline float __saturatef(float x) { return fminf(fmaxf(x, 0.0f), 1.0f); }
inline float __double2float_rn(double x) { return static_cast<float>(x); }
inline int __float2int_rn(float x) { return static_cast<int>(nearbyintf(x)); }

#endif
