/* Clusters: blocks that run together, their barrier, and what one sees of another's shared memory. */
#include "cluster.cuh"

#include "check.h"

using esp::ClusterShape;
using tests::Buffer;
using tests::failed_with;

namespace {

constexpr int kThreads = 64;
constexpr unsigned kBlocks = 4;
constexpr int64_t kClusters = 3;
constexpr ClusterShape kShape{kBlocks, kThreads, kThreads * sizeof(int)};

/* out [clusters, blocks, threads]: what the block `shift` further on in the cluster has written: its number in the grid
 * and its thread's. */
template <bool barrier>
__global__ void shifted(int *out, unsigned shift) {
  ESP_DYNAMIC_SHARED(int, tile);
  const unsigned rank = esp::cluster_rank(), thread = threadIdx.x;
  esp::cluster_meeting();
  tile[thread] = static_cast<int>(1000 * blockIdx.x + thread);
  if (barrier) esp::cluster_barrier();
  out[blockIdx.x * kThreads + thread] = *esp::in_block(tile + thread, (rank + shift) % kBlocks);
  esp::cluster_barrier();
}

template <bool barrier>
bool is_shifted(unsigned shift) {
  const Buffer<int> out(kClusters * kBlocks * kThreads);
  CHECK(esp::launch_clusters("shifted", shifted<barrier>, kShape, kClusters, out.device, shift) == ESP_OK);
  const std::vector<int> result = out.get();
  for (unsigned block = 0; block < kClusters * kBlocks; block++) {
    const unsigned source = block / kBlocks * kBlocks + (block + shift) % kBlocks;
    for (unsigned thread = 0; thread < kThreads; thread++) {
      if (result[block * kThreads + thread] != static_cast<int>(1000 * source + thread)) return false;
    }
  }
  return true;
}

/* Each block adds up numbers of its own by way of __shared__ variables while the others do, and gives the sum to the
 * first one, which writes out [clusters]. */
__global__ void sums(double *out) {
  ESP_DYNAMIC_SHARED(double, told);
  const double own = esp::block_sum(static_cast<double>(blockIdx.x + 1));
  esp::cluster_barrier();
  const double again = esp::block_sum(static_cast<double>(blockIdx.x + 1));
  if (threadIdx.x == 0) esp::in_block(told, 0)[esp::cluster_rank()] = own + again;
  esp::cluster_barrier();
  if (esp::cluster_rank() != 0 || threadIdx.x != 0) return;
  double sum = 0;
  for (unsigned block = 0; block < kBlocks; block++) sum += told[block];
  out[blockIdx.x / kBlocks] = sum;
}

/* in [blocks, threads] is overwritten with what the next block reads of it. */
template <bool barrier>
__global__ void rotated(int *in) {
  const unsigned rank = esp::cluster_rank(), first = blockIdx.x - rank;
  const int value = in[(first + (rank + 1) % kBlocks) * kThreads + threadIdx.x];
  if (barrier) esp::cluster_barrier();
  in[blockIdx.x * kThreads + threadIdx.x] = value;
}

template <bool barrier>
bool is_rotated() {
  std::vector<int> numbers(kClusters * kBlocks * kThreads);
  for (size_t i = 0; i < numbers.size(); i++) numbers[i] = static_cast<int>(i);
  const Buffer<int> in(numbers);
  CHECK(esp::launch_clusters("rotated", rotated<barrier>, kShape, kClusters, in.device) == ESP_OK);
  const std::vector<int> result = in.get();
  for (unsigned i = 0; i < result.size(); i++) {
    const unsigned block = i / kThreads, source = block / kBlocks * kBlocks + (block + 1) % kBlocks;
    if (result[i] != static_cast<int>(source * kThreads + i % kThreads)) return false;
  }
  return true;
}

__global__ void some_at_barrier(int) {
  if (esp::cluster_rank() == 2 && threadIdx.x < 32) {
    __syncthreads();
  } else {
    esp::cluster_barrier();
  }
}

__global__ void early_end(int *out) {
  if (esp::cluster_rank() == 1 || threadIdx.x == 5) return;
  esp::cluster_barrier();
  atomicAdd(out, 1);
}

__global__ void astray(bool of_variable, unsigned rank) {
  __shared__ int variable;
  ESP_DYNAMIC_SHARED(int, dynamic);
  esp::cluster_meeting();
  *esp::in_block(of_variable ? &variable : dynamic, rank) = 1;
}

__global__ void too_early(int) {
  ESP_DYNAMIC_SHARED(int, tile);
  *esp::in_block(tile, esp::cluster_rank()) = 1;
}

__global__ void too_late(int) {
  ESP_DYNAMIC_SHARED(int, tile);
  esp::cluster_meeting();
  if (esp::cluster_rank() == 1) return;
  __syncthreads();
  if (threadIdx.x == 0) *esp::in_block(tile, 1) = 1;
}

cudaError_t status_of(unsigned blocks, unsigned grid) {
  emulator::launch_clusters("early_end", early_end, dim3(grid), blocks, dim3(32), 0, nullptr,
                            static_cast<int *>(nullptr));
  return cudaGetLastError();
}

}  // namespace

TEST(a_cluster_sees_what_its_blocks_wrote_before_a_barrier) {
  for (int schedule = 0; schedule < tests::kSchedules; schedule++) {
    espalier_emulator_schedule(schedule);
    for (unsigned shift : {0u, 1u, 3u}) CHECK(is_shifted<true>(shift));
    CHECK(is_rotated<true>());
  }
}

#ifndef ESPALIER_EMULATOR_RACES
TEST(a_missing_barrier_of_a_cluster_shows_under_some_schedule) {
  int right = 0;
  for (int schedule = 0; schedule < 4; schedule++) {
    espalier_emulator_schedule(schedule);
    right += (is_shifted<false>(1) ? 1 : 0) + (is_shifted<false>(3) ? 1 : 0) + (is_rotated<false>() ? 1 : 0);
  }
  CHECK_EQUAL(0, right);
}
#else
namespace {

/* All read one word and one of them writes it, behind a barrier of one block only. */
__global__ void read_and_written(int *word, int *out) {
  out[blockIdx.x * kThreads + threadIdx.x] = *word;
  __syncthreads();
  if (esp::cluster_rank() == 1 && threadIdx.x == 0) *word = 1;
}

}  // namespace

TEST(a_missing_barrier_of_a_cluster_is_a_race_under_every_schedule) {
  const Buffer<int> out(std::vector<int>(kClusters * kBlocks * kThreads, 0)), word(std::vector<int>(1, 0));
  for (int schedule = 0; schedule < tests::kSchedules; schedule++) {
    espalier_emulator_schedule(schedule);
    for (unsigned shift : {1u, 2u, 3u}) {
      CHECK(esp::launch_clusters("shifted", shifted<false>, kShape, kClusters, out.device, shift) == ESP_OK);
      CHECK(failed_with("race"));
    }
    CHECK(esp::launch_clusters("rotated", rotated<false>, kShape, kClusters, out.device) == ESP_OK);
    CHECK(failed_with("another block has"));
    CHECK(esp::launch_clusters("read_and_written", read_and_written, kShape, 1, word.device, out.device) == ESP_OK);
    CHECK(failed_with("race"));
  }
}
#endif

TEST(blocks_of_a_cluster_have_variables_of_their_own) {
  for (int schedule = 0; schedule < tests::kSchedules; schedule++) {
    espalier_emulator_schedule(schedule);
    const Buffer<double> out(kClusters);
    CHECK(esp::launch_clusters("sums", sums, kShape, kClusters, out.device) == ESP_OK);
    const std::vector<double> result = out.get();
    for (unsigned c = 0; c < kClusters; c++) {
      CHECK_EQUAL(2 * kThreads * (kBlocks * kBlocks * c + kBlocks * (kBlocks + 1) / 2), result[c]);
    }
  }
}

TEST(a_barrier_that_a_block_of_the_cluster_never_reaches_is_reported) {
  CHECK(esp::launch_clusters("some_at_barrier", some_at_barrier, kShape, 1, 0) == ESP_OK);
  CHECK(
      failed_with("block (0, 0, 0): a barrier is not reached by all that it waits for: threads 0-63 wait at the "
                  "cluster's barrier"));
}

TEST(a_cluster_waits_no_longer_for_threads_that_have_ended) {
  const Buffer<int> out(std::vector<int>(1, 0));
  CHECK(esp::launch_clusters("early_end", early_end, kShape, 2, out.device) == ESP_OK);
  CHECK_EQUAL(2 * (kBlocks - 1) * (kThreads - 1), out.get()[0]);
}

TEST(only_dynamic_shared_memory_of_a_block_that_exists_can_be_reached) {
  CHECK(esp::launch_clusters("astray", astray, kShape, 1, false, kBlocks) == ESP_OK);
  CHECK(failed_with("block 4 of a cluster of 4"));
  CHECK(esp::launch_clusters("astray", astray, kShape, 1, true, 0u) == ESP_OK);
  CHECK(failed_with("is not its dynamic shared memory"));
}

TEST(a_block_can_be_reached_between_its_start_and_its_end) {
  CHECK(esp::launch_clusters("too_early", too_early, kShape, 1, 0) == ESP_OK);
  CHECK(failed_with("may not have started"));
  CHECK(esp::launch_clusters("too_late", too_late, ClusterShape{2, kThreads, 64}, 1, 0) == ESP_OK);
  CHECK(failed_with("block 1 of the cluster has ended"));
}

TEST(a_grid_is_of_whole_clusters_of_at_most_16) {
  CHECK(status_of(17, 17) == cudaErrorInvalidClusterSize);
  CHECK(status_of(16, 24) == cudaErrorInvalidConfiguration);
  CHECK(status_of(0, 1) == cudaErrorInvalidClusterSize);
  CHECK(cudaDeviceSynchronize() == cudaSuccess);
}
