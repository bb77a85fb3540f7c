/*
 * Attention forward on tensor cores, bfloat16: online softmax (Milakov & Gimelshein 2018) over tiles of keys, with the
 * work divided as in Dao 2023 ("FlashAttention-2").
 *
 *   s = softcap(scale q.k);  out = sum_j softmax(s)_j v_j;  lse = log sum_j exp(s_j)
 *
 * A block takes kQueries queries of one head and goes, in order, through the tiles of keys that any of them sees. A
 * warp owns 16 kRowTiles rows. Their scores stay in its registers, because the accumulators of q.k already have the
 * layout of the left operand of p v. Queries stay in shared memory. Values are copied while scores are computed, and
 * the next keys while p v is computed. Masks are applied only in tiles that the diagonal or the window cuts. The
 * longest tiles start first.
 *
 * FLOPs: 4 head_dim for each pair of a query and a key that it sees. Bytes: q and out once, k and v once for each tile
 * of queries, from L2. p is rounded to bfloat16 for its product; sums and statistics are float. Heads are padded with
 * zeros to kDim columns.
 *
 * Shared memory (queries, keys, values) and registers limit the size of tiles. For kDim 256 a block takes 96 KB and 128
 * accumulators a thread; two such blocks fit on sm_90, one on sm_80 and sm_89.
 */
#include "attention.cuh"
#include "tile.cuh"

namespace esp::attention {
namespace {

template <int kDim, int kRowTiles, int kWarps, int kKeys>
struct Cut {
  static constexpr int kThreads = 32 * kWarps, kQueries = 16 * kRowTiles * kWarps;
  static constexpr int kSharedBytes = (kQueries + 2 * kKeys) * kDim * 2;
};

template <int kDim, int kRowTiles, int kWarps, int kKeys>
__global__ void __launch_bounds__(32 * kWarps)
    forward(const bf16 *q, const bf16 *k, const bf16 *v, bf16 *out, float *lse, Shape shape) {
  using C = Cut<kDim, kRowTiles, kWarps, kKeys>;
  ESP_DYNAMIC_SHARED(bf16, shared);
  const Tile<kDim> queries{shared}, keys{shared + C::kQueries * kDim}, values{keys.data + kKeys * kDim};
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, row = thread / 32 * 16 * kRowTiles;
  const int cols = static_cast<int>(shape.head_dim);
  const int block = static_cast<int>(blockIdx.x), head = block % shape.n_heads, kv_head = head / shape.group();
  const int64_t sequence = block / shape.n_heads;
  const int i = static_cast<int>(gridDim.y - 1 - blockIdx.y) * C::kQueries, rows = shape.seq_len - i;
  const int end = rows < C::kQueries ? shape.seq_len : i + C::kQueries; /* keys seen */
  k += shape.key_at(sequence, kv_head, 0);
  v += shape.key_at(sequence, kv_head, 0);
  const Scores scores(shape);

  float sum[kRowTiles][kDim / 8][4] = {}, largest[kRowTiles][2], total[kRowTiles][2] = {};
#pragma unroll
  for (int t = 0; t < kRowTiles; t++) largest[t][0] = largest[t][1] = -INFINITY;

  int j = shape.first_key(i) / kKeys * kKeys;
  queries.template fetch<C::kQueries, C::kThreads>(q + shape.query_at(sequence, head, i), shape.ld_q, rows, cols,
                                                   thread);
  keys.template fetch<kKeys, C::kThreads>(k + j * shape.ld_kv, shape.ld_kv, shape.seq_len - j, cols, thread);
  cp_async_commit();
  for (; j < end; j += kKeys) {
    cp_async_wait<0>();
    __syncthreads(); /* keys are there, and nobody reads the last values any more */
    values.template fetch<kKeys, C::kThreads>(v + j * shape.ld_kv, shape.ld_kv, shape.seq_len - j, cols, thread);
    cp_async_commit();

    float p[kRowTiles][kKeys / 8][4] = {};
#pragma unroll 2
    for (int c = 0; c < kDim; c += 16) {
      uint32_t a[kRowTiles][4];
#pragma unroll
      for (int t = 0; t < kRowTiles; t++) queries.load_a(a[t], row + 16 * t, c);
#pragma unroll
      for (int n = 0; n < kKeys / 16; n++) {
        uint32_t b[2][2];
        keys.load_b_of_rows(b, 16 * n, c);
#pragma unroll
        for (int t = 0; t < kRowTiles; t++) {
          mma_m16n8k16(p[t][2 * n], a[t], b[0]);
          mma_m16n8k16(p[t][2 * n + 1], a[t], b[1]);
        }
      }
    }
    cp_async_wait<0>();
    __syncthreads(); /* values are there, and nobody reads these keys any more */
    if (j + kKeys < end) {
      keys.template fetch<kKeys, C::kThreads>(k + (j + kKeys) * shape.ld_kv, shape.ld_kv, shape.seq_len - j - kKeys,
                                              cols, thread);
    }
    cp_async_commit();

    const bool masked = !shape.sees_all(i, C::kQueries, j, kKeys);
#pragma unroll
    for (int t = 0; t < kRowTiles; t++) {
      scores.apply(p[t]);
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int query = i + row + 16 * t + 8 * half + lane / 4;
        float raised = largest[t][half];
#pragma unroll
        for (int n = 0; n < kKeys / 8; n++) {
#pragma unroll
          for (int e = 2 * half; e < 2 * half + 2; e++) {
            if (masked && !shape.sees(query, j + 8 * n + 2 * (lane % 4) + e % 2)) p[t][n][e] = -INFINITY;
            raised = fmaxf(raised, p[t][n][e]);
          }
        }
        raised = quad_max(raised);
        const float base = raised == -INFINITY ? 0.0f : raised; /* no key seen yet: every p is 0 */
        const float keep = exp2_approximate(largest[t][half] - base);
        float own = 0;
#pragma unroll
        for (int n = 0; n < kKeys / 8; n++) {
#pragma unroll
          for (int e = 2 * half; e < 2 * half + 2; e++) {
            p[t][n][e] = exp2_approximate(p[t][n][e] - base);
            own += p[t][n][e];
          }
        }
        total[t][half] = total[t][half] * keep + own; /* of this lane's keys */
        largest[t][half] = raised;
#pragma unroll
        for (int n = 0; n < kDim / 8; n++) {
          sum[t][n][2 * half] *= keep;
          sum[t][n][2 * half + 1] *= keep;
        }
      }
    }

#pragma unroll
    for (int n = 0; n < kKeys / 16; n++) {
      uint32_t a[kRowTiles][4];
#pragma unroll
      for (int t = 0; t < kRowTiles; t++) pack_a(a[t], p[t][2 * n], p[t][2 * n + 1]);
#pragma unroll
      for (int c = 0; c < kDim; c += 16) {
        uint32_t b[2][2];
        values.load_b_of_columns(b, 16 * n, c);
#pragma unroll
        for (int t = 0; t < kRowTiles; t++) {
          mma_m16n8k16(sum[t][c / 8], a[t], b[0]);
          mma_m16n8k16(sum[t][c / 8 + 1], a[t], b[1]);
        }
      }
    }
  }

/* The rows of queries that a warp owns were last read before the last barrier. The result goes out through their
 * memory. */
#pragma unroll
  for (int t = 0; t < kRowTiles; t++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const float all = quad_sum(total[t][half]), factor = 1.0f / all;
      const int query = i + row + 16 * t + 8 * half + lane / 4;
      if (lane % 4 == 0 && query < shape.seq_len) {
        lse[shape.statistic_at(sequence, head, query)] = (largest[t][half] + log2f(all)) * kLn2;
      }
#pragma unroll
      for (int n = 0; n < kDim / 8; n++) {
        sum[t][n][2 * half] *= factor;
        sum[t][n][2 * half + 1] *= factor;
      }
    }
#pragma unroll
    for (int n = 0; n < kDim / 8; n++) queries.store_c(sum[t][n], row + 16 * t, 8 * n);
  }
  __syncwarp();
  queries.template store<16 * kRowTiles, 32>(row, out + shape.out_at(sequence, head, i + row), shape.ld_out, rows - row,
                                             cols, lane);
}

template <int kDim, int kRowTiles, int kWarps, int kKeys>
int32_t run(const Shape &s, const bf16 *q, const bf16 *k, const bf16 *v, bf16 *out, float *lse) {
  using C = Cut<kDim, kRowTiles, kWarps, kKeys>;
  const dim3 grid(static_cast<unsigned>(s.batch * s.n_heads),
                  static_cast<unsigned>((s.seq_len + C::kQueries - 1) / C::kQueries));
  return ESP_LAUNCH_SHARED((forward<kDim, kRowTiles, kWarps, kKeys>), grid, C::kThreads, C::kSharedBytes, q, k, v, out,
                           lse, s);
}

}  // namespace

int32_t forward_by_tensor_cores(const Shape &s, const bf16 *q, const bf16 *k, const bf16 *v, bf16 *out, float *lse) {
  if (s.head_dim <= 64) return run<64, 2, 4, 64>(s, q, k, v, out, lse);
  if (s.head_dim <= 80) return run<80, 2, 4, 64>(s, q, k, v, out, lse);
  if (s.head_dim <= 96) return run<96, 2, 4, 64>(s, q, k, v, out, lse);
  if (s.head_dim <= 128) return run<128, 2, 4, 32>(s, q, k, v, out, lse);
  if (s.head_dim <= 192) return run<192, 1, 4, 64>(s, q, k, v, out, lse);
  return run<256, 1, 4, 64>(s, q, k, v, out, lse);
}

}  // namespace esp::attention
