/*
 * Reads and writes rows 16 bytes at a time. A Pack is N neighbouring elements as floats, whatever their type in memory.
 * A kernel is written once, over packs of N. with_packs chooses N: as many elements as 16 bytes hold if rows are
 * aligned, else 1. Internal.
 */
#ifndef ESPALIER_CUDA_VECTOR_CUH
#define ESPALIER_CUDA_VECTOR_CUH

#include <initializer_list>
#include <type_traits>

#include "bf16.cuh"

namespace esp {

template <int N>
struct Pack {
  float at[N];
  __device__ float &operator[](int i) { return at[i]; }
  __device__ const float &operator[](int i) const { return at[i]; }
};

template <typename T>
constexpr int kPack = 16 / static_cast<int>(sizeof(T));

/* The terms of a pack are summed up in this type, and the sums of packs in double. For bfloat16 this is float: products
 * of two of them are exact in float, and the rounding of eight is far below that of the inputs. */
template <typename T>
using PackSum = std::conditional_t<std::is_same_v<T, float>, double, float>;

/* One load of 16 bytes from an aligned address. */
__device__ inline uint4 load_16(const void *address) {
#ifdef __CUDACC__
  return *static_cast<const uint4 *>(address);
#else
  if (reinterpret_cast<uintptr_t>(address) % 16 != 0) emulator::fault("a load of 16 bytes is not aligned");
  uint4 bits;
  memcpy(&bits, address, sizeof bits);
  return bits;
#endif
}

__device__ inline void store_16(void *address, uint4 bits) {
#ifdef __CUDACC__
  *static_cast<uint4 *>(address) = bits;
#else
  if (reinterpret_cast<uintptr_t>(address) % 16 != 0) emulator::fault("a store of 16 bytes is not aligned");
  memcpy(address, &bits, sizeof bits);
#endif
}

__device__ inline uint32_t bits_of(bf16 low, bf16 high) {
  return static_cast<uint32_t>(__bfloat16_as_ushort(high)) << 16 | __bfloat16_as_ushort(low);
}

/* 16 bytes of T as floats, and back. */
template <typename T>
__device__ inline Pack<kPack<T>> unpacked(uint4 bits) {
  const uint32_t words[] = {bits.x, bits.y, bits.z, bits.w};
  Pack<kPack<T>> pack;
#pragma unroll
  for (int w = 0; w < 4; w++) {
    if constexpr (std::is_same_v<T, float>) {
      pack[w] = __uint_as_float(words[w]);
    } else {
      pack[2 * w] = __uint_as_float(words[w] << 16);
      pack[2 * w + 1] = __uint_as_float(words[w] & 0xffff0000u);
    }
  }
  return pack;
}

template <typename T, int N>
__device__ inline uint4 packed(const Pack<N> &pack, int first = 0) {
  uint32_t words[4];
#pragma unroll
  for (int w = 0; w < 4; w++) {
    if constexpr (std::is_same_v<T, float>) {
      words[w] = __float_as_uint(pack[first + w]);
    } else {
      words[w] = bits_of(rounded<bf16>(pack[first + 2 * w]), rounded<bf16>(pack[first + 2 * w + 1]));
    }
  }
  return make_uint4(words[0], words[1], words[2], words[3]);
}

/* N elements from `address`. N is 1, or a multiple of what 16 bytes hold. */
template <int N, typename T>
__device__ inline Pack<N> load(const T *address) {
  Pack<N> pack;
  if constexpr (N == 1) {
    pack[0] = to_float(*address);
  } else {
#pragma unroll
    for (int i = 0; i < N; i += kPack<T>) {
      const Pack<kPack<T>> part = unpacked<T>(load_16(address + i));
#pragma unroll
      for (int e = 0; e < kPack<T>; e++) pack[i + e] = part[e];
    }
  }
  return pack;
}

template <int N, typename T>
__device__ inline void store(T *address, const Pack<N> &pack) {
  if constexpr (N == 1) {
    *address = rounded<T>(pack[0]);
  } else {
#pragma unroll
    for (int i = 0; i < N; i += kPack<T>) store_16(address + i, packed<T>(pack, i));
  }
}

/* Whether rows of `length` elements of T, one after another from each of the addresses, can be read in packs. Addresses
 * that are NULL are ignored. */
template <typename T>
bool in_packs(int64_t length, std::initializer_list<const void *> addresses) {
  bool aligned = length % kPack<T> == 0;
  for (const void *address : addresses) aligned = aligned && reinterpret_cast<uintptr_t>(address) % 16 == 0;
  return aligned;
}

/* Calls body(T{}, width) with the type that `dtype` names; decltype(width)::value is the number of elements in a pack.
 */
template <typename Body>
int32_t with_packs(int32_t dtype, int64_t length, std::initializer_list<const void *> addresses, const Body &body) {
  return with_type(dtype, [&](auto type) {
    using T = decltype(type);
    return in_packs<T>(length, addresses) ? body(type, std::integral_constant<int, kPack<T>>{})
                                          : body(type, std::integral_constant<int, 1>{});
  });
}

/* How many threads a block has that takes a row of d elements: one for each pack, if that is not too many. */
inline unsigned threads_for_row(int64_t d, int pack) {
  const int64_t warps = (d / pack + 31) / 32;
  return 32 * static_cast<unsigned>(warps < 1 ? 1 : warps > 16 ? 16 : warps);
}

}  // namespace esp

#endif
