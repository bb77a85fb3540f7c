/*
 * Attention forward on Hopper's tensor cores, bfloat16: the algorithm of attention_forward.cu with products by wgmma
 * from shared memory (warpgroup.cuh). Why: there each 16 rows of scores read all keys by ldmatrix, which is 5 reads of
 * 512 bytes for 8 mma, so shared memory was busy four times as long as the tensor cores. Here one read serves 64 rows.
 *
 * A block has 64 queries of one head. Queries stay in shared memory; scores and the result stay in registers, from
 * which p goes directly into its product. Values are copied while scores are computed, and the next keys while p v is
 * computed. The remaining latency is hidden by the other blocks of the multiprocessor. If there are too few blocks for
 * that, a block has two warpgroups. They take tiles of keys in turn, each at its own pace and with its own sums, which
 * are added at the end. The longest tiles start first.
 *
 * Exponentials are relative to a base. It need not be the largest score, only near it, so that exponentials stay in
 * range. It is raised only when p would exceed 2^8, so sums are seldom scaled.
 *
 * FLOPs: 4 head_dim for each pair of a query and a key that it sees, and an exponential; with a cap another exponential
 * and a division. Bytes: q and out once, k and v once for each tile of queries, from L2. 64 keys are 256 head_dim bytes
 * for 16384 head_dim FLOPs, so L2's 5.5 TB/s would allow 350 TFLOP/s. Most of the time is limited by neither: a warp
 * has some 700 instructions a tile, and too few warps fit side by side to hide their latency.
 *
 * Measured on an H200, 4 sequences of 1024 tokens: 0.062 ms with 32 heads of 64 columns, 0.051 with 16 of 128, 0.053
 * with 8 of 256 and a cap. That is 277 to 336 TFLOP/s; attention_forward.cu reaches 147 to 156.
 */
#include "attention_warpgroup.cuh"

namespace esp::attention {
namespace {

constexpr int kQueries = 64, kKeys = 64;
constexpr float kSlack = 8; /* log2 of the largest p that is allowed */

template <int kDim, int kGroups>
struct Cut {
  static constexpr int kThreads = kWarpgroup * kGroups;
  static constexpr int kSharedBytes = 2 * (kQueries + 2 * kKeys * kGroups) * kDim;
  static_assert(kGroups == 1 || kQueries * (kDim + 8) * 4 <= 4 * kKeys * kGroups * kDim, "room to join sums in");
};

template <int kDim, int kGroups>
__global__ void __launch_bounds__(kWarpgroup *kGroups)
    forward(const bf16 *q, const bf16 *k, const bf16 *v, bf16 *out, float *lse, Shape shape) {
  ESP_DYNAMIC_PANELS(shared);
  const Panels<kQueries, kDim> queries{shared};
  bf16 *const tiles = shared + queries.kElements;
  const int group = kGroups == 1 ? 0 : __shfl_sync(kAllLanes, static_cast<int>(threadIdx.x) / kWarpgroup, 0);
  const Panels<kKeys, kDim> keys{tiles + 2 * group * keys.kElements}, values{keys.data + keys.kElements};
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroup, lane = thread % 32, row = thread / 32 * 16;
  const int cols = static_cast<int>(shape.head_dim);
  const int block = static_cast<int>(blockIdx.x), head = block % shape.n_heads, kv_head = head / shape.group();
  const int64_t sequence = block / shape.n_heads;
  const int i = static_cast<int>(gridDim.y - 1 - blockIdx.y) * kQueries, rows = shape.seq_len - i;
  const int end = rows < kQueries ? shape.seq_len : i + kQueries; /* keys seen */
  k += shape.key_at(sequence, kv_head, 0);
  v += shape.key_at(sequence, kv_head, 0);
  const Scores scores(shape);

  /* Both groups take equally many tiles; a tile beyond the end has no keys. */
  float sum[kDim / 8][4] = {}, base[2] = {-INFINITY, -INFINITY}, total[2] = {};
  const int first = shape.first_key(i) / kKeys * kKeys;
  auto fetch = [&](const Panels<kKeys, kDim> &tile, const bf16 *source, int j) {
    tile.template fetch<kWarpgroup>(source + j * shape.ld_kv, shape.ld_kv, shape.seq_len - j, cols, thread);
  };
  queries.template fetch<kWarpgroup * kGroups>(q + shape.query_at(sequence, head, i), shape.ld_q, rows, cols,
                                               static_cast<int>(threadIdx.x));
  fetch(keys, k, first + group * kKeys);
  cp_async_commit();
  if constexpr (kGroups > 1) {
    cp_async_wait<0>();
    shared_is_written();
    __syncthreads(); /* both groups' halves of the queries are there */
  }
  for (int step = first; step < end; step += kGroups * kKeys) {
    const int j = step + group * kKeys;
    cp_async_wait<0>();
    shared_is_written();
    group_barrier(group); /* keys are there, and nobody reads the last values any more */
    fetch(values, v, j);
    cp_async_commit();

    float p[kKeys / 8][4] = {};
    products_begin();
    multiply_rows(p, queries, keys);
    products_end();
    products_wait<0>();
    hold(p);
    cp_async_wait<0>();
    shared_is_written();
    group_barrier(group); /* values are there, and nobody reads these keys any more */
    if (step + kGroups * kKeys < end) fetch(keys, k, j + kGroups * kKeys);
    cp_async_commit();

    scores.apply(p);
    if (!shape.sees_all(i, kQueries, j, kKeys)) {
#pragma unroll
      for (int n = 0; n < kKeys / 8; n++) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
          const int query = i + row + 8 * (e / 2) + lane / 4, key = j + 8 * n + 2 * (lane % 4) + e % 2;
          if (!shape.sees(query, key)) p[n][e] = -INFINITY;
        }
      }
    }
    float keep[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float largest = p[0][2 * half];
#pragma unroll
      for (int n = 0; n < kKeys / 8; n++) largest = fmaxf(largest, fmaxf(p[n][2 * half], p[n][2 * half + 1]));
      largest = quad_max(largest);
      const bool raised = largest > base[half] + kSlack;
      keep[half] = raised ? exp2_approximate(base[half] - largest) : 1.0f;
      if (raised) base[half] = largest;
    }
    if (__any_sync(kAllLanes, keep[0] != 1.0f || keep[1] != 1.0f)) {
#pragma unroll
      for (int n = 0; n < kDim / 8; n++) {
#pragma unroll
        for (int e = 0; e < 4; e++) sum[n][e] *= keep[e / 2];
      }
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const float from = base[half] == -INFINITY ? 0.0f : base[half]; /* no key seen yet: every p is 0 */
      float own = 0;
#pragma unroll
      for (int n = 0; n < kKeys / 8; n++) {
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; e++) {
          p[n][e] = exp2_approximate(p[n][e] - from);
          own += p[n][e];
        }
      }
      total[half] = total[half] * keep[half] + own; /* of this lane's keys */
    }

    const Weights<kKeys> weights(p);
    hold(sum);
    products_begin();
    add_weighted(sum, weights, values);
    products_end();
    products_wait<0>();
    hold(sum);
  }

  if constexpr (kGroups == 2) { /* thread t of both groups has the same rows and columns */
    float *const joined = reinterpret_cast<float *>(tiles) + thread;
    __syncthreads(); /* nobody reads tiles any more */
    if (group == 1) {
#pragma unroll
      for (int n = 0; n < kDim / 8; n++) {
#pragma unroll
        for (int e = 0; e < 4; e++) joined[(4 * n + e) * kWarpgroup] = sum[n][e];
      }
#pragma unroll
      for (int half = 0; half < 2; half++) {
        joined[(kDim / 2 + 2 * half) * kWarpgroup] = base[half];
        joined[(kDim / 2 + 2 * half + 1) * kWarpgroup] = total[half];
      }
    }
    __syncthreads();
    if (group == 1) return;
    float own[2], other[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const float of_other = joined[(kDim / 2 + 2 * half) * kWarpgroup];
      const float both = fmaxf(base[half], of_other), from = both == -INFINITY ? 0.0f : both;
      own[half] = exp2_approximate(base[half] - from);
      other[half] = exp2_approximate(of_other - from);
      total[half] = own[half] * total[half] + other[half] * joined[(kDim / 2 + 2 * half + 1) * kWarpgroup];
      base[half] = both;
    }
#pragma unroll
    for (int n = 0; n < kDim / 8; n++) {
#pragma unroll
      for (int e = 0; e < 4; e++) {
        sum[n][e] = own[e / 2] * sum[n][e] + other[e / 2] * joined[(4 * n + e) * kWarpgroup];
      }
    }
  }

  /* The rows of queries that a warp owns were last read before the last barrier. The result goes out through their
   * memory. */
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const float all = quad_sum(total[half]), factor = 1.0f / all;
    const int query = i + row + 8 * half + lane / 4;
    if (lane % 4 == 0 && query < shape.seq_len) {
      lse[shape.statistic_at(sequence, head, query)] = (base[half] + log2f(all)) * kLn2;
    }
#pragma unroll
    for (int n = 0; n < kDim / 8; n++) {
      sum[n][2 * half] *= factor;
      sum[n][2 * half + 1] *= factor;
    }
  }
#pragma unroll
  for (int n = 0; n < kDim / 8; n++) queries.store_c(sum[n], row, 8 * n);
  __syncwarp();
  queries.template store<16, 32>(row, out + shape.out_at(sequence, head, i + row), shape.ld_out, rows - row, cols,
                                 lane);
}

template <int kDim, int kGroups>
int32_t run(const Shape &s, dim3 grid, const bf16 *q, const bf16 *k, const bf16 *v, bf16 *out, float *lse) {
  using C = Cut<kDim, kGroups>;
  return ESP_LAUNCH_SHARED((forward<kDim, kGroups>), grid, C::kThreads, C::kSharedBytes, q, k, v, out, lse, s);
}

template <int kDim>
int32_t run(const Shape &s, const bf16 *q, const bf16 *k, const bf16 *v, bf16 *out, float *lse) {
  const dim3 grid(static_cast<unsigned>(s.batch * s.n_heads),
                  static_cast<unsigned>((s.seq_len + kQueries - 1) / kQueries));
  const bool few = int64_t{grid.x} * grid.y <= hardware().multiprocessors;
  return few ? run<kDim, 2>(s, grid, q, k, v, out, lse) : run<kDim, 1>(s, grid, q, k, v, out, lse);
}

}  // namespace

int32_t forward_by_warpgroups(const Shape &s, const bf16 *q, const bf16 *k, const bf16 *v, bf16 *out, float *lse) {
  if (s.head_dim <= 64) return run<64>(s, q, k, v, out, lse);
  if (s.head_dim <= 128) return run<128>(s, q, k, v, out, lse);
  return run<256>(s, q, k, v, out, lse);
}

}  // namespace esp::attention
