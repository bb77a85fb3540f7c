/*
 * Attention backward on Hopper's tensor cores, bfloat16, in two kernels without atomics: the sums of
 * attention_backward.cu, whose products wgmma makes from shared memory (warpgroup.cuh).
 *
 *   p = exp(s - lse);  dp = d_out.v;  ds = p (dp - delta) s'(scale q.k);  delta = d_out.out
 *   d_v = sum_i p d_out_i;  d_k = scale sum_i ds q_i;  d_q = scale sum_j ds k_j
 *
 * by_key: a block is two warpgroups with 64 keys of a key/value head, and goes through the queries that see any of
 * them, one head of the group after the other. Both compute transposed scores [keys, queries]; one then needs p for
 * d_v, the other dp, too, and ds for d_k: each has one result in registers and the left operand of its sum where the
 * scores' accumulators are. Scores are computed twice, but nothing is exchanged through shared memory. The next queries
 * and gradients come while these are worked on. by_query: a block is a warpgroup with 64 queries of a head, and goes
 * through the keys. dp comes first: the values are free after it and the next ones come while the rest is computed.
 *
 * FLOPs: 16 head_dim a pair of a query and a key it sees: 8 products, s in all three warpgroups and dp in two. Bytes:
 * by_key reads q and d_out once a tile of keys, by_query k and v once a tile of queries, from L2.
 */
#include "attention_warpgroup.cuh"

namespace esp::attention {
namespace {

constexpr int kRows = 64; /* of a warpgroup: keys, or queries */

/* ---- d_k and d_v ---- */

constexpr int kByKeyThreads = 2 * kWarpgroup, kStages = 2;

template <int kDim>
constexpr int kByKeyBytes = 2 * kRows *kDim *(2 + 2 * kStages) + 8 * kRows *kStages;

template <int kDim>
__global__ void __launch_bounds__(kByKeyThreads)
    by_key(const bf16 *q, const bf16 *k, const bf16 *v, const float *lse, const bf16 *d_out, const float *delta,
           bf16 *d_k, bf16 *d_v, Shape shape) {
  using Matrix = Panels<kRows, kDim>;
  constexpr int kElements = Matrix::kElements;
  ESP_DYNAMIC_PANELS(shared);
  const Matrix keys{shared}, values{shared + kElements};
  auto queries_of = [&](int step) { return Matrix{shared + (2 + 2 * (step % kStages)) * kElements}; };
  auto gradients_of = [&](int step) { return Matrix{shared + (3 + 2 * (step % kStages)) * kElements}; };
  float *statistics = reinterpret_cast<float *>(shared + (2 + 2 * kStages) * kElements);
  auto lse_log2_of = [&](int step) { return statistics + step % kStages * 2 * kRows; };
  auto deltas_of = [&](int step) { return lse_log2_of(step) + kRows; };

  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, row = thread / 32 % 4 * 16;
  const bool of_keys = __shfl_sync(kAllLanes, thread / kWarpgroup, 0) != 0; /* else of values */
  const int cols = static_cast<int>(shape.head_dim);
  const int block = static_cast<int>(blockIdx.x), kv_head = block % shape.n_kv_heads;
  const int64_t sequence = block / shape.n_kv_heads;
  const int j = static_cast<int>(blockIdx.y) * kRows, rows = shape.seq_len - j;
  const int end = shape.end_query((rows < kRows ? shape.seq_len : j + kRows) - 1);
  const int tiles = (end - j + kRows - 1) / kRows, steps = tiles * shape.group();
  const Scores scores(shape);

  /* Step n: the tile of queries n % tiles of the group's head n / tiles. */
  auto query_of = [&](int step) { return j + step % tiles * kRows; };
  auto fetch = [&](int step) {
    if (step < steps) {
      const int head = kv_head * shape.group() + step / tiles, i = query_of(step), count = shape.seq_len - i;
      queries_of(step).template fetch<kByKeyThreads>(q + shape.query_at(sequence, head, i), shape.ld_q, count, cols,
                                                     thread);
      gradients_of(step).template fetch<kByKeyThreads>(d_out + shape.d_out_at(sequence, head, i), shape.ld_d_out(),
                                                       count, cols, thread);
      if (thread < kRows) {
        const int64_t at = shape.statistic_at(sequence, head, i + thread);
        lse_log2_of(step)[thread] = thread < count ? lse[at] * kLog2E : 0.0f;
        deltas_of(step)[thread] = thread < count ? delta[at] : 0.0f;
      }
    }
    cp_async_commit();
  };

  const int64_t at = shape.key_at(sequence, kv_head, j);
  keys.template fetch<kByKeyThreads>(k + at, shape.ld_kv, rows, cols, thread);
  values.template fetch<kByKeyThreads>(v + at, shape.ld_kv, rows, cols, thread);
  fetch(0);
  float sum[kDim / 8][4] = {};
  for (int step = 0; step < steps; step++) {
    __syncthreads(); /* nobody reads the tiles of the step before any more */
    fetch(step + 1);
    cp_async_wait<1>();
    shared_is_written();
    __syncthreads(); /* this step's tiles are there */
    const Matrix queries = queries_of(step), gradients = gradients_of(step);
    const float *lse_log2 = lse_log2_of(step), *deltas = deltas_of(step);
    const int i = query_of(step);
    const bool masked = !shape.sees_all(i, kRows, j, kRows);

    float p[kRows / 8][4] = {};
    if (of_keys) {
      float dp[kRows / 8][4] = {};
      products_begin();
      multiply_rows(p, keys, queries);
      multiply_rows(dp, values, gradients);
      products_end();
      products_wait<0>();
      hold(p);
      hold(dp);
#pragma unroll
      for (int n = 0; n < kRows / 8; n++) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
          const int key = row + lane / 4 + 8 * (e / 2), query = 8 * n + 2 * (lane % 4) + e % 2;
          float slope, weight = scores.probability(p[n][e], lse_log2[query], slope);
          if (masked && !shape.sees(i + query, j + key)) weight = 0;
          p[n][e] = weight * (dp[n][e] - deltas[query]) * slope;
        }
      }
      const Weights<kRows> weights(p);
      hold(sum);
      products_begin();
      add_weighted(sum, weights, queries);
    } else {
      products_begin();
      multiply_rows(p, keys, queries);
      products_end();
      products_wait<0>();
      hold(p);
#pragma unroll
      for (int n = 0; n < kRows / 8; n++) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
          const int key = row + lane / 4 + 8 * (e / 2), query = 8 * n + 2 * (lane % 4) + e % 2;
          float slope;
          p[n][e] = scores.probability(p[n][e], lse_log2[query], slope);
          if (masked && !shape.sees(i + query, j + key)) p[n][e] = 0;
        }
      }
      const Weights<kRows> weights(p);
      hold(sum);
      products_begin();
      add_weighted(sum, weights, gradients);
    }
    products_end();
    products_wait<0>();
    hold(sum);
  }
  __syncthreads(); /* nobody reads keys and values any more */

  const Matrix way_out{shared + (of_keys ? 0 : kElements)};
  const float factor = of_keys ? shape.scale : 1.0f;
#pragma unroll
  for (int n = 0; n < kDim / 8; n++) {
#pragma unroll
    for (int e = 0; e < 4; e++) sum[n][e] *= factor;
    way_out.store_c(sum[n], row, 8 * n);
  }
  __syncwarp();
  bf16 *target = of_keys ? d_k : d_v;
  way_out.template store<16, 32>(row, target + at + row * shape.ld_kv, shape.ld_kv, rows - row, cols, lane);
}

/* ---- d_q ---- */

template <int kDim, int kKeys>
constexpr int kByQueryBytes = 2 * (2 * kRows + 2 * kKeys) * kDim;

template <int kDim, int kKeys>
__global__ void __launch_bounds__(kWarpgroup) by_query(const bf16 *q, const bf16 *k, const bf16 *v, const float *lse,
                                                       const bf16 *d_out, const float *delta, bf16 *d_q, Shape shape) {
  ESP_DYNAMIC_PANELS(shared);
  const Panels<kRows, kDim> queries{shared}, gradients{queries.data + queries.kElements};
  const Panels<kKeys, kDim> keys{gradients.data + gradients.kElements}, values{keys.data + keys.kElements};
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, row = thread / 32 * 16;
  const int cols = static_cast<int>(shape.head_dim);
  const int block = static_cast<int>(blockIdx.x), head = block % shape.n_heads, kv_head = head / shape.group();
  const int64_t sequence = block / shape.n_heads;
  const int i = static_cast<int>(gridDim.y - 1 - blockIdx.y) * kRows, rows = shape.seq_len - i;
  const int end = rows < kRows ? shape.seq_len : i + kRows;
  k += shape.key_at(sequence, kv_head, 0);
  v += shape.key_at(sequence, kv_head, 0);
  const Scores scores(shape);

  auto fetch = [&](const Panels<kKeys, kDim> &tile, const bf16 *source, int j) {
    if (j < end) {
      tile.template fetch<kWarpgroup>(source + j * shape.ld_kv, shape.ld_kv, shape.seq_len - j, cols, thread);
    }
    cp_async_commit();
  };
  int j = shape.first_key(i) / kKeys * kKeys;
  queries.template fetch<kWarpgroup>(q + shape.query_at(sequence, head, i), shape.ld_q, rows, cols, thread);
  gradients.template fetch<kWarpgroup>(d_out + shape.d_out_at(sequence, head, i), shape.ld_d_out(), rows, cols, thread);
  fetch(values, v, j);
  fetch(keys, k, j);

  float lse_log2[2], deltas[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int query = i + row + 8 * half + lane / 4;
    const int64_t index = shape.statistic_at(sequence, head, query);
    lse_log2[half] = query < shape.seq_len ? lse[index] * kLog2E : 0.0f;
    deltas[half] = query < shape.seq_len ? delta[index] : 0.0f;
  }
  float sum[kDim / 8][4] = {};
  for (; j < end; j += kKeys) {
    cp_async_wait<1>();
    shared_is_written();
    __syncthreads(); /* values are there */
    float dp[kKeys / 8][4] = {}, p[kKeys / 8][4] = {};
    products_begin();
    multiply_rows(dp, gradients, values);
    products_end();
    products_wait<0>();
    hold(dp);
    cp_async_wait<0>();
    shared_is_written();
    __syncthreads(); /* keys are there, and nobody reads these values any more */
    fetch(values, v, j + kKeys);
    products_begin();
    multiply_rows(p, queries, keys);
    products_end();
    products_wait<0>();
    hold(p);

    const bool masked = !shape.sees_all(i, kRows, j, kKeys);
#pragma unroll
    for (int n = 0; n < kKeys / 8; n++) {
#pragma unroll
      for (int e = 0; e < 4; e++) {
        float slope, weight = scores.probability(p[n][e], lse_log2[e / 2], slope);
        if (masked && !shape.sees(i + row + lane / 4 + 8 * (e / 2), j + 8 * n + 2 * (lane % 4) + e % 2)) weight = 0;
        p[n][e] = weight * (dp[n][e] - deltas[e / 2]) * slope;
      }
    }
    const Weights<kKeys> weights(p);
    hold(sum);
    products_begin();
    add_weighted(sum, weights, keys);
    products_end();
    products_wait<0>();
    hold(sum);
    __syncthreads(); /* nobody reads these keys any more */
    fetch(keys, k, j + kKeys);
  }

#pragma unroll
  for (int n = 0; n < kDim / 8; n++) {
#pragma unroll
    for (int e = 0; e < 4; e++) sum[n][e] *= shape.scale;
    queries.store_c(sum[n], row, 8 * n);
  }
  __syncwarp();
  queries.template store<16, 32>(row, d_q + shape.query_at(sequence, head, i + row), shape.ld_q, rows - row, cols,
                                 lane);
}

/* ---- launches ---- */

dim3 grid(const Shape &s, int64_t heads) {
  return dim3(static_cast<unsigned>(s.batch * heads), static_cast<unsigned>((s.seq_len + kRows - 1) / kRows));
}

/* kKeys: of by_query, so that two of its blocks share a multiprocessor. */
template <int kDim, int kKeys>
int32_t run(const Shape &s, const bf16 *q, const bf16 *k, const bf16 *v, const float *lse, const bf16 *d_out,
            const float *delta, bf16 *d_q, bf16 *d_k, bf16 *d_v) {
  const int32_t status = ESP_LAUNCH_SHARED(by_key<kDim>, grid(s, s.n_kv_heads), kByKeyThreads, kByKeyBytes<kDim>, q, k,
                                           v, lse, d_out, delta, d_k, d_v, s);
  if (status != ESP_OK) return status;
  return ESP_LAUNCH_SHARED((by_query<kDim, kKeys>), grid(s, s.n_heads), kWarpgroup, (kByQueryBytes<kDim, kKeys>), q, k,
                           v, lse, d_out, delta, d_q, s);
}

}  // namespace

int32_t backward_by_warpgroups(const Shape &s, const bf16 *q, const bf16 *k, const bf16 *v, const float *lse,
                               const bf16 *d_out, const float *delta, bf16 *d_q, bf16 *d_k, bf16 *d_v) {
  if (s.head_dim <= 64) return run<64, 64>(s, q, k, v, lse, d_out, delta, d_q, d_k, d_v);
  if (s.head_dim <= 128) return run<128, 64>(s, q, k, v, lse, d_out, delta, d_q, d_k, d_v);
  return run<256, 32>(s, q, k, v, lse, d_out, delta, d_q, d_k, d_v);
}

}  // namespace esp::attention
