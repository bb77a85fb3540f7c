/*
 * From the number types of files to float32: vectors, and matrices that are transposed and scaled on the way. The bytes
 * have been copied to the device as they are.
 *
 * Bound by memory. Bytes may lie at any alignment, so that elements are put together from bytes: files are converted
 * once. A transposition goes by tiles of 32 x 32 in shared memory, a column wider than a tile against bank conflicts:
 * both sides are then touched in rows of 128 bytes.
 */
#include "device.cuh"

namespace {

constexpr int kTile = 32;

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

/* IEEE half: the exponent is moved by a multiplication with 2^112, which also turns denormals into normal floats;
 * infinities and NaNs get the largest exponent. */
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

__global__ void convert(const uint8_t *source, int32_t dtype, const float *row_scale, float *dst, int64_t n,
                        int64_t cols) {
  ESP_FOR_EACH(i, n) {
    const double scale = row_scale == nullptr ? 1 : static_cast<double>(row_scale[i / cols]);
    dst[i] = static_cast<float>(scale * element(source, dtype, i));
  }
}

/* A block takes tiles of dst, a grid apart; a thread four elements of a column of it. */
__global__ void transpose(const uint8_t *source, int32_t dtype, const float *row_scale, float *dst, int64_t rows,
                          int64_t cols) {
  __shared__ double tile[kTile][kTile + 1]; /* [column of dst, row of dst] */
  const int64_t across = (cols + kTile - 1) / kTile, tiles = (rows + kTile - 1) / kTile * across;
  const int lane = static_cast<int>(threadIdx.x) % kTile, line = static_cast<int>(threadIdx.x) / kTile;
  for (int64_t index = blockIdx.x; index < tiles; index += gridDim.x) {
    const int64_t row = index / across * kTile, col = index % across * kTile;
    for (int c = line; c < kTile; c += esp::kThreads / kTile) {
      if (col + c < cols && row + lane < rows) tile[c][lane] = element(source, dtype, (col + c) * rows + row + lane);
    }
    __syncthreads();
    for (int r = line; r < kTile; r += esp::kThreads / kTile) {
      if (row + r < rows && col + lane < cols) {
        const double scale = row_scale == nullptr ? 1 : static_cast<double>(row_scale[row + r]);
        dst[(row + r) * cols + col + lane] = static_cast<float>(scale * tile[lane][r]);
      }
    }
    __syncthreads();
  }
}

bool is_dtype(int32_t dtype) { return dtype == ESP_F32 || dtype == ESP_BF16 || dtype == ESP_F16 || dtype == ESP_F64; }

}  // namespace

int32_t esp_convert(const void *src, int32_t from, void *dst_, int64_t n, int32_t dtype) {
  ESP_REQUIRE(dtype == ESP_F32, "only float32 is supported on this device, not type %d", dtype);
  auto *dst = static_cast<float *>(dst_);
  ESP_REQUIRE(n >= 0, "n must not be negative, got %ld", n);
  ESP_REQUIRE(is_dtype(from), "no dtype %d", from);
  const float *unscaled = nullptr;
  return ESP_LAUNCH(convert, esp::blocks_for(n), esp::kThreads, static_cast<const uint8_t *>(src), from, unscaled, dst,
                    n, static_cast<int64_t>(1));
}

int32_t esp_convert_matrix(const void *src, int32_t from, int32_t transposed, const float *row_scale, void *dst_,
                           int64_t rows, int64_t cols, int32_t dtype) {
  ESP_REQUIRE(dtype == ESP_F32, "only float32 is supported on this device, not type %d", dtype);
  auto *dst = static_cast<float *>(dst_);
  ESP_REQUIRE(rows >= 0 && cols > 0, "bad sizes: rows=%ld cols=%ld", rows, cols);
  ESP_REQUIRE(is_dtype(from), "no dtype %d", from);
  const uint8_t *bytes = static_cast<const uint8_t *>(src);
  const int64_t n = rows * cols;
  if (transposed == 0) {
    return ESP_LAUNCH(convert, esp::blocks_for(n), esp::kThreads, bytes, from, row_scale, dst, n, cols);
  }
  return ESP_LAUNCH(transpose, esp::blocks_for(n), esp::kThreads, bytes, from, row_scale, dst, rows, cols);
}
