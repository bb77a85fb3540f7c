/* ldmatrix, mma and cp.async against plain loops. */
#include <cmath>

#include "check.h"
#include "mma.cuh"

using esp::bf16;
using tests::Buffer;
using tests::failed_with;

namespace {

/* c [16, 8] = a [16, 16] b, where b is given as [16, 8] by rows, or as its transpose [8, 16] by rows. */
template <bool transposed>
__global__ void product(const bf16 *a, const bf16 *b, float *c) {
  __shared__ __align__(16) bf16 left[16][16], right[transposed ? 8 : 16][transposed ? 16 : 8];
  const int lane = static_cast<int>(threadIdx.x);
  for (int i = lane; i < 256; i += 32) left[i / 16][i % 16] = a[i];
  for (int i = lane; i < 128; i += 32) (&right[0][0])[i] = b[i];
  __syncwarp();
  uint32_t fragment_a[4], fragment_b[2];
  esp::ldmatrix_x4(fragment_a, &left[lane % 16][8 * (lane / 16)]);
  if (transposed) {
    esp::ldmatrix_x2(fragment_b, &right[lane % 8][lane / 8 % 2 * (transposed ? 8 : 0)]);
  } else {
    esp::ldmatrix_x2_trans(fragment_b, &right[lane % (transposed ? 8 : 16)][0]);
  }
  float sum[4] = {1, 1, 1, 1};
  esp::mma_m16n8k16(sum, fragment_a, fragment_b);
  for (int e = 0; e < 4; e++) c[(lane / 4 + 8 * (e / 2)) * 8 + 2 * (lane % 4) + e % 2] = sum[e];
}

/* The registers that each form of ldmatrix fills: [lane, 14]. */
__global__ void loads(const bf16 *in, uint32_t *out) {
  __shared__ __align__(16) bf16 rows[32][8];
  const int lane = static_cast<int>(threadIdx.x);
  for (int i = 0; i < 8; i++) rows[lane][i] = in[lane * 8 + i];
  __syncwarp();
  uint32_t one[1], two[2], four[4], one_t[1], two_t[2], four_t[4];
  esp::ldmatrix_x1(one, rows[lane]);
  esp::ldmatrix_x2(two, rows[lane]);
  esp::ldmatrix_x4(four, rows[lane]);
  esp::ldmatrix_x1_trans(one_t, rows[lane]);
  esp::ldmatrix_x2_trans(two_t, rows[lane]);
  esp::ldmatrix_x4_trans(four_t, rows[lane]);
  uint32_t *mine = out + 14 * lane;
  mine[0] = one[0];
  mine[1] = two[0];
  mine[2] = two[1];
  for (int i = 0; i < 4; i++) mine[3 + i] = four[i];
  mine[7] = one_t[0];
  mine[8] = two_t[0];
  mine[9] = two_t[1];
  for (int i = 0; i < 4; i++) mine[10 + i] = four_t[i];
}

__global__ void bad_row(int shift) {
  __shared__ __align__(16) bf16 rows[32][16];
  rows[threadIdx.x][0] = esp::rounded<bf16>(0.0f);
  __syncwarp();
  uint32_t r[1];
  esp::ldmatrix_x1(r, &rows[threadIdx.x][0] + shift);
}

__global__ void global_row(const bf16 *row) {
  uint32_t r[1];
  esp::ldmatrix_x1(r, row);
}

/* What is in shared memory before and after waiting for the first of two groups, and after waiting for both; the last
 * four floats of the second group are not valid. */
__global__ void arrivals(const float *in, float *out) {
  ESP_DYNAMIC_SHARED(float, tile);
  const int lane = static_cast<int>(threadIdx.x);
  esp::cp_async_16(tile + 4 * lane, in + 4 * lane, true);
  esp::cp_async_commit();
  esp::cp_async_16(tile + 128 + 4 * lane, in + 128 + 4 * lane, lane != 31);
  esp::cp_async_commit();
  out[lane] = tile[4 * lane];
  esp::cp_async_wait<1>();
  out[32 + lane] = tile[4 * lane];
  out[64 + lane] = tile[128 + 4 * lane];
  esp::cp_async_wait<0>();
  out[96 + lane] = tile[128 + 4 * lane];
}

__global__ void crooked_copy(const float *in) {
  ESP_DYNAMIC_SHARED(float, tile);
  esp::cp_async_16(tile, in + 1, true);
}

float value(int i) { return static_cast<float>((i * 37 + 11) % 64 - 32) / 8; }

std::vector<bf16> values(int count, int seed) {
  std::vector<bf16> result;
  for (int i = 0; i < count; i++) result.push_back(esp::rounded<bf16>(value(i * 5 + seed)));
  return result;
}

template <bool transposed>
void check_product() {
  const std::vector<bf16> a = values(256, 3), b = values(128, 17);
  const Buffer<bf16> device_a(a), device_b(b);
  const Buffer<float> c(128);
  CHECK(ESP_LAUNCH((product<transposed>), 1, 32, device_a.device, device_b.device, c.device) == ESP_OK);
  const std::vector<float> result = c.get();
  for (int row = 0; row < 16; row++) {
    for (int column = 0; column < 8; column++) {
      float sum = 1; /* all products and sums here are exact in float */
      for (int k = 0; k < 16; k++) {
        const int at = transposed ? column * 16 + k : k * 8 + column;
        sum += esp::to_float(a[static_cast<size_t>(row * 16 + k)]) * esp::to_float(b[static_cast<size_t>(at)]);
      }
      CHECK_EQUAL(sum, result[static_cast<size_t>(row * 8 + column)]);
    }
  }
}

}  // namespace

TEST(mma_is_a_product_of_what_ldmatrix_loads) {
  for (int schedule = 0; schedule < tests::kSchedules; schedule++) {
    espalier_emulator_schedule(schedule);
    check_product<true>();
    check_product<false>();
  }
}

TEST(every_ldmatrix_gives_each_lane_its_pair) {
  const std::vector<bf16> in = values(256, 1);
  const Buffer<bf16> device(in);
  const Buffer<uint32_t> out(32 * 14);
  CHECK(ESP_LAUNCH(loads, 1, 32, device.device, out.device) == ESP_OK);
  const std::vector<uint32_t> result = out.get();
  const auto bits = [&](int row, int column) {
    return static_cast<uint32_t>(__bfloat16_as_ushort(in[static_cast<size_t>(row * 8 + column)]));
  };
  const int matrix[7] = {0, 0, 1, 0, 1, 2, 3};
  for (int lane = 0; lane < 32; lane++) {
    const int r = lane / 4, c = 2 * (lane % 4);
    for (int i = 0; i < 7; i++) {
      const int first = 8 * matrix[i];
      CHECK_EQUAL(bits(first + r, c) | bits(first + r, c + 1) << 16, result[static_cast<size_t>(14 * lane + i)]);
      CHECK_EQUAL(bits(first + c, r) | bits(first + c + 1, r) << 16, result[static_cast<size_t>(14 * lane + 7 + i)]);
    }
  }
}

TEST(ldmatrix_wants_aligned_shared_memory) {
  CHECK(ESP_LAUNCH(bad_row, 1, 32, 1) == ESP_OK);
  CHECK(failed_with("not aligned to 16 bytes"));
  CHECK(ESP_LAUNCH(bad_row, 1, 32, 8) == ESP_OK);
  CHECK(cudaDeviceSynchronize() == cudaSuccess);
  const Buffer<bf16> row(8);
  CHECK(ESP_LAUNCH(global_row, 1, 32, row.device) == ESP_OK);
  CHECK(failed_with("which is not shared memory"));
}

TEST(cp_async_arrives_at_its_wait_and_not_before) {
  std::vector<float> in(256);
  for (int i = 0; i < 256; i++) in[static_cast<size_t>(i)] = static_cast<float>(i + 1);
  const Buffer<float> device(in), out(128);
  CHECK(ESP_LAUNCH_SHARED(arrivals, 1, 32, 1024, device.device, out.device) == ESP_OK);
  const std::vector<float> result = out.get();
  for (size_t lane = 0; lane < 32; lane++) {
    CHECK(std::isnan(result[lane]));
    CHECK_EQUAL(in[4 * lane], result[32 + lane]);
    CHECK(std::isnan(result[64 + lane]));
    CHECK_EQUAL(lane == 31 ? 0 : in[128 + 4 * lane], result[96 + lane]);
  }
}

TEST(cp_async_wants_alignment) {
  const Buffer<float> in(8);
  CHECK(ESP_LAUNCH_SHARED(crooked_copy, 1, 1, 64, in.device) == ESP_OK);
  CHECK(failed_with("not aligned to 16 bytes"));
}
