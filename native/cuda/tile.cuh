/*
 * Tiles of bfloat16 in shared memory, which tensor cores read: where their elements lie, and how they are filled and
 * stored.
 *
 * A row of kCols elements is kCols / 8 chunks of 16 bytes. ldmatrix reads one chunk of each of 8 rows at a time. Shared
 * memory delivers 128 bytes at a time, so these 8 chunks must be at different places modulo 8. Chunks below each other
 * would collide. Therefore chunk c of row r lies at c ^ f(r), where f takes, over 8 rows, as many values as there are
 * rows that would collide. Longer rows would avoid collisions, too, but waste memory.
 */
#ifndef ESPALIER_CUDA_TILE_CUH
#define ESPALIER_CUDA_TILE_CUH

#include "mma.cuh"
#include "vector.cuh"

namespace esp {

/* These work on any tile whose at(row, chunk) says where 8 elements lie: */

/* Stores a C fragment of mma, rounded, to the 16 x 8 elements at (row, column). column is a multiple of 8. */
template <typename AnyTile>
__device__ inline void store_fragment(const AnyTile &tile, const float (&c)[4], int row, int column) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  for (int half = 0; half < 2; half++) {
    const uint32_t both = pack(c[2 * half], c[2 * half + 1]);
    memcpy(tile.at(row + lane / 4 + 8 * half, column / 8) + 2 * (lane % 4), &both, sizeof both);
  }
}

/* Stores the tile's rows [first, first + kCount) to a matrix, of which `rows` rows of `cols` columns exist. kThreads
 * threads share the work; this one is number `thread`. */
template <int kCount, int kThreads, typename AnyTile>
__device__ inline void store_rows(const AnyTile &tile, int first, bf16 *target, int64_t ld, int64_t rows, int cols,
                                  int thread) {
#pragma unroll 1
  for (int i = thread; i < kCount * AnyTile::kChunks; i += kThreads) {
    const int row = i / AnyTile::kChunks, chunk = i % AnyTile::kChunks;
    if (row >= rows || 8 * chunk >= cols) continue;
    store_16(target + row * ld + 8 * chunk, load_16(tile.at(first + row, chunk)));
  }
}

template <int kCols>
struct Tile {
  static_assert(kCols % 16 == 0, "a step of mma is 16 columns");
  static constexpr int kChunks = kCols / 8;
  /* How many of 8 rows start at the same place modulo 128 bytes. */
  static constexpr int kColliding = kChunks % 8 == 0 ? 8 : kChunks % 4 == 0 ? 4 : 2;

  bf16 *data;

  __device__ bf16 *at(int row, int chunk) const {
    const int near = chunk % kColliding ^ row / (8 / kColliding) % kColliding; /* the rest is known at compile time */
    return data + row * kCols + 8 * (chunk / kColliding * kColliding + near);
  }

  /* Loads fragments of mma.m16n8k16 from the 16 x 16 elements at (row, column). column is a multiple of 16. */

  /* A = tile. */
  __device__ void load_a(uint32_t (&a)[4], int row, int column) const {
    const int lane = static_cast<int>(threadIdx.x % 32);
    ldmatrix_x4(a, at(row + lane % 16, column / 8 + lane / 16));
  }
  /* B = the tile's transpose: rows of the tile are columns of B. b[0] is for the first 8 of them, b[1] for the others.
   */
  __device__ void load_b_of_rows(uint32_t (&b)[2][2], int row, int column) const {
    const int lane = static_cast<int>(threadIdx.x % 32);
    uint32_t r[4];
    ldmatrix_x4(r, at(row + lane % 8 + lane / 16 * 8, column / 8 + lane / 8 % 2));
    b[0][0] = r[0], b[0][1] = r[1], b[1][0] = r[2], b[1][1] = r[3];
  }
  /* B = tile: columns of the tile are columns of B. */
  __device__ void load_b_of_columns(uint32_t (&b)[2][2], int row, int column) const {
    const int lane = static_cast<int>(threadIdx.x % 32);
    uint32_t r[4];
    ldmatrix_x4_trans(r, at(row + lane % 16, column / 8 + lane / 16));
    b[0][0] = r[0], b[0][1] = r[1], b[1][0] = r[2], b[1][1] = r[3];
  }

  /* A C fragment to and from the 16 x 8 elements at (row, column), rounded when stored. column is a multiple of 8. */
  __device__ void store_c(const float (&c)[4], int row, int column) const { store_fragment(*this, c, row, column); }
  __device__ void load_c(float (&c)[4], int row, int column) const {
    const int lane = static_cast<int>(threadIdx.x % 32);
    for (int half = 0; half < 2; half++) {
      const bf16 *both = at(row + lane / 4 + 8 * half, column / 8) + 2 * (lane % 4);
      c[2 * half] = to_float(both[0]);
      c[2 * half + 1] = to_float(both[1]);
    }
  }

  /* Which rows and columns of a tile exist: [first, end) of each. Columns are multiples of 8. */
  struct Part {
    int first_row, end_row, first_column, end_column;
  };

  /* Starts to copy kRows rows to this tile: element (row, column) comes from source[offset + row * ld + column] if it
   * is in `part`, and is 0 otherwise. kThreads threads share the work; this one is number `thread`. */
  template <int kRows, int kThreads>
  __device__ void fetch(const bf16 *source, int64_t offset, int64_t ld, Part part, int thread) const {
#pragma unroll 1
    for (int i = thread; i < kRows * kChunks; i += kThreads) {
      const int row = i / kChunks, chunk = i % kChunks;
      const bool valid =
          row >= part.first_row && row < part.end_row && 8 * chunk >= part.first_column && 8 * chunk < part.end_column;
      cp_async_16(at(row, chunk), source + (valid ? offset + row * ld + 8 * chunk : 0), valid);
    }
  }

  /* The same for the first `rows` rows of `cols` columns of a matrix. */
  template <int kRows, int kThreads>
  __device__ void fetch(const bf16 *source, int64_t ld, int rows, int cols, int thread) const {
    fetch<kRows, kThreads>(source, 0, ld, {0, rows, 0, cols}, thread);
  }

  /* Stores the rows [first, first + kRows) of the tile to a matrix. */
  template <int kRows, int kThreads>
  __device__ void store(int first, bf16 *target, int64_t ld, int64_t rows, int cols, int thread) const {
    store_rows<kRows, kThreads>(*this, first, target, ld, rows, cols, thread);
  }
};

}  // namespace esp

#endif
