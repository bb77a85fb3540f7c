/* Barriers, warp functions, shared memory and schedules. */
#include <cmath>

#include "bf16.cuh"
#include "check.h"

using tests::Buffer;
using tests::failed_with;

namespace {

constexpr int kThreads = 128;

/* out[i] = in[i + shift], by way of shared memory; races without the barrier. */
template <bool barrier>
__global__ void shifted(const float *in, float *out, int shift) {
  __shared__ float tile[kThreads];
  const int i = static_cast<int>(threadIdx.x);
  tile[i] = in[blockIdx.x * kThreads + i];
  if (barrier) __syncthreads();
  out[blockIdx.x * kThreads + i] = tile[(i + shift + kThreads) % kThreads];
}

template <bool barrier>
bool is_shifted(int shift) {
  std::vector<float> values(2 * kThreads);
  for (size_t i = 0; i < values.size(); i++) values[i] = static_cast<float>(i);
  const Buffer<float> in(values), out(values.size());
  CHECK(ESP_LAUNCH((shifted<barrier>), 2, kThreads, in.device, out.device, shift) == ESP_OK);
  const std::vector<float> result = out.get();
  for (int i = 0; i < 2 * kThreads; i++) {
    const int expected = i / kThreads * kThreads + (i % kThreads + shift + kThreads) % kThreads;
    if (result[static_cast<size_t>(i)] != static_cast<float>(expected)) return false;
  }
  return true;
}

/* The first thing that a block sees in its shared memory; then it leaves something there. */
__global__ void first_sight(float *out) {
  __shared__ float fixed[4];
  ESP_DYNAMIC_SHARED(float, dynamic);
  if (threadIdx.x == 0) {
    out[2 * blockIdx.x] = fixed[1];
    out[2 * blockIdx.x + 1] = dynamic[7];
    fixed[1] = dynamic[7] = 1;
  }
}

/* What each warp function gives to lane l, a row of 32 a function. */
__global__ void warp_functions(int *out) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const unsigned all = 0xffffffffu;
  int row = 0;
  const auto put = [&](int value) { out[32 * row++ + lane] = value; };
  put(__shfl_sync(all, lane, 5));
  put(__shfl_sync(all, lane, 3, 8));
  put(__shfl_xor_sync(all, lane, 1));
  put(__shfl_down_sync(all, lane, 2));
  put(__shfl_down_sync(all, lane, 2, 8));
  put(__shfl_up_sync(all, lane, 3));
  put(static_cast<int>(__ballot_sync(all, lane % 3 == 0)));
  put(__any_sync(all, lane == 9));
  put(__all_sync(all, lane != 9));
  if (lane < 16) {
    put(__shfl_xor_sync(0xffffu, lane, 8)); /* half of a warp by itself */
  } else {
    put(__shfl_xor_sync(0xffff0000u, lane, 4));
  }
  put(__syncthreads_count(threadIdx.x < 40));
}

__global__ void half_at_barrier(int) {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncwarp(threadIdx.x < 64 ? 0xffffffffu : 0x0000ffffu);
    if (threadIdx.x == 40) __shfl_sync(0xffffffffu, 1, 0);
  }
}

__global__ void two_masks(int) { __shfl_sync(threadIdx.x % 2 == 0 ? 0xffffffffu : 0xfffffffeu, 1, 0); }

__global__ void two_functions(int) {
  if (threadIdx.x < 16) {
    __syncwarp();
  } else {
    __ballot_sync(0xffffffffu, 1);
  }
}

__global__ void stranger(int) { __syncwarp(0x1u); }

__global__ void early_end(int *out) {
  if (threadIdx.x >= 40) return;
  __syncthreads();
  out[threadIdx.x] = __syncthreads_count(1);
}

__global__ void counting(int *sum, unsigned *largest, float *total) {
  atomicAdd(sum, 1);
  atomicMax(largest, blockIdx.x * blockDim.x + threadIdx.x);
  atomicAdd(total, 0.5f);
}

__global__ void places(int *out) {
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  atomicAdd(out + block * 12 + thread, 1);
}

}  // namespace

TEST(a_barrier_makes_every_schedule_right) {
  for (int schedule = 0; schedule < tests::kSchedules; schedule++) {
    espalier_emulator_schedule(schedule);
    for (int shift : {1, -1, 40}) CHECK(is_shifted<true>(shift));
  }
}

#ifndef ESPALIER_EMULATOR_RACES
TEST(a_missing_barrier_shows_under_some_schedule) {
  for (int shift : {1, -1, 40, -40}) {
    int right = 0;
    for (int schedule = 0; schedule < 4; schedule++) {
      espalier_emulator_schedule(schedule);
      right += is_shifted<false>(shift) ? 1 : 0;
    }
    CHECK(right <= 1);
  }
}
#else
namespace {

/* A warp's own exchange by shared memory; shuffles in between order nothing. */
template <bool barrier>
__global__ void within_warps(int *out) {
  __shared__ int tile[kThreads];
  const int i = static_cast<int>(threadIdx.x);
  for (int round = 0; round < 3; round++) {
    tile[i] = i + round;
    __shfl_sync(0xffffffffu, i, 0);
    if (barrier) __syncwarp();
    out[i] = tile[i ^ 1];
    __syncwarp();
  }
}

__global__ void across_blocks(int *out) {
  if (threadIdx.x == 0) out[blockIdx.x / 2] = 1;
}

__global__ void counted_and_read(int *sum, bool barrier) {
  atomicAdd(sum, 1);
  if (barrier) __syncthreads();
  if (threadIdx.x == 0) sum[1] = sum[0];
}

__global__ void crooked_load(const float *in, double *out) { out[0] = *reinterpret_cast<const double *>(in); }

}  // namespace

TEST(races_within_warps_across_blocks_and_with_atomics_are_found) {
  const Buffer<int> out(std::vector<int>(kThreads, 0));
  CHECK(ESP_LAUNCH(within_warps<true>, 1, kThreads, out.device) == ESP_OK);
  CHECK(cudaDeviceSynchronize() == cudaSuccess);
  CHECK(ESP_LAUNCH(within_warps<false>, 1, kThreads, out.device) == ESP_OK);
  CHECK(failed_with("race"));
  CHECK(ESP_LAUNCH(across_blocks, 2, 32, out.device) == ESP_OK);
  CHECK(failed_with("which another block has written"));
  CHECK(ESP_LAUNCH(counted_and_read, 1, 64, out.device, true) == ESP_OK);
  CHECK(cudaDeviceSynchronize() == cudaSuccess);
  CHECK(ESP_LAUNCH(counted_and_read, 1, 64, out.device, false) == ESP_OK);
  CHECK(failed_with("race"));
}

TEST(loads_must_be_aligned) {
  const Buffer<float> in(std::vector<float>(4, 0));
  const Buffer<double> out(1);
  CHECK(ESP_LAUNCH(crooked_load, 1, 1, in.device + 2, out.device) == ESP_OK);
  CHECK_EQUAL(0, out.get()[0]);
  CHECK(ESP_LAUNCH(crooked_load, 1, 1, in.device + 1, out.device) == ESP_OK);
  CHECK(failed_with("not aligned"));
}

TEST(a_missing_barrier_is_a_race_under_every_schedule) {
  for (int schedule = 0; schedule < tests::kSchedules; schedule++) {
    espalier_emulator_schedule(schedule);
    const Buffer<float> in(2 * kThreads), out(2 * kThreads);
    CHECK(ESP_LAUNCH((shifted<false>), 2, kThreads, in.device, out.device, 1) == ESP_OK);
    CHECK(failed_with("race"));
  }
}
#endif

TEST(shared_memory_starts_as_nan_in_every_block) {
  const Buffer<float> out(16);
  for (int round = 0; round < 2; round++) {
    CHECK(ESP_LAUNCH_SHARED(first_sight, 8, 32, 64, out.device) == ESP_OK);
    for (float value : out.get()) CHECK(std::isnan(value));
  }
}

TEST(warp_functions_give_what_cuda_says) {
  for (int schedule = 0; schedule < tests::kSchedules; schedule++) {
    espalier_emulator_schedule(schedule);
    const Buffer<int> out(11 * 32);
    CHECK(ESP_LAUNCH(warp_functions, 1, 32, out.device) == ESP_OK);
    const std::vector<int> result = out.get();
    for (int lane = 0; lane < 32; lane++) {
      int row = 0;
      const auto next = [&] { return result[static_cast<size_t>(32 * row++ + lane)]; };
      CHECK_EQUAL(5, next());
      CHECK_EQUAL(lane / 8 * 8 + 3, next());
      CHECK_EQUAL(lane ^ 1, next());
      CHECK_EQUAL(lane + 2 < 32 ? lane + 2 : lane, next());
      CHECK_EQUAL(lane % 8 + 2 < 8 ? lane + 2 : lane, next());
      CHECK_EQUAL(lane >= 3 ? lane - 3 : lane, next());
      CHECK_EQUAL(static_cast<int>(0x49249249u), next());
      CHECK_EQUAL(1, next());
      CHECK_EQUAL(0, next());
      CHECK_EQUAL(lane < 16 ? lane ^ 8 : lane ^ 4, next());
      CHECK_EQUAL(32, next());
    }
  }
}

TEST(a_barrier_that_some_never_reach_is_reported) {
  CHECK(ESP_LAUNCH(half_at_barrier, 3, 96, 0) == ESP_OK);
  CHECK(cudaDeviceSynchronize() == cudaErrorLaunchFailure);
  const std::string message = espalier_emulator_fault();
  CHECK(message.find("half_at_barrier, block (") == 0);
  /* threads 64 to 79 take part in a barrier of half a warp, the others come with a mask that leaves them out */
  CHECK(message.find("without its own lane") != std::string::npos || message.find("__shfl_sync") != std::string::npos);
  espalier_emulator_reset();
  CHECK(ESP_LAUNCH(two_functions, 1, 32, 0) == ESP_OK);
  CHECK(failed_with("threads 0-15 wait at __syncwarp of mask ffffffff; threads 16-31 wait at __ballot_sync"));
  CHECK(ESP_LAUNCH(two_masks, 1, 32, 0) == ESP_OK);
  CHECK(failed_with("thread 0 wait at __shfl_sync of mask ffffffff; thread 1 wait at __shfl_sync of mask fffffffe"));
  CHECK(ESP_LAUNCH(stranger, 1, 2, 0) == ESP_OK);
  CHECK(failed_with("without its own lane 1"));
}

TEST(threads_that_have_ended_are_not_waited_for) {
  const Buffer<int> out(40);
  CHECK(ESP_LAUNCH(early_end, 1, 64, out.device) == ESP_OK);
  for (int count : out.get()) CHECK_EQUAL(40, count);
}

TEST(atomics_lose_nothing) {
  const Buffer<int> sum(std::vector<int>{0});
  const Buffer<unsigned> largest(std::vector<unsigned>{0});
  const Buffer<float> total(std::vector<float>{0});
  CHECK(ESP_LAUNCH(counting, 50, 64, sum.device, largest.device, total.device) == ESP_OK);
  CHECK_EQUAL(3200, sum.get()[0]);
  CHECK_EQUAL(3199, largest.get()[0]);
  CHECK_EQUAL(1600, total.get()[0]);
}

TEST(every_thread_of_a_grid_in_three_dimensions_runs_once) {
  const Buffer<int> out(std::vector<int>(24 * 12, 0));
  CHECK(ESP_LAUNCH(places, dim3(2, 3, 4), dim3(3, 2, 2), out.device) == ESP_OK);
  for (int count : out.get()) CHECK_EQUAL(1, count);
}

TEST(bf16_is_rounded_to_nearest_even_and_keeps_nan) {
  const auto bits = [](float x) { return static_cast<int>(__bfloat16_as_ushort(esp::rounded<esp::bf16>(x))); };
  CHECK_EQUAL(0x3f80, bits(1.0f));
  CHECK_EQUAL(0x3f80, bits(1.00390625f)); /* a tie: to even, down */
  CHECK_EQUAL(0x3f82, bits(1.01171875f)); /* a tie: to even, up */
  CHECK_EQUAL(0x3f81, bits(1.0039065f));  /* just above the tie */
  CHECK_EQUAL(0x7f80, bits(INFINITY));
  CHECK_EQUAL(0xff80, bits(-3.4e38f)); /* overflows */
  CHECK_EQUAL(0x8000, bits(-0.0f));
  CHECK(std::isnan(esp::to_float(esp::rounded<esp::bf16>(NAN))));
  CHECK(std::isnan(esp::to_float(esp::rounded<esp::bf16>(__uint_as_float(0x7f800001u)))));
  /* In two steps these would be ties: float first drops what decides. */
  CHECK_EQUAL(0x3f81, __bfloat16_as_ushort(esp::rounded<esp::bf16>(1.00390625 + 1e-12)));
  CHECK_EQUAL(0x3f81, __bfloat16_as_ushort(esp::rounded<esp::bf16>(1.01171875 - 1e-12)));
  CHECK_EQUAL(0xbf81, __bfloat16_as_ushort(esp::rounded<esp::bf16>(-1.00390625 - 1e-12)));
}
