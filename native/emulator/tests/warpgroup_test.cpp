/* wgmma and the tiles that it reads against plain loops; what a warpgroup's products and barriers must not do. */
#include "warpgroup.cuh"

#include <cmath>

#include "check.h"

using esp::bf16;
using esp::kWarpgroup;
using esp::Panels;
using tests::Buffer;
using tests::failed_with;

namespace {

constexpr int kRows = 64;
constexpr float kStart = 1.5f; /* of sums that products add to */

/* Sums and products of these are exact in float. */
std::vector<bf16> values(int count, int seed) {
  std::vector<bf16> result;
  for (int i = 0; i < count; i++) {
    result.push_back(esp::rounded<bf16>(static_cast<float>(((i + seed) * 37 + i / 64 + 11) % 64 - 32) / 8));
  }
  return result;
}

float at(const std::vector<bf16> &matrix, int index) { return esp::to_float(matrix[static_cast<size_t>(index)]); }

int thread_of_group() { return static_cast<int>(threadIdx.x) % kWarpgroup; }
int group() { return static_cast<int>(threadIdx.x) / kWarpgroup; }
/* Where float e of tile j of an accumulator is: in its warpgroup's 64 rows, and in the tile's columns. */
int row_of(int e) { return thread_of_group() / 32 * 16 + thread_of_group() % 32 / 4 + 8 * (e / 2); }
int column_of(int e) { return 2 * (thread_of_group() % 4) + e % 2; }

/* Copies are there, and for the tensor cores, too. */
void arrive() {
  esp::cp_async_commit();
  esp::cp_async_wait<0>();
  esp::shared_is_written();
  __syncthreads();
}

/* Tiles that are parts of larger ones: operands begin at row kSkippedRows, or column kSkippedCols. */
constexpr int kInner = 128, kSkippedRows = 8, kSkippedCols = 64;
template <bool kByColumns, int kCols>
struct B {
  static constexpr int kTileRows = kByColumns ? kInner : kCols + 16;
  static constexpr int kTileCols = kByColumns ? (kCols < 64 ? 64 : kCols) + kSkippedCols : kInner;
  using Tile = Panels<kTileRows, kTileCols>;
  static int index(int k, int n) {
    return kByColumns ? k * kTileCols + kSkippedCols + n : (kSkippedRows + n) * kTileCols + k;
  }
};
using A = Panels<kRows + 16, kInner>;

/* c [2, 64, kCols]: products over kInner, in steps of 16; the second warpgroup's are added to kStart. */
template <bool kOfRegisters, bool kByColumns, int kCols>
__global__ void multiply(const bf16 *a, const bf16 *b, float *c) {
  using Right = B<kByColumns, kCols>;
  ESP_DYNAMIC_PANELS(shared);
  const A left{shared};
  const typename Right::Tile right{shared + A::kElements};
  if (group() == 0) {
    left.fetch<kWarpgroup>(a, kInner, kRows + 16, kInner, thread_of_group());
  } else {
    right.template fetch<kWarpgroup>(b, Right::kTileCols, Right::kTileRows, Right::kTileCols, thread_of_group());
  }
  arrive();
  float sum[kCols / 8][4];
  for (auto &tile : sum) {
    for (float &e : tile) e = kStart;
  }
  esp::products_begin();
  for (int k = 0; k < kInner; k += 16) {
    const uint64_t of_right = kByColumns ? right.of_columns(k, kSkippedCols) : right.of_rows(kSkippedRows, k);
    const bool adds = k > 0 || group() == 1;
    if constexpr (kOfRegisters) {
      uint32_t fragment[4];
      for (int r = 0; r < 4; r++) {
        const bf16 *pair = a + (kSkippedRows + row_of(0) + 8 * (r % 2)) * kInner + k + column_of(0) + 8 * (r / 2);
        memcpy(&fragment[r], pair, sizeof fragment[r]);
      }
      esp::product<kByColumns>(sum, fragment, of_right, adds);
    } else {
      esp::product<kByColumns>(sum, left.of_rows(kSkippedRows, k), of_right, adds);
    }
  }
  esp::products_end();
  esp::products_wait<0>();
  for (int j = 0; j < kCols / 8; j++) {
    for (int e = 0; e < 4; e++) c[(group() * kRows + row_of(e)) * kCols + 8 * j + column_of(e)] = sum[j][e];
  }
}

template <bool kOfRegisters, bool kByColumns, int kCols>
void check_product() {
  using Right = B<kByColumns, kCols>;
  const std::vector<bf16> a = values(A::kElements, 3), b = values(Right::Tile::kElements, 17);
  const Buffer<bf16> device_a(a), device_b(b);
  const Buffer<float> c(2 * kRows * kCols);
  CHECK(ESP_LAUNCH_SHARED((multiply<kOfRegisters, kByColumns, kCols>), 1, 2 * kWarpgroup,
                          2 * (A::kElements + Right::Tile::kElements), device_a.device, device_b.device,
                          c.device) == ESP_OK);
  const std::vector<float> result = c.get();
  for (int row = 0; row < kRows; row++) {
    for (int column = 0; column < kCols; column++) {
      float sum = 0;
      for (int k = 0; k < kInner; k++) {
        sum += at(a, (kSkippedRows + row) * kInner + k) * at(b, Right::index(k, column));
      }
      CHECK_EQUAL(sum, result[static_cast<size_t>(row * kCols + column)]);
      CHECK_EQUAL(kStart + sum, result[static_cast<size_t>((kRows + row) * kCols + column)]);
    }
  }
}

template <int kCols>
void check_products() {
  check_product<false, false, kCols>();
  check_product<false, true, kCols>();
  check_product<true, false, kCols>();
  check_product<true, true, kCols>();
}

/* ---- tiles and matrices ---- */

constexpr int kTileRows = 32, kTileCols = 128;
constexpr int kExistingRows = 19, kExistingCols = 72, kLd = 80;
constexpr int kStoredRows = 11, kFirstStored = 8;

/* tile [kTileRows, kTileCols]: what a fetch of a part leaves; stored [16, kLd]: what a store of a part of that does. */
template <int kThreads>
__global__ void fetch_and_store(const bf16 *source, bf16 *tile, bf16 *stored) {
  ESP_DYNAMIC_PANELS(shared);
  const Panels<kTileRows, kTileCols> panels{shared};
  const int thread = static_cast<int>(threadIdx.x);
  panels.fetch<kThreads>(source, kLd, kExistingRows, kExistingCols, thread);
  arrive();
  for (int i = thread; i < panels.kElements; i += kThreads) {
    tile[i] = panels.at(i / kTileCols, i % kTileCols / 8)[i % 8];
  }
  panels.store<16, kThreads>(kFirstStored, stored, kLd, kStoredRows, kExistingCols, thread);
}

template <int kThreads>
void check_fetch_and_store() {
  const std::vector<bf16> source = values((kExistingRows - 1) * kLd + kExistingCols, 5);
  const bf16 untouched = esp::rounded<bf16>(100.0f);
  const Buffer<bf16> device(source), tile(kTileRows * kTileCols),
      stored(std::vector<bf16>(static_cast<size_t>(16 * kLd), untouched));
  CHECK(ESP_LAUNCH_SHARED((fetch_and_store<kThreads>), 1, kThreads, 2 * kTileRows * kTileCols, device.device,
                          tile.device, stored.device) == ESP_OK);
  const std::vector<bf16> fetched = tile.get(), back = stored.get();
  for (int row = 0; row < kTileRows; row++) {
    for (int column = 0; column < kTileCols; column++) {
      const bool exists = row < kExistingRows && column < kExistingCols;
      CHECK_EQUAL(exists ? at(source, row * kLd + column) : 0, at(fetched, row * kTileCols + column));
    }
  }
  for (int row = 0; row < 16; row++) {
    for (int column = 0; column < kLd; column++) {
      const bool exists = row < kStoredRows && column < kExistingCols;
      CHECK_EQUAL(exists ? at(source, (kFirstStored + row) * kLd + column) : esp::to_float(untouched),
                  at(back, row * kLd + column));
    }
  }
}

/* A tile of fewer rows than the threads could fetch at once: [16, 64] by 256. */
__global__ void fetch_few(const bf16 *source, bf16 *out) {
  ESP_DYNAMIC_PANELS(shared);
  const Panels<16, 64> panels{shared};
  const int thread = static_cast<int>(threadIdx.x);
  panels.fetch<256>(source, 64, 16, 64, thread);
  arrive();
  panels.store<16, 256>(0, out, 64, 16, 64, thread);
}

/* Rounds an accumulator [64, 64] of (row + column / 64) to a tile, and copies that out. */
__global__ void store_fragments(bf16 *out) {
  ESP_DYNAMIC_PANELS(shared);
  const Panels<kRows, 64> panels{shared};
  for (int j = 0; j < 8; j++) {
    float c[4];
    for (int e = 0; e < 4; e++) c[e] = static_cast<float>(row_of(e)) + static_cast<float>(8 * j + column_of(e)) / 64;
    panels.store_c(c, thread_of_group() / 32 * 16, 8 * j);
  }
  __syncthreads();
  panels.store<kRows, kWarpgroup>(0, out, 64, kRows, 64, thread_of_group());
}

/* ---- when products are there ---- */

/* Tiles [64, 64] of ones, as a and as b. */
using Square = Panels<kRows, 64>;

Square ones(bf16 *shared) {
  const Square tile{shared};
  for (int i = thread_of_group(); i < Square::kElements; i += kWarpgroup) shared[i] = esp::rounded<bf16>(1.0f);
  esp::shared_is_written();
  __syncthreads();
  return tile;
}

/* out [5, 128]: a float of a first group of products before it is waited for and after, one of a second group at both
 * times, and after its own wait. */
__global__ void two_groups(float *out) {
  ESP_DYNAMIC_PANELS(shared);
  const Square tile = ones(shared);
  float first[8][4] = {}, second[8][4] = {};
  esp::products_begin();
  esp::product<false>(first, tile.of_rows(0, 0), tile.of_rows(0, 0), false);
  esp::products_end();
  esp::product<false>(second, tile.of_rows(0, 0), tile.of_rows(0, 0), false);
  esp::product<false>(second, tile.of_rows(0, 16), tile.of_rows(0, 16), true);
  esp::products_end();
  out[thread_of_group()] = first[7][3];
  out[kWarpgroup + thread_of_group()] = second[7][3];
  esp::products_wait<1>();
  out[2 * kWarpgroup + thread_of_group()] = first[7][3];
  out[3 * kWarpgroup + thread_of_group()] = second[7][3];
  esp::products_wait<0>();
  out[4 * kWarpgroup + thread_of_group()] = second[7][3];
}

/* The tile becomes zero between a product and its wait. */
__global__ void overwritten(float *out) {
  ESP_DYNAMIC_PANELS(shared);
  const Square tile = ones(shared);
  float c[8][4] = {};
  esp::products_begin();
  esp::product<false>(c, tile.of_rows(0, 0), tile.of_rows(0, 0), false);
  esp::products_end();
  for (int i = thread_of_group(); i < Square::kElements; i += kWarpgroup) shared[i] = esp::rounded<bf16>(0.0f);
  esp::group_barrier(0);
  esp::products_wait<0>();
  out[thread_of_group()] = c[0][0];
}

/* ---- faults ---- */

enum class Fault { kNone, kBeyond, kOtherTile, kOneMore, kEnded, kNotWaited };

__global__ void faulty(float *out, Fault fault) {
  ESP_DYNAMIC_PANELS(shared);
  const Square tile = ones(shared);
  const bool odd_one = threadIdx.x == 37;
  if (fault == Fault::kEnded && odd_one) return;
  float c[8][4] = {};
  const uint64_t b = tile.of_rows(fault == Fault::kBeyond ? 8 : 0, fault == Fault::kOtherTile && odd_one ? 16 : 0);
  esp::products_begin();
  esp::product<false>(c, tile.of_rows(0, 0), b, false);
  if (fault == Fault::kOneMore && odd_one) esp::product<false>(c, tile.of_rows(0, 0), b, true);
  esp::products_end();
  if (fault != Fault::kNotWaited) esp::products_wait<0>();
  out[threadIdx.x] = c[0][0];
}

/* A tile of the device's memory, or a __shared__ variable. */
__global__ void elsewhere(bf16 *global) {
  __shared__ __align__(1024) bf16 fixed[Square::kElements];
  const Square tile{global == nullptr ? fixed : global};
  tile.of_rows(0, 0);
}

template <bool kSaid>
__global__ void after_copies(const bf16 *in, float *out) {
  ESP_DYNAMIC_PANELS(shared);
  const Square tile{shared};
  tile.fetch<kWarpgroup>(in, 64, kRows, 64, thread_of_group());
  esp::cp_async_commit();
  esp::cp_async_wait<0>();
  if (kSaid || threadIdx.x != 100) esp::shared_is_written();
  esp::group_barrier(0);
  float c[8][4] = {};
  esp::products_begin();
  esp::product<false>(c, tile.of_rows(0, 0), tile.of_rows(0, 0), false);
  esp::products_end();
  esp::products_wait<0>();
  out[threadIdx.x] = c[0][0];
}

/* ---- barriers of groups ---- */

/* Group g passes values on for 3 + 4 g rounds: out [2, 128], what thread (t + rounds) % 128 had. */
__global__ void own_pace(int *out) {
  __shared__ int tiles[2][kWarpgroup];
  const int t = thread_of_group(), g = group();
  int mine = 1000 * g + t;
  for (int round = 0; round < 3 + 4 * g; round++) {
    tiles[g][t] = mine;
    esp::group_barrier(g);
    mine = tiles[g][(t + 1) % kWarpgroup];
    esp::group_barrier(g);
  }
  out[g * kWarpgroup + t] = mine;
}

__global__ void stranger(int) { esp::group_barrier(threadIdx.x == 130 ? 0 : group()); }
__global__ void half_a_group(int) { esp::group_barrier(0); }

__global__ void early_end(int) {
  if (threadIdx.x < 32) return;
  esp::group_barrier(0);
}

}  // namespace

TEST(wgmma_is_a_product) {
  check_products<32>();
  check_products<64>();
  check_products<128>();
  check_products<256>();
}

TEST(wgmma_is_a_product_under_every_schedule) {
  for (int schedule = 1; schedule < tests::kSchedules; schedule++) {
    espalier_emulator_schedule(schedule);
    check_products<64>();
  }
}

TEST(panels_take_and_give_parts_of_matrices) {
  check_fetch_and_store<64>();
  check_fetch_and_store<128>();
  check_fetch_and_store<256>();
  const std::vector<bf16> in = values(16 * 64, 9);
  const Buffer<bf16> device(in), out(16 * 64);
  CHECK(ESP_LAUNCH_SHARED(fetch_few, 1, 256, 2 * 16 * 64, device.device, out.device) == ESP_OK);
  const std::vector<bf16> result = out.get();
  for (int i = 0; i < 16 * 64; i++) CHECK_EQUAL(at(in, i), at(result, i));
}

TEST(fragments_are_rounded_to_where_they_belong) {
  const Buffer<bf16> out(kRows * 64);
  CHECK(ESP_LAUNCH_SHARED(store_fragments, 1, kWarpgroup, 2 * Square::kElements, out.device) == ESP_OK);
  const std::vector<bf16> result = out.get();
  for (int i = 0; i < kRows * 64; i++) {
    const float exact = static_cast<float>(i / 64) + static_cast<float>(i % 64) / 64;
    CHECK_EQUAL(esp::to_float(esp::rounded<bf16>(exact)), at(result, i));
  }
}

TEST(products_are_there_when_waited_for_and_not_before) {
  const Buffer<float> out(5 * kWarpgroup);
  CHECK(ESP_LAUNCH_SHARED(two_groups, 1, kWarpgroup, 2 * Square::kElements, out.device) == ESP_OK);
  const std::vector<float> result = out.get();
  for (size_t i = 0; i < kWarpgroup; i++) {
    CHECK_EQUAL(0, result[i]);
    CHECK_EQUAL(0, result[kWarpgroup + i]);
    CHECK_EQUAL(16, result[2 * kWarpgroup + i]);
    CHECK_EQUAL(0, result[3 * kWarpgroup + i]);
    CHECK_EQUAL(32, result[4 * kWarpgroup + i]);
  }
}

TEST(products_read_shared_memory_as_late_as_they_may) {
  const Buffer<float> out(kWarpgroup);
  CHECK(ESP_LAUNCH_SHARED(overwritten, 1, kWarpgroup, 2 * Square::kElements, out.device) == ESP_OK);
  for (float value : out.get()) CHECK_EQUAL(0, value);
}

TEST(wgmma_that_a_gpu_would_not_do_is_reported) {
  const Buffer<float> out(kWarpgroup);
  const auto run = [&](Fault fault) {
    CHECK(ESP_LAUNCH_SHARED(faulty, 1, kWarpgroup, 2 * Square::kElements, out.device, fault) == ESP_OK);
  };
  run(Fault::kNone);
  for (float value : out.get()) CHECK_EQUAL(16, value);
  run(Fault::kBeyond);
  CHECK(failed_with("wgmma reads beyond shared memory"));
  run(Fault::kOtherTile);
  CHECK(failed_with("lanes call different wgmma"));
  run(Fault::kOneMore);
  CHECK(failed_with("lanes wait for different wgmma"));
  run(Fault::kEnded);
  CHECK(failed_with("a lane of the warp has ended before wgmma"));
  run(Fault::kNotWaited);
  CHECK(failed_with("ends before wgmma that it has not waited for"));
}

TEST(wgmma_wants_tiles_in_dynamic_shared_memory) {
  const Buffer<bf16> global(Square::kElements);
  CHECK(ESP_LAUNCH_SHARED(elsewhere, 1, 1, 1024, global.device) == ESP_OK);
  CHECK(failed_with("which is not dynamic shared memory"));
  CHECK(ESP_LAUNCH_SHARED(elsewhere, 1, 1, 1024, static_cast<bf16 *>(nullptr)) == ESP_OK);
  CHECK(failed_with("which is not dynamic shared memory"));
}

TEST(copies_are_hidden_from_wgmma_until_said_to_be_written) {
  const Buffer<bf16> in(std::vector<bf16>(Square::kElements, esp::rounded<bf16>(1.0f)));
  const Buffer<float> out(kWarpgroup);
  CHECK(ESP_LAUNCH_SHARED(after_copies<true>, 1, kWarpgroup, 2 * Square::kElements, in.device, out.device) == ESP_OK);
  for (float value : out.get()) CHECK_EQUAL(16, value);
  CHECK(ESP_LAUNCH_SHARED(after_copies<false>, 1, kWarpgroup, 2 * Square::kElements, in.device, out.device) == ESP_OK);
  CHECK(failed_with("shared_is_written() does not follow"));
}

TEST(groups_wait_for_their_own_threads_alone) {
  for (int schedule = 0; schedule < tests::kSchedules; schedule++) {
    espalier_emulator_schedule(schedule);
    const Buffer<int> out(2 * kWarpgroup);
    CHECK(ESP_LAUNCH(own_pace, 1, 2 * kWarpgroup, out.device) == ESP_OK);
    const std::vector<int> result = out.get();
    for (int g = 0; g < 2; g++) {
      for (int t = 0; t < kWarpgroup; t++) {
        CHECK_EQUAL(1000 * g + (t + 3 + 4 * g) % kWarpgroup, result[static_cast<size_t>(g * kWarpgroup + t)]);
      }
    }
  }
}

TEST(a_groups_barrier_is_for_all_of_it_and_nobody_else) {
  CHECK(ESP_LAUNCH(stranger, 1, 2 * kWarpgroup, 0) == ESP_OK);
  CHECK(failed_with("thread 130: the barrier of group 0, to which it does not belong"));
  CHECK(ESP_LAUNCH(half_a_group, 1, kWarpgroup / 2, 0) == ESP_OK);
  CHECK(failed_with("the barrier of group 0"));
  CHECK(ESP_LAUNCH(early_end, 1, kWarpgroup, 0) == ESP_OK);
  CHECK(failed_with("threads 0-31 ended; threads 32-127 wait at a group's barrier"));
}

#ifdef ESPALIER_EMULATOR_RACES
namespace {

enum class Between { kNothing, kGroup, kBlock };

void pass(Between between) {
  if (between == Between::kGroup) esp::group_barrier(group());
  if (between == Between::kBlock) __syncthreads();
}

/* Threads write a place each, then read that of the thread `distance` further on. */
__global__ void exchange(int *out, Between between, int distance) {
  __shared__ int tile[2 * kWarpgroup];
  const int i = static_cast<int>(threadIdx.x);
  tile[i] = i;
  pass(between);
  out[i] = tile[(i + distance) % static_cast<int>(blockDim.x)];
}

/* One place that all read, and thread `writer` then writes. */
__global__ void read_then_written(int *out, Between between, unsigned writer) {
  __shared__ int place;
  if (threadIdx.x == 0) place = 1;
  __syncthreads();
  const int *const readable = &place;
  out[threadIdx.x] = *readable;
  pass(between);
  if (threadIdx.x == writer) place = 2;
}

/* A tile that each group's products read, of which group 0 wrote one half and group 1 the other. */
__global__ void multiply_halves(float *out, Between between) {
  ESP_DYNAMIC_PANELS(shared);
  const Square tile{shared};
  for (int i = static_cast<int>(threadIdx.x); i < Square::kElements; i += 2 * kWarpgroup) {
    shared[i] = esp::rounded<bf16>(1.0f);
  }
  esp::shared_is_written();
  pass(between);
  float c[8][4] = {};
  esp::products_begin();
  esp::product<false>(c, tile.of_rows(0, 0), tile.of_rows(0, 0), false);
  esp::products_end();
  esp::products_wait<0>();
  out[threadIdx.x] = c[0][0];
}

/* One warp's products read what another warp writes afterwards. */
__global__ void multiply_then_write(float *out, Between between) {
  ESP_DYNAMIC_PANELS(shared);
  const Square tile = ones(shared);
  float c[8][4] = {};
  esp::products_begin();
  esp::product<false>(c, tile.of_rows(0, 0), tile.of_rows(0, 0), false);
  esp::products_end();
  esp::products_wait<0>();
  out[threadIdx.x] = c[0][0];
  pass(between);
  if (threadIdx.x < 32) tile.at(static_cast<int>(threadIdx.x), 0)[0] = esp::rounded<bf16>(0.0f);
}

template <typename Launch>
void check_race(Launch launch, bool races) {
  for (int schedule = 0; schedule < tests::kSchedules; schedule++) {
    espalier_emulator_schedule(schedule);
    CHECK(launch() == ESP_OK);
    CHECK(races ? failed_with("race") : cudaDeviceSynchronize() == cudaSuccess);
  }
}

}  // namespace

TEST(warps_of_a_group_without_its_barrier_race) {
  const Buffer<int> out(2 * kWarpgroup);
  const Buffer<float> sums(kWarpgroup);
  for (const Between between : {Between::kNothing, Between::kGroup}) {
    const bool races = between == Between::kNothing;
    check_race([&] { return ESP_LAUNCH(exchange, 1, kWarpgroup, out.device, between, 32); }, races);
    check_race([&] { return ESP_LAUNCH(read_then_written, 1, kWarpgroup, out.device, between, 100u); }, races);
    check_race(
        [&] {
          return ESP_LAUNCH_SHARED(multiply_then_write, 1, kWarpgroup, 2 * Square::kElements, sums.device, between);
        },
        races);
  }
}

TEST(groups_that_meet_at_their_own_barriers_alone_race) {
  const Buffer<int> out(2 * kWarpgroup);
  const Buffer<float> sums(2 * kWarpgroup);
  for (const Between between : {Between::kNothing, Between::kGroup, Between::kBlock}) {
    const bool races = between != Between::kBlock;
    check_race([&] { return ESP_LAUNCH(exchange, 1, 2 * kWarpgroup, out.device, between, kWarpgroup); }, races);
    check_race([&] { return ESP_LAUNCH(read_then_written, 1, 2 * kWarpgroup, out.device, between, 200u); }, races);
    check_race(
        [&] {
          return ESP_LAUNCH_SHARED(multiply_halves, 1, 2 * kWarpgroup, 2 * Square::kElements, sums.device, between);
        },
        races);
  }
}
#endif
