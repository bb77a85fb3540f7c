/*
 * Attention backward on tensor cores, bfloat16. The algorithm is that of Dao 2023, but the two parallel sums, over
 * queries and over keys, are two kernels. So each gradient belongs to one block, which adds in one order, without
 * atomics.
 *
 *   p = exp(s - lse);  dp = d_out.v;  ds = p (dp - delta) s'(scale q.k);  delta = d_out.out
 *   d_v = sum_i p d_out_i;  d_k = scale sum_i ds q_i;  d_q = scale sum_j ds k_j
 *
 * by_key computes d_k and d_v. A block takes kKeys keys of a key/value head and goes through the queries that see any
 * of them, one head of the group after the other. It computes transposed scores, [keys, queries]. For these its warps
 * form a grid of kScoreRows rows, which divide the keys, and of columns, which divide the queries. For the sums they
 * form another grid, of kSumRows rows, whose columns divide the columns of the head. Therefore p and ds go through
 * shared memory, in bfloat16.
 *
 * by_query computes d_q. A block takes 64 or 128 queries of a head and goes through the keys. A warp owns 16 kRowTiles
 * queries, and ds stays in its registers, as p does in the forward pass.
 *
 * Both compute dp first. Then the tile that only dp needs (d_out, or v) is free, and the next one is copied while the
 * rest is computed. The other tile (q, or k) is copied while the next dp is computed. So one buffer for each is enough.
 *
 * FLOPs: 14 head_dim for each pair of a query and a key that it sees. That is 7 products, two of which (s and dp) are
 * computed in both kernels. Bytes: by_key reads q and d_out once for each tile of keys, by_query k and v once for each
 * tile of queries, from L2.
 */
#include "attention.cuh"
#include "tile.cuh"

namespace esp::attention {
namespace {

/* ---- d_k and d_v ---- */

/* kScoreRows, kSumRows: the rows of the grid of warps, for scores and for sums. */
template <int kDim, int kKeys, int kQueries, int kWarps, int kScoreRows, int kSumRows>
struct KeyCut {
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kScoreTiles = kKeys / kScoreRows / 16, kScoreCols = kQueries / (kWarps / kScoreRows);
  static constexpr int kSumTiles = kKeys / kSumRows / 16, kSumCols = kDim / (kWarps / kSumRows);
  static constexpr int kSharedBytes =
      2 * (2 * kKeys * kDim + 2 * kQueries * kDim + 2 * kKeys * kQueries) + 8 * kQueries;
  static_assert(kScoreTiles > 0 && kScoreCols % 16 == 0 && kSumTiles > 0 && kSumCols % 16 == 0, "whole tiles of mma");
};

/* c[t][n] += products of rows of a with rows of b, over kDim columns. Tile (t, n) begins at row row_a + 16 t of a and
 * row row_b + 8 n of b. */
template <int kDim, int kRowTiles, int kCols>
__device__ inline void products_of_rows(float (&c)[kRowTiles][kCols / 8][4], const Tile<kDim> &a, int row_a,
                                        const Tile<kDim> &b, int row_b) {
  /* Two steps are unrolled together, which hides the latency of ldmatrix. With 128 columns one step already takes all
   * registers. */
  [[maybe_unused]] constexpr int kAhead = kDim == 128 ? 1 : 2;
#pragma unroll kAhead
  for (int column = 0; column < kDim; column += 16) {
    uint32_t left[kRowTiles][4];
#pragma unroll
    for (int t = 0; t < kRowTiles; t++) a.load_a(left[t], row_a + 16 * t, column);
#pragma unroll
    for (int n = 0; n < kCols / 16; n++) {
      uint32_t right[2][2];
      b.load_b_of_rows(right, row_b + 16 * n, column);
#pragma unroll
      for (int t = 0; t < kRowTiles; t++) {
        mma_m16n8k16(c[t][2 * n], left[t], right[0]);
        mma_m16n8k16(c[t][2 * n + 1], left[t], right[1]);
      }
    }
  }
}

/* sum[t][n] += a b, for the rows of a from row_a + 16 t and the columns of b from column_b + 8 n. */
template <int kInner, int kDim, int kRowTiles, int kCols>
__device__ inline void add_product(float (&sum)[kRowTiles][kCols / 8][4], const Tile<kInner> &a, int row_a,
                                   const Tile<kDim> &b, int column_b) {
#pragma unroll 1
  for (int inner = 0; inner < kInner; inner += 16) {
    uint32_t left[kRowTiles][4];
#pragma unroll
    for (int t = 0; t < kRowTiles; t++) a.load_a(left[t], row_a + 16 * t, inner);
#pragma unroll
    for (int n = 0; n < kCols / 16; n++) {
      uint32_t right[2][2];
      b.load_b_of_columns(right, inner, column_b + 16 * n);
#pragma unroll
      for (int t = 0; t < kRowTiles; t++) {
        mma_m16n8k16(sum[t][2 * n], left[t], right[0]);
        mma_m16n8k16(sum[t][2 * n + 1], left[t], right[1]);
      }
    }
  }
}

template <int kDim, int kKeys, int kQueries, int kWarps, int kScoreRows, int kSumRows>
__global__ void __launch_bounds__(32 * kWarps)
    by_key(const bf16 *q, const bf16 *k, const bf16 *v, const float *lse, const bf16 *d_out, const float *delta,
           bf16 *d_k, bf16 *d_v, Shape shape) {
  using C = KeyCut<kDim, kKeys, kQueries, kWarps, kScoreRows, kSumRows>;
  constexpr int kThreads = C::kThreads;
  ESP_DYNAMIC_SHARED(bf16, shared);
  const Tile<kDim> keys{shared}, values{keys.data + kKeys * kDim}, queries{values.data + kKeys * kDim},
      gradients{queries.data + kQueries * kDim};
  const Tile<kQueries> p_tile{gradients.data + kQueries * kDim}, ds_tile{p_tile.data + kKeys * kQueries};
  float *lse_log2 = reinterpret_cast<float *>(ds_tile.data + kKeys * kQueries), *deltas = lse_log2 + kQueries;

  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int score_row = warp % kScoreRows * 16 * C::kScoreTiles, score_column = warp / kScoreRows * C::kScoreCols;
  const int sum_row = warp % kSumRows * 16 * C::kSumTiles, sum_column = warp / kSumRows * C::kSumCols;
  const int cols = static_cast<int>(shape.head_dim);
  const int block = static_cast<int>(blockIdx.x), kv_head = block % shape.n_kv_heads;
  const int64_t sequence = block / shape.n_kv_heads;
  const int j = static_cast<int>(blockIdx.y) * kKeys, rows = shape.seq_len - j;
  const int first = j / kQueries * kQueries, end = shape.end_query((rows < kKeys ? shape.seq_len : j + kKeys) - 1);
  const int tiles = (end - first + kQueries - 1) / kQueries, steps = tiles * shape.group();
  const Scores scores(shape);

  /* Step n works on the tile n % tiles of queries of the group's head n / tiles. */
  auto head_of = [&](int step) { return kv_head * shape.group() + step / tiles; };
  auto query_of = [&](int step) { return first + step % tiles * kQueries; };
  auto fetch_gradients = [&](int step) {
    const int i = query_of(step);
    if (step < steps) {
      gradients.template fetch<kQueries, kThreads>(d_out + shape.d_out_at(sequence, head_of(step), i), shape.ld_d_out(),
                                                   shape.seq_len - i, cols, thread);
    }
    cp_async_commit();
  };
  auto fetch_queries = [&](int step) {
    const int i = query_of(step);
    if (step < steps) {
      queries.template fetch<kQueries, kThreads>(q + shape.query_at(sequence, head_of(step), i), shape.ld_q,
                                                 shape.seq_len - i, cols, thread);
    }
    cp_async_commit();
  };

  const int64_t at = shape.key_at(sequence, kv_head, j);
  keys.template fetch<kKeys, kThreads>(k + at, shape.ld_kv, rows, cols, thread);
  values.template fetch<kKeys, kThreads>(v + at, shape.ld_kv, rows, cols, thread);
  fetch_gradients(0);
  fetch_queries(0);
  float d_key[C::kSumTiles][C::kSumCols / 8][4] = {}, d_value[C::kSumTiles][C::kSumCols / 8][4] = {};
  for (int step = 0; step < steps; step++) {
    const int i = query_of(step);
    for (int r = thread; r < kQueries; r += kThreads) {
      const int64_t at_row = shape.statistic_at(sequence, head_of(step), i + r);
      lse_log2[r] = i + r < shape.seq_len ? lse[at_row] * kLog2E : 0.0f;
      deltas[r] = i + r < shape.seq_len ? delta[at_row] : 0.0f;
    }
    cp_async_wait<1>();
    __syncthreads(); /* gradients are there, and lse and delta */
    float dp[C::kScoreTiles][C::kScoreCols / 8][4] = {}, p[C::kScoreTiles][C::kScoreCols / 8][4] = {};
    products_of_rows<kDim, C::kScoreTiles, C::kScoreCols>(dp, values, score_row, gradients, score_column);
    cp_async_wait<0>();
    __syncthreads(); /* queries are there */
    products_of_rows<kDim, C::kScoreTiles, C::kScoreCols>(p, keys, score_row, queries, score_column);

    const bool masked = !shape.sees_all(i, kQueries, j, kKeys);
#pragma unroll
    for (int t = 0; t < C::kScoreTiles; t++) {
#pragma unroll
      for (int n = 0; n < C::kScoreCols / 8; n++) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
          const int row = score_row + 16 * t + lane / 4 + 8 * (e / 2),
                    column = score_column + 8 * n + 2 * (lane % 4) + e % 2;
          float slope;
          p[t][n][e] = scores.probability(p[t][n][e], lse_log2[column], slope);
          if (masked && !shape.sees(i + column, j + row)) p[t][n][e] = 0;
          dp[t][n][e] = p[t][n][e] * (dp[t][n][e] - deltas[column]) * slope;
        }
        p_tile.store_c(p[t][n], score_row + 16 * t, score_column + 8 * n);
        ds_tile.store_c(dp[t][n], score_row + 16 * t, score_column + 8 * n);
      }
    }
    __syncthreads(); /* p and ds are there */
    add_product<kQueries, kDim, C::kSumTiles, C::kSumCols>(d_value, p_tile, sum_row, gradients, sum_column);
    __syncthreads(); /* nobody reads these gradients any more */
    fetch_gradients(step + 1);
    add_product<kQueries, kDim, C::kSumTiles, C::kSumCols>(d_key, ds_tile, sum_row, queries, sum_column);
    __syncthreads(); /* nor these queries, p and ds */
    fetch_queries(step + 1);
  }

#pragma unroll
  for (int t = 0; t < C::kSumTiles; t++) {
#pragma unroll
    for (int n = 0; n < C::kSumCols / 8; n++) {
#pragma unroll
      for (int e = 0; e < 4; e++) d_key[t][n][e] *= shape.scale;
      keys.store_c(d_key[t][n], sum_row + 16 * t, sum_column + 8 * n);
      values.store_c(d_value[t][n], sum_row + 16 * t, sum_column + 8 * n);
    }
  }
  __syncthreads();
  keys.template store<kKeys, kThreads>(0, d_k + at, shape.ld_kv, rows, cols, thread);
  values.template store<kKeys, kThreads>(0, d_v + at, shape.ld_kv, rows, cols, thread);
}

/* ---- d_q ---- */

template <int kDim, int kRowTiles, int kWarps, int kKeys>
struct QueryCut {
  static constexpr int kThreads = 32 * kWarps, kQueries = 16 * kRowTiles * kWarps;
  static constexpr int kSharedBytes = 2 * (2 * kQueries + 2 * kKeys) * kDim;
};

template <int kDim, int kRowTiles, int kWarps, int kKeys>
__global__ void __launch_bounds__(32 * kWarps) by_query(const bf16 *q, const bf16 *k, const bf16 *v, const float *lse,
                                                        const bf16 *d_out, const float *delta, bf16 *d_q, Shape shape) {
  using C = QueryCut<kDim, kRowTiles, kWarps, kKeys>;
  constexpr int kThreads = C::kThreads;
  ESP_DYNAMIC_SHARED(bf16, shared);
  const Tile<kDim> queries{shared}, gradients{queries.data + C::kQueries * kDim},
      keys{gradients.data + C::kQueries * kDim}, values{keys.data + kKeys * kDim};
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, row = thread / 32 * 16 * kRowTiles;
  const int cols = static_cast<int>(shape.head_dim);
  const int block = static_cast<int>(blockIdx.x), head = block % shape.n_heads, kv_head = head / shape.group();
  const int64_t sequence = block / shape.n_heads;
  const int i = static_cast<int>(gridDim.y - 1 - blockIdx.y) * C::kQueries, rows = shape.seq_len - i;
  const int end = rows < C::kQueries ? shape.seq_len : i + C::kQueries;
  k += shape.key_at(sequence, kv_head, 0);
  v += shape.key_at(sequence, kv_head, 0);
  const Scores scores(shape);

  auto fetch = [&](const Tile<kDim> &tile, const bf16 *source, int j) {
    if (j < end) {
      tile.template fetch<kKeys, kThreads>(source + j * shape.ld_kv, shape.ld_kv, shape.seq_len - j, cols, thread);
    }
    cp_async_commit();
  };
  int j = shape.first_key(i) / kKeys * kKeys;
  queries.template fetch<C::kQueries, kThreads>(q + shape.query_at(sequence, head, i), shape.ld_q, rows, cols, thread);
  gradients.template fetch<C::kQueries, kThreads>(d_out + shape.d_out_at(sequence, head, i), shape.ld_d_out(), rows,
                                                  cols, thread);
  fetch(values, v, j);
  fetch(keys, k, j);

  float lse_log2[kRowTiles][2], deltas[kRowTiles][2];
#pragma unroll
  for (int t = 0; t < kRowTiles; t++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int query = i + row + 16 * t + 8 * half + lane / 4;
      const int64_t index = shape.statistic_at(sequence, head, query);
      lse_log2[t][half] = query < shape.seq_len ? lse[index] * kLog2E : 0.0f;
      deltas[t][half] = query < shape.seq_len ? delta[index] : 0.0f;
    }
  }
  float sum[kRowTiles][kDim / 8][4] = {};
  for (; j < end; j += kKeys) {
    cp_async_wait<1>();
    __syncthreads(); /* values are there */
    float dp[kRowTiles][kKeys / 8][4] = {}, p[kRowTiles][kKeys / 8][4] = {};
    products_of_rows<kDim, kRowTiles, kKeys>(dp, gradients, row, values, 0);
    cp_async_wait<0>();
    __syncthreads(); /* keys are there, and nobody reads these values any more */
    fetch(values, v, j + kKeys);
    products_of_rows<kDim, kRowTiles, kKeys>(p, queries, row, keys, 0);

    const bool masked = !shape.sees_all(i, C::kQueries, j, kKeys);
#pragma unroll
    for (int t = 0; t < kRowTiles; t++) {
#pragma unroll
      for (int n = 0; n < kKeys / 8; n++) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
          float slope;
          float weight = scores.probability(p[t][n][e], lse_log2[t][e / 2], slope);
          if (masked && !shape.sees(i + row + 16 * t + lane / 4 + 8 * (e / 2), j + 8 * n + 2 * (lane % 4) + e % 2)) {
            weight = 0;
          }
          dp[t][n][e] = weight * (dp[t][n][e] - deltas[t][e / 2]) * slope;
        }
      }
    }
#pragma unroll
    for (int n = 0; n < kKeys / 16; n++) {
      uint32_t a[kRowTiles][4];
#pragma unroll
      for (int t = 0; t < kRowTiles; t++) pack_a(a[t], dp[t][2 * n], dp[t][2 * n + 1]);
#pragma unroll
      for (int c = 0; c < kDim; c += 16) {
        uint32_t b[2][2];
        keys.load_b_of_columns(b, 16 * n, c);
#pragma unroll
        for (int t = 0; t < kRowTiles; t++) {
          mma_m16n8k16(sum[t][c / 8], a[t], b[0]);
          mma_m16n8k16(sum[t][c / 8 + 1], a[t], b[1]);
        }
      }
    }
    __syncthreads(); /* nobody reads these keys any more */
    fetch(keys, k, j + kKeys);
  }

#pragma unroll
  for (int t = 0; t < kRowTiles; t++) {
#pragma unroll
    for (int n = 0; n < kDim / 8; n++) {
#pragma unroll
      for (int e = 0; e < 4; e++) sum[t][n][e] *= shape.scale;
      queries.store_c(sum[t][n], row + 16 * t, 8 * n);
    }
  }
  __syncwarp();
  queries.template store<16 * kRowTiles, 32>(row, d_q + shape.query_at(sequence, head, i + row), shape.ld_q, rows - row,
                                             cols, lane);
}

/* ---- launches ---- */

dim3 grid(const Shape &s, int64_t heads, int tile) {
  return dim3(static_cast<unsigned>(s.batch * heads), static_cast<unsigned>((s.seq_len + tile - 1) / tile));
}

template <int kDim, int kKeys, int kQueries, int kWarps, int kScoreRows, int kSumRows>
int32_t run_by_key(const Shape &s, const Tensors &x) {
  using C = KeyCut<kDim, kKeys, kQueries, kWarps, kScoreRows, kSumRows>;
  return ESP_LAUNCH_SHARED((by_key<kDim, kKeys, kQueries, kWarps, kScoreRows, kSumRows>), grid(s, s.n_kv_heads, kKeys),
                           C::kThreads, C::kSharedBytes, x.q, x.k, x.v, x.lse, x.d_out, x.delta, x.d_k, x.d_v, s);
}

template <int kDim, int kRowTiles, int kWarps, int kKeys>
int32_t run_by_query(const Shape &s, const Tensors &x) {
  using C = QueryCut<kDim, kRowTiles, kWarps, kKeys>;
  return ESP_LAUNCH_SHARED((by_query<kDim, kRowTiles, kWarps, kKeys>), grid(s, s.n_heads, C::kQueries), C::kThreads,
                           C::kSharedBytes, x.q, x.k, x.v, x.lse, x.d_out, x.delta, x.d_q, s);
}

/* For heads of more than 128 columns. Tiles have 64 keys and 64 queries if they fit into shared memory (144 KB with 256
 * columns) and there are enough blocks for all multiprocessors. Otherwise they have 32 and 32 (68 KB), of which three
 * blocks share a multiprocessor on sm_90. */
template <int kDim>
int32_t run_by_key_of_wide_heads(const Shape &s, const Tensors &x) {
  const Hardware gpu = hardware();
  const int64_t blocks = s.batch * s.n_kv_heads * ((s.seq_len + 63) / 64);
  if (gpu.shared_bytes >= KeyCut<kDim, 64, 64, 8, 2, 2>::kSharedBytes && blocks >= gpu.multiprocessors) {
    return run_by_key<kDim, 64, 64, 8, 2, 2>(s, x);
  }
  return run_by_key<kDim, 32, 32, 4, 2, 1>(s, x);
}

template <int32_t (*by_key_of)(const Shape &, const Tensors &), int32_t (*by_query_of)(const Shape &, const Tensors &)>
int32_t run(const Shape &s, const Tensors &x) {
  const int32_t status = by_key_of(s, x);
  return status == ESP_OK ? by_query_of(s, x) : status;
}

}  // namespace

int32_t backward_by_tensor_cores(const Shape &s, const Tensors &x) {
  if (s.head_dim <= 64) return run<run_by_key<64, 64, 64, 4, 2, 2>, run_by_query<64, 1, 4, 64>>(s, x);
  if (s.head_dim <= 96) return run<run_by_key<96, 64, 64, 4, 2, 2>, run_by_query<96, 1, 4, 64>>(s, x);
  if (s.head_dim <= 128) return run<run_by_key<128, 64, 64, 4, 2, 2>, run_by_query<128, 1, 4, 64>>(s, x);
  if (s.head_dim <= 192) return run<run_by_key_of_wide_heads<192>, run_by_query<192, 1, 4, 32>>(s, x);
  return run<run_by_key_of_wide_heads<256>, run_by_query<256, 1, 4, 32>>(s, x);
}

}  // namespace esp::attention
