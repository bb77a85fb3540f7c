/*
 * Products on Hopper's tensor cores (wgmma, PTX ISA "Asynchronous Warpgroup Level Matrix Instructions"). A warpgroup,
 * which is four warps that start at a multiple of four, computes a product together, and the tensor cores read shared
 * memory themselves. It needs sm_90a. On the emulator these are plain loops, which run when a product is waited for.
 *
 *   c[64, N] (+)= a[64, 16] b[16, N], bfloat16, sums in float
 *
 * Registers. Warp w of the group has the rows [16 w, 16 w + 16) of c. Of these, lane l has float e of tile j at row l /
 * 4 + 8 (e / 2), column 8 j + 2 (l % 4) + e % 2. That is the layout of mma.m16n8k16's C, N / 8 times. If a comes from
 * registers it has the layout of that instruction's A.
 *
 * Order. What a product reads and writes belongs to the tensor cores until the product is waited for:
 *   shared memory written by threads (cp.async too)   shared_is_written(), then a barrier, then the product
 *   registers                                         products_begin(), products, products_end(), products_wait<n>()
 *
 * Shared memory. Operands are tiles of panels (Panels). A panel has 64 columns, 128 bytes a row. The eight chunks of 16
 * bytes in a row are permuted by the row's number modulo 8 ("128-byte swizzling"), so that neither rows nor columns
 * collide in a bank.
 */
#ifndef ESPALIER_CUDA_WARPGROUP_CUH
#define ESPALIER_CUDA_WARPGROUP_CUH

#include "tile.cuh"

namespace esp {

constexpr int kWarpgroup = 128;

/* Declares the kernel's dynamic shared memory with the alignment that panels need. */
#ifdef __CUDACC__
#define ESP_DYNAMIC_PANELS(name)                                  \
  extern __shared__ __align__(1024) uint8_t esp_dynamic_panels[]; \
  bf16 *name = reinterpret_cast<bf16 *>(esp_dynamic_panels)
#else
#define ESP_DYNAMIC_PANELS(name) bf16 *name = static_cast<bf16 *>(emulator::dynamic_shared())
#endif

#ifdef __CUDACC__

/* On other GPUs this is empty: their code is never launched, see has_hopper(). */
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define ESP_WARPGROUP_PTX(...) asm volatile(__VA_ARGS__)
#else
#define ESP_WARPGROUP_PTX(...) __trap()
#endif

__device__ inline void shared_is_written() { ESP_WARPGROUP_PTX("fence.proxy.async.shared::cta;" ::: "memory"); }
__device__ inline void products_begin() { ESP_WARPGROUP_PTX("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void products_end() { ESP_WARPGROUP_PTX("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/* Waits until at most n of the groups that products_end() has closed are still running. */
template <int n>
__device__ inline void products_wait() {
  ESP_WARPGROUP_PTX("wgmma.wait_group.sync.aligned %0;" ::"n"(n) : "memory");
}

/* A barrier of warpgroup number `group` of the block. */
__device__ inline void group_barrier(int group) {
  asm volatile("bar.sync %0, %1;" ::"r"(group + 1), "n"(kWarpgroup) : "memory");
}

/* Stands between products and other uses of their accumulators: it keeps the compiler from moving one across the other.
 */
template <int kTiles>
__device__ inline void hold(float (&c)[kTiles][4]) {
#pragma unroll
  for (int j = 0; j < kTiles; j++) {
#pragma unroll
    for (int e = 0; e < 4; e++) asm volatile("" : "+f"(c[j][e])::"memory");
  }
}

/* Tells a product where a tile of panels is. Bits 0-13 are its address, 16-29 and 32-45 two strides, all in units of 16
 * bytes; bits 62-63 are the swizzle (1: 128 bytes). Adding n gives what lies n times 16 bytes further on. */
__device__ inline uint64_t descriptor(const void *tile, int leading_bytes, int stride_bytes) {
  return (shared_address(tile) & 0x3ffff) >> 4 | static_cast<uint64_t>(leading_bytes >> 4) << 16 |
         static_cast<uint64_t>(stride_bytes >> 4) << 32 | uint64_t{1} << 62;
}

#define ESP_C4(j) "+f"(c[j][0]), "+f"(c[j][1]), "+f"(c[j][2]), "+f"(c[j][3])
#define ESP_C16(j) ESP_C4(j), ESP_C4(j + 1), ESP_C4(j + 2), ESP_C4(j + 3)
#define ESP_C64(j) ESP_C16(j), ESP_C16(j + 4), ESP_C16(j + 8), ESP_C16(j + 12)
/* clang-format off: %0 to %127 are the accumulators */
#define ESP_R16 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define ESP_R16_32 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define ESP_R32_64                                                                                                 \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, " \
  "%54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define ESP_R64_128                                                                                                    \
  "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, %85, "     \
  "%86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, "   \
  "%107, %108, %109, %110, %111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, " \
  "%126, %127"
/* clang-format on */
#define ESP_R32 ESP_R16 ", " ESP_R16_32
#define ESP_R64 ESP_R32 ", " ESP_R32_64
#define ESP_R128 ESP_R64 ", " ESP_R64_128

/* c = a b, plus c if `adds`. Descriptors give a [64, 16] and b with 16 rows. kByColumns: b's descriptor is of a tile
 * [16, kCols]; otherwise of its transpose. */
template <bool kByColumns, int kTiles>
__device__ inline void product(float (&c)[kTiles][4], uint64_t a, uint64_t b, bool adds) {
  constexpr int kCols = 8 * kTiles;
  if constexpr (kCols == 32) {
    ESP_WARPGROUP_PTX(
        "{\n.reg .pred adds;\nsetp.ne.b32 adds, %18, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {" ESP_R16 "}, %16, %17, adds, 1, 1, 0, %19;\n}"
        : ESP_C16(0)
        : "l"(a), "l"(b), "r"(static_cast<int>(adds)), "n"(static_cast<int>(kByColumns)));
  } else if constexpr (kCols == 64) {
    ESP_WARPGROUP_PTX(
        "{\n.reg .pred adds;\nsetp.ne.b32 adds, %34, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" ESP_R32 "}, %32, %33, adds, 1, 1, 0, %35;\n}"
        : ESP_C16(0), ESP_C16(4)
        : "l"(a), "l"(b), "r"(static_cast<int>(adds)), "n"(static_cast<int>(kByColumns)));
  } else if constexpr (kCols == 128) {
    ESP_WARPGROUP_PTX(
        "{\n.reg .pred adds;\nsetp.ne.b32 adds, %66, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" ESP_R64 "}, %64, %65, adds, 1, 1, 0, %67;\n}"
        : ESP_C64(0)
        : "l"(a), "l"(b), "r"(static_cast<int>(adds)), "n"(static_cast<int>(kByColumns)));
  } else if constexpr (kCols == 256) {
    ESP_WARPGROUP_PTX(
        "{\n.reg .pred adds;\nsetp.ne.b32 adds, %130, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {" ESP_R128 "}, %128, %129, adds, 1, 1, 0, %131;\n}"
        : ESP_C64(0), ESP_C64(16)
        : "l"(a), "l"(b), "r"(static_cast<int>(adds)), "n"(static_cast<int>(kByColumns)));
  } else {
    static_assert(kCols == 32, "a product of other columns");
  }
}
/* The same, with a warp's own 16 rows of a in registers. */
template <bool kByColumns, int kTiles>
__device__ inline void product(float (&c)[kTiles][4], const uint32_t (&a)[4], uint64_t b, bool adds) {
  constexpr int kCols = 8 * kTiles;
  if constexpr (kCols == 32) {
    ESP_WARPGROUP_PTX(
        "{\n.reg .pred adds;\nsetp.ne.b32 adds, %21, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {" ESP_R16
        "}, {%16, %17, %18, %19}, %20, "
        "adds, 1, 1, %22;\n}"
        : ESP_C16(0)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(adds)),
          "n"(static_cast<int>(kByColumns)));
  } else if constexpr (kCols == 64) {
    ESP_WARPGROUP_PTX(
        "{\n.reg .pred adds;\nsetp.ne.b32 adds, %37, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" ESP_R32
        "}, {%32, %33, %34, %35}, %36, "
        "adds, 1, 1, %38;\n}"
        : ESP_C16(0), ESP_C16(4)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(adds)),
          "n"(static_cast<int>(kByColumns)));
  } else if constexpr (kCols == 128) {
    ESP_WARPGROUP_PTX(
        "{\n.reg .pred adds;\nsetp.ne.b32 adds, %69, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" ESP_R64
        "}, {%64, %65, %66, %67}, %68, "
        "adds, 1, 1, %70;\n}"
        : ESP_C64(0)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(adds)),
          "n"(static_cast<int>(kByColumns)));
  } else if constexpr (kCols == 256) {
    ESP_WARPGROUP_PTX(
        "{\n.reg .pred adds;\nsetp.ne.b32 adds, %133, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {" ESP_R128
        "}, {%128, %129, %130, %131}, %132, "
        "adds, 1, 1, %134;\n}"
        : ESP_C64(0), ESP_C64(16)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(adds)),
          "n"(static_cast<int>(kByColumns)));
  } else {
    static_assert(kCols == 32, "a product of other columns");
  }
}

#else

inline void shared_is_written() { emulator::shared_is_written(); }
inline void group_barrier(int group) { emulator::group_barrier(static_cast<unsigned>(group), kWarpgroup); }
inline void products_begin() {}
inline void products_end() { emulator::products_end(); }
template <int n>
inline void products_wait() {
  emulator::products_wait(n);
}
template <int kTiles>
inline void hold(float (&)[kTiles][4]) {}
inline uint64_t descriptor(const void *tile, int leading_bytes, int stride_bytes) {
  return emulator::descriptor(tile, leading_bytes, stride_bytes);
}
template <bool kByColumns, int kTiles>
inline void product(float (&c)[kTiles][4], uint64_t a, uint64_t b, bool adds) {
  emulator::warpgroup_product(&c[0][0], 8 * kTiles, nullptr, a, b, kByColumns, adds);
}
template <bool kByColumns, int kTiles>
inline void product(float (&c)[kTiles][4], const uint32_t (&a)[4], uint64_t b, bool adds) {
  emulator::warpgroup_product(&c[0][0], 8 * kTiles, a, 0, b, kByColumns, adds);
}

#endif

/* A tile [kRows, kCols] in panels of 64 columns, one after the other, aligned to 1024 bytes. */
template <int kRows, int kCols>
struct Panels {
  static_assert(kRows % 8 == 0 && kCols % 64 == 0, "whole panels");
  static constexpr int kPanel = kRows * 64, kElements = kRows * kCols, kChunks = kCols / 8;

  bf16 *data;

  __device__ bf16 *at(int row, int chunk) const {
    return data + chunk / 8 * kPanel + row * 64 + 8 * (chunk % 8 ^ row % 8);
  }

  /* The descriptor for use as a, or as the transpose of b: 16 columns from `column` on (a multiple of 16), rows from
   * `row` on (a multiple of 8). */
  __device__ uint64_t of_rows(int row, int column) const {
    return descriptor(data, 16, 1024) + static_cast<uint64_t>(column / 64 * kPanel + row * 64 + column % 64) / 8;
  }
  /* The descriptor for use as b: 16 rows from `row` on, columns from `column` on (a multiple of 64). */
  __device__ uint64_t of_columns(int row, int column) const {
    return descriptor(data, 2 * kPanel, 1024) + static_cast<uint64_t>(column / 64 * kPanel + row * 64) / 8;
  }

  /* Starts to copy kRows rows of `cols` columns of a matrix that has `rows` rows; the rest of the tile becomes 0.
   * kThreads threads share the work; this one is number `thread`. */
  template <int kThreads>
  __device__ void fetch(const bf16 *source, int64_t ld, int rows, int cols, int thread) const {
    constexpr int kRowsAtOnce = kThreads / 8;
    static_assert(kThreads % 64 == 0 && (kRows % kRowsAtOnce == 0 || kRows < kRowsAtOnce),
                  "a thread keeps its chunk of a panel, and where that lies");
    const int first = thread / 8, chunk = thread % 8;
    if (kRows < kRowsAtOnce && first >= kRows) return;
    const bf16 *from = source + first * ld + 8 * chunk;
    bf16 *const to = at(first, chunk);
    const bool whole = cols == kCols && rows >= kRows;
#pragma unroll
    for (int r = 0; r < kRows; r += kRowsAtOnce) {
#pragma unroll
      for (int panel = 0; panel < kCols / 64; panel++) {
        const bool valid = whole || (first + r < rows && 64 * panel + 8 * chunk < cols);
        cp_async_16(to + r * 64 + panel * kPanel, from + 64 * panel, valid);
      }
      from += kRowsAtOnce * ld;
    }
  }

  __device__ void store_c(const float (&c)[4], int row, int column) const { store_fragment(*this, c, row, column); }

  template <int kCount, int kThreads>
  __device__ void store(int first, bf16 *target, int64_t ld, int64_t rows, int cols, int thread) const {
    store_rows<kCount, kThreads>(*this, first, target, ld, rows, cols, thread);
  }
};

}  // namespace esp

#endif
