/*
 * Attention backward on Hopper's tensor cores, bfloat16, in one kernel without atomics. The sums are those of
 * attention_backward.cu; their products are made by wgmma from shared memory (warpgroup.cuh).
 *
 *   p = exp(s - lse);  dp = d_out.v;  ds = p (dp - delta) s'(scale q.k);  delta = d_out.out
 *   d_v = sum_i p d_out_i;  d_k = scale sum_i ds q_i;  d_q = scale sum_j ds k_j
 *
 * by_key: a block has 64 keys of a key/value head. It goes through tiles of the queries that see any of them, one head
 * of the group after the other. It computes transposed scores [keys, queries], because the layout of their accumulators
 * is that of the left operands of both sums, d_v and d_k. With more than 128 columns both sums do not fit into
 * registers together, and a block computes one of them. p is then computed twice, but nothing has to be exchanged
 * through shared memory.
 *
 * by_query: a block has 64 queries of a head and goes through tiles of keys.
 *
 * One launch has the blocks of both. With a causal mask the longest block takes twice the mean. Where blocks are few,
 * as with one sequence, the blocks of queries fill what the short blocks of keys leave idle. The longest blocks of each
 * kind start first.
 *
 * In both, kGroups warpgroups take tiles in turn. Each goes at its own pace and has its own sum; at the end the sums
 * are added. There are two groups if one would be alone on its multiprocessor, where it could not hide the latency of
 * its instructions. The next tile is copied while the current one is worked on.
 *
 * FLOPs: 14 head_dim for each pair of a query and a key that it sees (7 products), 16 with more than 128 columns (8
 * products). Bytes: by_key reads q and d_out once for each tile of keys, by_query k and v once for each tile of
 * queries, from L2.
 *
 * Measured on an H200, as two launches, ms:
 *
 *   sequences of 1024 tokens   heads                          by_key   by_query
 *   4                          32 of 64 columns                0.122      0.061
 *   4                          16 of 128                       0.092      0.063
 *   4                          8 of 256 with a cap             0.166      0.089
 *   1                          8 of 256 with a cap             0.087      0.038
 *
 * In the last case each launch of 128 blocks took as long as its longest block. In one launch both together took 0.090.
 */
#include "attention_warpgroup.cuh"

namespace esp::attention {
namespace {

constexpr int kRows = 64; /* of a block: keys, or queries */
constexpr int kStages = 2;

/* How many rows of the other side are in a tile. */
template <int kDim>
constexpr int kTile = kDim <= 128 ? 64 : 32;

/* Shared memory: two matrices of the block's rows, and for each warpgroup two stages of two tiles. */
template <int kDim, int kGroups>
struct Cut {
  static constexpr int kThreads = kWarpgroup * kGroups;
  static constexpr int kTileElements = kTile<kDim> * kDim, kGroupElements = 2 * kStages * kTileElements;
  static constexpr int kElements = 2 * kRows * kDim + kGroups * kGroupElements;
  static constexpr int kStatistics = 2 * kTile<kDim>; /* by_key's: lse, in log2, and delta for one stage */
  static constexpr int kSharedBytes = 2 * kElements + 4 * kGroups * kStages * kStatistics;
  static_assert(kGroups == 1 || 4 * kRows * kDim <= 2 * kGroups * kGroupElements, "room to join sums in");
};

/* Adds the `sum` of the second group to that of the first. Thread t has the same elements in both groups. */
template <int kTiles>
__device__ inline void join(float (&sum)[kTiles][4], int group, int thread, bf16 *shared) {
  float *const of_thread = reinterpret_cast<float *>(shared) + thread;
  __syncthreads(); /* nobody needs what is there any more */
  if (group == 1) {
#pragma unroll
    for (int n = 0; n < kTiles; n++) {
#pragma unroll
      for (int e = 0; e < 4; e++) of_thread[(4 * n + e) * kWarpgroup] = sum[n][e];
    }
  }
  __syncthreads();
  if (group == 0) {
#pragma unroll
    for (int n = 0; n < kTiles; n++) {
#pragma unroll
      for (int e = 0; e < 4; e++) sum[n][e] += of_thread[(4 * n + e) * kWarpgroup];
    }
  }
}

/* Stores factor * sum to the block's rows of a matrix. It goes through shared memory that nobody needs any more. */
template <int kDim>
__device__ inline void store(float (&sum)[kDim / 8][4], float factor, const Panels<kRows, kDim> &way_out, bf16 *target,
                             int64_t ld, int rows, int cols, int thread) {
  const int row = thread / 32 * 16;
#pragma unroll
  for (int n = 0; n < kDim / 8; n++) {
#pragma unroll
    for (int e = 0; e < 4; e++) sum[n][e] *= factor;
    way_out.store_c(sum[n], row, 8 * n);
  }
  __syncwarp();
  way_out.template store<16, 32>(row, target + row * ld, ld, rows - row, cols, thread % 32);
}

/* ---- d_k and d_v ---- */

/* Makes p from the products for scores [keys, queries], and ds from dp, both in place. */
template <bool kCapped, bool kGradient, int kTiles>
__device__ inline void weigh(float (&p)[kTiles][4], float (&dp)[kTiles][4], const Scores &scores, const float *lse_log2,
                             const float *deltas, int lane) {
#pragma unroll
  for (int n = 0; n < kTiles; n++) {
    const float2 lse_of = *reinterpret_cast<const float2 *>(lse_log2 + 8 * n + 2 * (lane % 4));
    const float2 delta_of = *reinterpret_cast<const float2 *>(deltas + 8 * n + 2 * (lane % 4));
#pragma unroll
    for (int e = 0; e < 4; e++) {
      float slope;
      p[n][e] = scores.probability<kCapped>(p[n][e], e % 2 == 0 ? lse_of.x : lse_of.y, slope);
      if constexpr (kGradient) dp[n][e] = p[n][e] * (dp[n][e] - (e % 2 == 0 ? delta_of.x : delta_of.y)) * slope;
    }
  }
}

/* Which sums a block computes. */
enum class Sums { kBoth, kKeys, kValues };

/* Works on the `tile`-th 64 keys of a sequence's key/value head. */
template <int kDim, Sums kSums, int kGroups>
__device__ inline void by_key(const Tensors &x, const Shape &shape, int64_t sequence, int kv_head, int tile,
                              bf16 *shared) {
  using C = Cut<kDim, kGroups>;
  using Block = Panels<kRows, kDim>;
  constexpr int kQueries = kTile<kDim>;
  using Tile = Panels<kQueries, kDim>;
  constexpr bool kOfKeys = kSums != Sums::kValues, kOfValues = kSums != Sums::kKeys;
  const int group = kGroups == 1 ? 0 : __shfl_sync(kAllLanes, static_cast<int>(threadIdx.x) / kWarpgroup, 0);
  const Block keys{shared}, values{shared + Block::kElements};
  bf16 *const tiles_of_group = shared + 2 * Block::kElements + group * C::kGroupElements;
  float *const statistics = reinterpret_cast<float *>(shared + C::kElements) + group * kStages * C::kStatistics;
  auto queries_of = [&](int stage) { return Tile{tiles_of_group + 2 * stage * C::kTileElements}; };
  auto gradients_of = [&](int stage) { return Tile{tiles_of_group + (2 * stage + 1) * C::kTileElements}; };

  const int thread = static_cast<int>(threadIdx.x) % kWarpgroup, lane = thread % 32, row = thread / 32 * 16;
  const int cols = static_cast<int>(shape.head_dim);
  const int j = tile * kRows, rows = shape.seq_len - j;
  const int end = shape.end_query((rows < kRows ? shape.seq_len : j + kRows) - 1);
  const int tiles = (end - j + kQueries - 1) / kQueries, steps = tiles * shape.group();
  const Scores scores(shape);

  /* Step n works on the tile n % tiles of queries of the group's head n / tiles. */
  auto query_of = [&](int step) { return j + step % tiles * kQueries; };
  auto fetch = [&](int step, int stage) {
    if (step < steps) {
      const int head = kv_head * shape.group() + step / tiles, i = query_of(step), count = shape.seq_len - i;
      queries_of(stage).template fetch<kWarpgroup>(x.q + shape.query_at(sequence, head, i), shape.ld_q, count, cols,
                                                   thread);
      gradients_of(stage).template fetch<kWarpgroup>(x.d_out + shape.d_out_at(sequence, head, i), shape.ld_d_out(),
                                                     count, cols, thread);
      if (thread < kQueries) {
        const int64_t at = shape.statistic_at(sequence, head, i + thread);
        float *const of_stage = statistics + stage * C::kStatistics;
        of_stage[thread] = thread < count ? x.lse[at] * kLog2E : 0.0f;
        of_stage[kQueries + thread] = thread < count ? x.delta[at] : 0.0f;
      }
    }
    cp_async_commit();
  };

  const int64_t at = shape.key_at(sequence, kv_head, j);
  keys.template fetch<C::kThreads>(x.k + at, shape.ld_kv, rows, cols, static_cast<int>(threadIdx.x));
  if constexpr (kOfKeys) {
    values.template fetch<C::kThreads>(x.v + at, shape.ld_kv, rows, cols, static_cast<int>(threadIdx.x));
  }
  fetch(group, 0);
  if constexpr (kGroups > 1) {
    cp_async_wait<0>();
    shared_is_written();
    __syncthreads(); /* both groups' halves of keys and values are there */
  }
  float d_key[kOfKeys ? kDim / 8 : 1][4] = {}, d_value[kOfValues ? kDim / 8 : 1][4] = {};
  int stage = 0;
  for (int step = group; step < steps; step += kGroups) {
    group_barrier(group); /* nobody reads the tiles of the step before any more */
    fetch(step + kGroups, stage ^ 1);
    cp_async_wait<1>();
    shared_is_written();
    group_barrier(group); /* this step's tiles are there */
    const Tile queries = queries_of(stage), gradients = gradients_of(stage);
    const float *lse_log2 = statistics + stage * C::kStatistics, *deltas = lse_log2 + kQueries;

    float p[kQueries / 8][4] = {}, dp[kQueries / 8][4] = {};
    products_begin();
    multiply_rows(p, keys, queries);
    if constexpr (kOfKeys) multiply_rows(dp, values, gradients);
    products_end();
    products_wait<0>();
    hold(p);
    if constexpr (kOfKeys) hold(dp);
    if (scores.cap > 0) {
      weigh<true, kOfKeys>(p, dp, scores, lse_log2, deltas, lane);
    } else {
      weigh<false, kOfKeys>(p, dp, scores, lse_log2, deltas, lane);
    }
    const int i = query_of(step);
    if (!shape.sees_all(i, kQueries, j, kRows)) {
#pragma unroll
      for (int n = 0; n < kQueries / 8; n++) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
          const int query = i + 8 * n + 2 * (lane % 4) + e % 2, key = j + row + lane / 4 + 8 * (e / 2);
          if (!shape.sees(query, key)) p[n][e] = dp[n][e] = 0;
        }
      }
    }
    const Weights<kQueries> of_values(p), of_keys(dp);
    if constexpr (kOfKeys) hold(d_key);
    if constexpr (kOfValues) hold(d_value);
    products_begin();
    if constexpr (kOfValues) add_weighted(d_value, of_values, gradients);
    if constexpr (kOfKeys) add_weighted(d_key, of_keys, queries);
    products_end();
    products_wait<0>();
    if constexpr (kOfKeys) hold(d_key);
    if constexpr (kOfValues) hold(d_value);
    stage ^= 1;
  }

  bf16 *const tiles_of_block = shared + 2 * Block::kElements;
  if constexpr (kGroups > 1) {
    if constexpr (kOfKeys) join(d_key, group, thread, tiles_of_block);
    if constexpr (kOfValues) join(d_value, group, thread, tiles_of_block);
    if (group > 0) return;
  }
  group_barrier(0); /* nobody reads keys and values any more */
  if constexpr (kOfKeys) store(d_key, shape.scale, keys, x.d_k + at, shape.ld_kv, rows, cols, thread);
  if constexpr (kOfValues) store(d_value, 1, values, x.d_v + at, shape.ld_kv, rows, cols, thread);
}

/* ---- d_q ---- */

/* Works on the `tile`-th 64 queries of a sequence's head. */
template <int kDim, int kGroups>
__device__ inline void by_query(const Tensors &x, const Shape &shape, int64_t sequence, int head, int tile_of_queries,
                                bf16 *shared) {
  using C = Cut<kDim, kGroups>;
  using Block = Panels<kRows, kDim>;
  constexpr int kKeys = kTile<kDim>;
  using Tile = Panels<kKeys, kDim>;
  const int group = kGroups == 1 ? 0 : __shfl_sync(kAllLanes, static_cast<int>(threadIdx.x) / kWarpgroup, 0);
  const Block queries{shared}, gradients{shared + Block::kElements};
  bf16 *const tiles_of_group = shared + 2 * Block::kElements + group * C::kGroupElements;
  auto keys_of = [&](int stage) { return Tile{tiles_of_group + 2 * stage * C::kTileElements}; };
  auto values_of = [&](int stage) { return Tile{tiles_of_group + (2 * stage + 1) * C::kTileElements}; };
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroup, lane = thread % 32, row = thread / 32 * 16;
  const int cols = static_cast<int>(shape.head_dim);
  const int kv_head = head / shape.group(), i = tile_of_queries * kRows, rows = shape.seq_len - i;
  const int end = rows < kRows ? shape.seq_len : i + kRows;
  const int first = shape.first_key(i) / kKeys * kKeys, tiles = (end - first + kKeys - 1) / kKeys;
  const bf16 *const k = x.k + shape.key_at(sequence, kv_head, first);
  const bf16 *const v = x.v + shape.key_at(sequence, kv_head, first);
  const Scores scores(shape);

  auto fetch = [&](int tile, int stage) {
    if (tile < tiles) {
      const int64_t at = tile * kKeys * shape.ld_kv;
      const int count = shape.seq_len - first - tile * kKeys;
      keys_of(stage).template fetch<kWarpgroup>(k + at, shape.ld_kv, count, cols, thread);
      values_of(stage).template fetch<kWarpgroup>(v + at, shape.ld_kv, count, cols, thread);
    }
    cp_async_commit();
  };
  queries.template fetch<C::kThreads>(x.q + shape.query_at(sequence, head, i), shape.ld_q, rows, cols,
                                      static_cast<int>(threadIdx.x));
  gradients.template fetch<C::kThreads>(x.d_out + shape.d_out_at(sequence, head, i), shape.ld_d_out(), rows, cols,
                                        static_cast<int>(threadIdx.x));
  fetch(group, 0);
  if constexpr (kGroups > 1) {
    cp_async_wait<0>();
    shared_is_written();
    __syncthreads(); /* both groups' halves of queries and gradients are there */
  }

  float lse_log2[2], deltas[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int query = i + row + 8 * half + lane / 4;
    const int64_t index = shape.statistic_at(sequence, head, query);
    lse_log2[half] = query < shape.seq_len ? x.lse[index] * kLog2E : 0.0f;
    deltas[half] = query < shape.seq_len ? x.delta[index] : 0.0f;
  }
  float sum[kDim / 8][4] = {};
  int stage = 0;
  for (int tile = group; tile < tiles; tile += kGroups) {
    group_barrier(group); /* nobody reads the tile before this any more */
    fetch(tile + kGroups, stage ^ 1);
    cp_async_wait<1>();
    shared_is_written();
    group_barrier(group); /* this one is there */
    const Tile keys = keys_of(stage), values = values_of(stage);
    float dp[kKeys / 8][4] = {}, p[kKeys / 8][4] = {};
    products_begin();
    multiply_rows(p, queries, keys);
    multiply_rows(dp, gradients, values);
    products_end();
    products_wait<0>();
    hold(p);
    hold(dp);

    auto weigh = [&](auto capped) {
#pragma unroll
      for (int n = 0; n < kKeys / 8; n++) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
          float slope;
          const float weight = scores.template probability<decltype(capped)::value>(p[n][e], lse_log2[e / 2], slope);
          p[n][e] = weight * (dp[n][e] - deltas[e / 2]) * slope;
        }
      }
    };
    if (scores.cap > 0) {
      weigh(std::true_type{});
    } else {
      weigh(std::false_type{});
    }
    const int j = first + tile * kKeys;
    if (!shape.sees_all(i, kRows, j, kKeys)) {
#pragma unroll
      for (int n = 0; n < kKeys / 8; n++) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
          const int query = i + row + lane / 4 + 8 * (e / 2), key = j + 8 * n + 2 * (lane % 4) + e % 2;
          if (!shape.sees(query, key)) p[n][e] = 0;
        }
      }
    }
    const Weights<kKeys> weights(p);
    hold(sum);
    products_begin();
    add_weighted(sum, weights, keys);
    products_end();
    products_wait<0>();
    hold(sum);
    stage ^= 1;
  }

  if constexpr (kGroups > 1) {
    join(sum, group, thread, shared + 2 * Block::kElements);
    if (group > 0) return;
  }
  group_barrier(0); /* nobody reads queries any more */
  store(sum, shape.scale, queries, x.d_q + shape.query_at(sequence, head, i), shape.ld_q, rows, cols, thread);
}

/* ---- the launch ---- */

/* How many blocks a tile of keys has: one for d_k and d_v together, or one for each. */
template <int kDim>
constexpr int kBlocksOfKeys = kDim <= 128 ? 1 : 2;

/* The grid has first all blocks of keys, then all blocks of queries. Those of a tile are next to each other. */
template <int kDim, int kGroups>
__global__ void __launch_bounds__(kWarpgroup *kGroups) backward(Tensors x, Shape shape, int tiles) {
  ESP_DYNAMIC_PANELS(shared);
  const int kv_heads = static_cast<int>(shape.batch) * shape.n_kv_heads;
  const int heads = static_cast<int>(shape.batch) * shape.n_heads;
  const int of_keys = tiles * kBlocksOfKeys<kDim> * kv_heads;
  if (const int block = static_cast<int>(blockIdx.x) - of_keys; block >= 0) {
    const int tile = tiles - 1 - block / heads, head = block % heads;
    by_query<kDim, kGroups>(x, shape, head / shape.n_heads, head % shape.n_heads, tile, shared);
    return;
  }
  const int of_tile = static_cast<int>(blockIdx.x) / kv_heads, tile = of_tile / kBlocksOfKeys<kDim>;
  const int head = static_cast<int>(blockIdx.x) % kv_heads, kv_head = head % shape.n_kv_heads;
  const int64_t sequence = head / shape.n_kv_heads;
  if constexpr (kDim <= 128) {
    by_key<kDim, Sums::kBoth, kGroups>(x, shape, sequence, kv_head, tile, shared);
  } else if (of_tile % kBlocksOfKeys<kDim> == 0) {
    by_key<kDim, Sums::kKeys, kGroups>(x, shape, sequence, kv_head, tile, shared);
  } else {
    by_key<kDim, Sums::kValues, kGroups>(x, shape, sequence, kv_head, tile, shared);
  }
}

template <int kDim, int kGroups>
int32_t run(const Shape &s, const Tensors &x, int64_t tiles) {
  using C = Cut<kDim, kGroups>;
  const int64_t blocks = tiles * s.batch * (kBlocksOfKeys<kDim> * s.n_kv_heads + s.n_heads);
  ESP_REQUIRE(blocks <= INT32_MAX, "too large: batch=%ld seq_len=%d n_heads=%d", s.batch, s.seq_len, s.n_heads);
  return ESP_LAUNCH_SHARED((backward<kDim, kGroups>), blocks, C::kThreads, C::kSharedBytes, x, s,
                           static_cast<int>(tiles));
}

/* Shared memory has room for one block of 256 columns, or for two of 128. A block has two groups where a multiprocessor
 * would otherwise have fewer warpgroups. */
template <int kDim>
int32_t run(const Shape &s, const Tensors &x) {
  const int64_t tiles = (s.seq_len + kRows - 1) / kRows;
  if constexpr (kDim > 128) {
    return run<kDim, 2>(s, x, tiles);
  } else {
    return tiles * s.batch * s.n_kv_heads <= hardware().multiprocessors ? run<kDim, 2>(s, x, tiles)
                                                                        : run<kDim, 1>(s, x, tiles);
  }
}

}  // namespace

int32_t backward_by_warpgroups(const Shape &s, const Tensors &x) {
  if (s.head_dim <= 64) return run<64>(s, x);
  if (s.head_dim <= 128) return run<128>(s, x);
  return run<256>(s, x);
}

}  // namespace esp::attention
