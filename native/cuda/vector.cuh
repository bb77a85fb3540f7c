/*
 * Rows read and written 16 bytes at a time: a Pack is N neighbouring elements as floats, of whatever type they are in
 * memory. A kernel is written once, over packs of N; with_packs chooses N: as many elements as 16 bytes hold where rows
 * are aligned, else 1. Internal.
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

/* The sum of a pack's terms is taken in this type, and sums of packs in double. Products of two bfloat16 are exact in
 * float, and the rounding of eight of them is far below that of the inputs. */
template <typename T>
using PackSum = std::conditional_t<std::is_same_v<T, float>, double, float>;

/* One access of 16 bytes, which must be aligned. */
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

/* N elements from `address`: 1, or a multiple of what 16 bytes hold. */
template <int N>
__device__ inline Pack<N> load(const float *address) {
  Pack<N> pack;
  if constexpr (N == 1) {
    pack[0] = *address;
  } else {
#pragma unroll
    for (int i = 0; i < N; i += 4) {
      const uint4 bits = load_16(address + i);
      pack[i] = __uint_as_float(bits.x);
      pack[i + 1] = __uint_as_float(bits.y);
      pack[i + 2] = __uint_as_float(bits.z);
      pack[i + 3] = __uint_as_float(bits.w);
    }
  }
  return pack;
}

template <int N>
__device__ inline Pack<N> load(const bf16 *address) {
  Pack<N> pack;
  if constexpr (N == 1) {
    pack[0] = to_float(*address);
  } else {
#pragma unroll
    for (int i = 0; i < N; i += 8) {
      const uint4 bits = load_16(address + i);
      const uint32_t words[] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
      for (int w = 0; w < 4; w++) {
        pack[i + 2 * w] = __uint_as_float(words[w] << 16);
        pack[i + 2 * w + 1] = __uint_as_float(words[w] & 0xffff0000u);
      }
    }
  }
  return pack;
}

template <int N>
__device__ inline void store(float *address, const Pack<N> &pack) {
  if constexpr (N == 1) {
    *address = pack[0];
  } else {
#pragma unroll
    for (int i = 0; i < N; i += 4) {
      store_16(address + i, make_uint4(__float_as_uint(pack[i]), __float_as_uint(pack[i + 1]),
                                       __float_as_uint(pack[i + 2]), __float_as_uint(pack[i + 3])));
    }
  }
}

template <int N>
__device__ inline void store(bf16 *address, const Pack<N> &pack) {
  if constexpr (N == 1) {
    *address = rounded<bf16>(pack[0]);
  } else {
#pragma unroll
    for (int i = 0; i < N; i += 8) {
      uint32_t words[4];
#pragma unroll
      for (int w = 0; w < 4; w++) {
        words[w] = bits_of(rounded<bf16>(pack[i + 2 * w]), rounded<bf16>(pack[i + 2 * w + 1]));
      }
      store_16(address + i, make_uint4(words[0], words[1], words[2], words[3]));
    }
  }
}

/* Whether rows of `length` elements of T, one after another from each of the addresses (NULL counts for nothing), can
 * be read in packs. */
template <typename T>
bool in_packs(int64_t length, std::initializer_list<const void *> addresses) {
  bool aligned = length % kPack<T> == 0;
  for (const void *address : addresses) aligned = aligned && reinterpret_cast<uintptr_t>(address) % 16 == 0;
  return aligned;
}

/* body(T{}, width) with decltype(width)::value elements in a pack, for the type that `dtype` names. */
template <typename Body>
int32_t with_packs(int32_t dtype, int64_t length, std::initializer_list<const void *> addresses, const Body &body) {
  return with_type(dtype, [&](auto type) {
    using T = decltype(type);
    return in_packs<T>(length, addresses) ? body(type, std::integral_constant<int, kPack<T>>{})
                                          : body(type, std::integral_constant<int, 1>{});
  });
}

/* Threads of a block that takes a row of d elements: a pack each if they are enough. */
inline unsigned threads_for_row(int64_t d, int pack) {
  const int64_t warps = (d / pack + 31) / 32;
  return 32 * static_cast<unsigned>(warps < 1 ? 1 : warps > 16 ? 16 : warps);
}

}  // namespace esp

#endif
