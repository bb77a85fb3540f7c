/* Vectors of floats, as wide as the instruction set that is compiled for. Internal. */
#ifndef ESPALIER_CPU_LANES_H
#define ESPALIER_CPU_LANES_H

#include <cstdint>

namespace esp {

#if defined(ESPALIER_LANES)
constexpr int kLanes = ESPALIER_LANES;
#elif defined(__AVX512F__)
constexpr int kLanes = 16;
#else
constexpr int kLanes = 8;
#endif

/* kLanes floats at any alignment (a GCC and Clang vector type). */
typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float)), aligned(sizeof(float)), may_alias));

inline Lanes load(const float *p) { return *reinterpret_cast<const Lanes *>(p); }
inline void store(float *p, Lanes x) { *reinterpret_cast<Lanes *>(p) = x; }

}  // namespace esp

#endif
