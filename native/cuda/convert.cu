/*
 * Conversion from the number types of files to those of activations: of vectors, and of matrices, which are transposed
 * and scaled on the way. The bytes of a file have been copied to the device as they are.
 *
 * Bound by memory. What every step converts, parameters to their copy in bfloat16, is aligned and goes by packs. The
 * bytes of files may lie at any alignment, so their elements are assembled from single bytes; files are converted only
 * once. A transposition goes by tiles of 32 x 32 in shared memory, so that both sides are read and written in rows of
 * 64 bytes or more. The tile in memory is one column wider, against bank conflicts.
 */
#include "vector.cuh"

namespace {

constexpr int kTile = 32;

/* How many blocks share a matrix. A model has some hundred matrices of 10^5 to 10^6 elements. */
constexpr unsigned kPlaceBlocks = 16;

__device__ inline uint64_t little_endian(const uint8_t *bytes, int count) {
  uint64_t value = 0;
  for (int i = 0; i < count; i++) value |= static_cast<uint64_t>(bytes[i]) << 8 * i;
  return value;
}

template <typename To, typename From>
__device__ inline To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From), "bits are as many");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

/* From IEEE half. Multiplying by 2^112 moves the exponent, which also turns denormals into normal floats. Infinities
 * and NaNs get the largest exponent. */
__device__ inline float from_f16(uint32_t bits) {
  const uint32_t magnitude = (bits & 0x7fffu) << 13;
  const float scaled = bits_as<float>(magnitude) * 0x1p112f;
  const uint32_t value = magnitude >= 0x0f800000u ? magnitude | 0x7f800000u : bits_as<uint32_t>(scaled);
  return bits_as<float>(value | (bits & 0x8000u) << 16);
}

__device__ inline double element(const uint8_t *source, int32_t dtype, int64_t i) {
  switch (dtype) {
    case ESP_F32:
      return static_cast<double>(bits_as<float>(static_cast<uint32_t>(little_endian(source + 4 * i, 4))));
    case ESP_BF16:
      return static_cast<double>(bits_as<float>(static_cast<uint32_t>(little_endian(source + 2 * i, 2) << 16)));
    case ESP_F16:
      return static_cast<double>(from_f16(static_cast<uint32_t>(little_endian(source + 2 * i, 2))));
    default:
      return bits_as<double>(little_endian(source + 8 * i, 8));
  }
}

template <typename From, typename T, int N>
__global__ void convert_packs(const From *source, T *dst, int64_t n) {
  ESP_FOR_EACH(p, n / N) esp::store(dst + p * N, esp::load<N>(source + p * N));
}

template <typename T>
__global__ void convert(const uint8_t *source, int32_t from, const float *row_scale, T *dst, int64_t n, int64_t cols,
                        int64_t ld_dst) {
  ESP_FOR_EACH(i, n) {
    const double scale = row_scale == nullptr ? 1 : static_cast<double>(row_scale[i / cols]);
    dst[i / cols * ld_dst + i % cols] = esp::rounded<T>(scale * element(source, from, i));
  }
}

/* A block takes tiles of dst that are one grid apart; a thread takes four elements of a column of each. */
template <typename T>
__global__ void transpose(const uint8_t *source, int32_t from, const float *row_scale, T *dst, int64_t rows,
                          int64_t cols, int64_t ld_dst) {
  __shared__ double tile[kTile][kTile + 1]; /* [column of dst, row of dst] */
  const int64_t across = (cols + kTile - 1) / kTile, tiles = (rows + kTile - 1) / kTile * across;
  const int lane = static_cast<int>(threadIdx.x) % kTile, line = static_cast<int>(threadIdx.x) / kTile;
  for (int64_t index = blockIdx.x; index < tiles; index += gridDim.x) {
    const int64_t row = index / across * kTile, col = index % across * kTile;
    for (int c = line; c < kTile; c += esp::kThreads / kTile) {
      if (col + c < cols && row + lane < rows) tile[c][lane] = element(source, from, (col + c) * rows + row + lane);
    }
    __syncthreads();
    for (int r = line; r < kTile; r += esp::kThreads / kTile) {
      if (row + r < rows && col + lane < cols) {
        const double scale = row_scale == nullptr ? 1 : static_cast<double>(row_scale[row + r]);
        dst[(row + r) * ld_dst + col + lane] = esp::rounded<T>(scale * tile[lane][r]);
      }
    }
    __syncthreads();
  }
}

/* Column p of the grid copies place p, in packs if all its rows are aligned. */
template <typename T>
__global__ void place_matrices(const float *values, const esp_place *places) {
  constexpr int N = esp::kPack<T>;
  const esp_place place = places[blockIdx.y];
  const float *source = values + place.from;
  T *target = static_cast<T *>(place.to);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, step = gridDim.x * blockDim.x;
  const bool aligned = reinterpret_cast<uintptr_t>(source) % 16 == 0 && reinterpret_cast<uintptr_t>(target) % 16 == 0;
  if (aligned && (place.cols | place.ld) % N == 0) {
    const int64_t packs = place.cols / N;
    for (int64_t p = first; p < place.rows * packs; p += step) {
      esp::store(target + p / packs * place.ld + p % packs * N, esp::load<N>(source + p * N));
    }
    return;
  }
  for (int64_t i = first; i < place.rows * place.cols; i += step) {
    target[i / place.cols * place.ld + i % place.cols] = esp::rounded<T>(source[i]);
  }
}

bool is_dtype(int32_t dtype) { return dtype == ESP_F32 || dtype == ESP_BF16 || dtype == ESP_F16 || dtype == ESP_F64; }

}  // namespace

int32_t esp_convert(const void *src, int32_t from, void *dst, int64_t n, int32_t dtype) {
  ESP_REQUIRE(n >= 0, "n must not be negative, got %ld", n);
  ESP_REQUIRE(is_dtype(from), "no dtype %d", from);
  constexpr int N = esp::kPack<esp::bf16>; /* two packs of float */
  const bool packs = (from == ESP_F32 || from == ESP_BF16) && esp::in_packs<esp::bf16>(n, {src, dst});
  return esp::with_type(dtype, [=](auto type) {
    using T = decltype(type);
    if (packs) {
      return esp::with_type(from, [=](auto source) {
        using From = decltype(source);
        return ESP_LAUNCH((convert_packs<From, T, N>), esp::blocks_for(n / N), esp::kThreads,
                          static_cast<const From *>(src), static_cast<T *>(dst), n);
      });
    }
    const float *unscaled = nullptr;
    return ESP_LAUNCH(convert<T>, esp::blocks_for(n), esp::kThreads, static_cast<const uint8_t *>(src), from, unscaled,
                      static_cast<T *>(dst), n, n, n);
  });
}

int32_t esp_convert_matrix(const void *src, int32_t from, int32_t transposed, const float *row_scale, void *dst,
                           int64_t ld_dst, int64_t rows, int64_t cols, int32_t dtype) {
  ESP_REQUIRE(rows >= 0 && cols > 0, "bad sizes: rows=%ld cols=%ld", rows, cols);
  ESP_REQUIRE(ld_dst >= cols, "ld_dst=%ld is shorter than a row of %ld", ld_dst, cols);
  ESP_REQUIRE(is_dtype(from), "no dtype %d", from);
  const uint8_t *bytes = static_cast<const uint8_t *>(src);
  const int64_t n = rows * cols;
  return esp::with_type(dtype, [=](auto type) {
    using T = decltype(type);
    return transposed == 0 ? ESP_LAUNCH(convert<T>, esp::blocks_for(n), esp::kThreads, bytes, from, row_scale,
                                        static_cast<T *>(dst), n, cols, ld_dst)
                           : ESP_LAUNCH(transpose<T>, esp::blocks_for(n), esp::kThreads, bytes, from, row_scale,
                                        static_cast<T *>(dst), rows, cols, ld_dst);
  });
}

int32_t esp_place_matrices(const float *values, const esp_place *places, int64_t count, int32_t dtype) {
  ESP_REQUIRE(count >= 0 && count <= 65535, "count must be in [0, 65535], got %ld", count);
  return esp::with_type(dtype, [=](auto type) {
    using T = decltype(type);
    const dim3 grid(kPlaceBlocks, static_cast<unsigned>(count));
    return ESP_LAUNCH(place_matrices<T>, grid, esp::kThreads, values, places);
  });
}
