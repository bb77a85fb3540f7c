/*
 * Attention forward on Hopper's tensor cores, bfloat16: the algorithm of attention_forward.cu, whose products wgmma
 * makes from shared memory (warpgroup.cuh). There 16 rows of scores read all keys by ldmatrix, 5 reads of 512 bytes for
 * 8 mma, and shared memory was busy four times as long as the tensor cores; here a read serves 64 rows.
 *
 * A block is a warpgroup with 64 queries of one head. Queries stay in shared memory, scores and the result in
 * registers, p goes from them into its product. Values come while scores are computed, the next keys while p v is; what
 * the other blocks of the multiprocessor compute hides the rest. Masks are looked at only in tiles that the diagonal or
 * the window cuts. The longest tiles start first.
 *
 * FLOPs: 4 head_dim a pair of a query and a key it sees, exponentials 1, and 1 tanh with a cap. Bytes: q and out once,
 * k and v once per tile of queries, from L2: 64 keys are 256 head_dim bytes for 16384 head_dim FLOPs, which at L2's
 * 5.5 TB/s is 350 TFLOP/s.
 */
#include "attention_warpgroup.cuh"

namespace esp::attention {
namespace {

constexpr int kQueries = 64, kKeys = 64;

template <int kDim>
constexpr int kForwardBytes = 2 * (kQueries + 2 * kKeys) * kDim;

template <int kDim>
__global__ void __launch_bounds__(kWarpgroup)
    forward(const bf16 *q, const bf16 *k, const bf16 *v, bf16 *out, float *lse, Shape shape) {
  ESP_DYNAMIC_PANELS(shared);
  const Panels<kQueries, kDim> queries{shared};
  const Panels<kKeys, kDim> keys{queries.data + queries.kElements}, values{keys.data + keys.kElements};
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, row = thread / 32 * 16;
  const int cols = static_cast<int>(shape.head_dim);
  const int block = static_cast<int>(blockIdx.x), head = block % shape.n_heads, kv_head = head / shape.group();
  const int64_t sequence = block / shape.n_heads;
  const int i = static_cast<int>(gridDim.y - 1 - blockIdx.y) * kQueries, rows = shape.seq_len - i;
  const int end = rows < kQueries ? shape.seq_len : i + kQueries; /* keys seen */
  k += shape.key_at(sequence, kv_head, 0);
  v += shape.key_at(sequence, kv_head, 0);
  const Scores scores(shape);

  float sum[kDim / 8][4] = {}, largest[2] = {-INFINITY, -INFINITY}, total[2] = {};
  int j = shape.first_key(i) / kKeys * kKeys;
  queries.template fetch<kWarpgroup>(q + shape.query_at(sequence, head, i), shape.ld_q, rows, cols, thread);
  keys.template fetch<kWarpgroup>(k + j * shape.ld_kv, shape.ld_kv, shape.seq_len - j, cols, thread);
  cp_async_commit();
  for (; j < end; j += kKeys) {
    cp_async_wait<0>();
    shared_is_written();
    __syncthreads(); /* keys are there, and nobody reads the last values any more */
    values.template fetch<kWarpgroup>(v + j * shape.ld_kv, shape.ld_kv, shape.seq_len - j, cols, thread);
    cp_async_commit();

    float p[kKeys / 8][4] = {};
    products_begin();
    multiply_rows(p, queries, keys);
    products_end();
    products_wait<0>();
    hold(p);
    cp_async_wait<0>();
    shared_is_written();
    __syncthreads(); /* values are there, and nobody reads these keys any more */
    if (j + kKeys < end) {
      keys.template fetch<kWarpgroup>(k + (j + kKeys) * shape.ld_kv, shape.ld_kv, shape.seq_len - j - kKeys, cols,
                                      thread);
    }
    cp_async_commit();

    scores.apply(p);
    const bool masked = !shape.sees_all(i, kQueries, j, kKeys);
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int query = i + row + 8 * half + lane / 4;
      float raised = largest[half];
#pragma unroll
      for (int n = 0; n < kKeys / 8; n++) {
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; e++) {
          if (masked && !shape.sees(query, j + 8 * n + 2 * (lane % 4) + e % 2)) p[n][e] = -INFINITY;
          raised = fmaxf(raised, p[n][e]);
        }
      }
      raised = quad_max(raised);
      const float base = raised == -INFINITY ? 0.0f : raised; /* no key seen yet: every p is 0 */
      const float keep = exp2_approximate(largest[half] - base);
      float own = 0;
#pragma unroll
      for (int n = 0; n < kKeys / 8; n++) {
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; e++) {
          p[n][e] = exp2_approximate(p[n][e] - base);
          own += p[n][e];
        }
      }
      total[half] = total[half] * keep + own; /* of this lane's keys */
      largest[half] = raised;
#pragma unroll
      for (int n = 0; n < kDim / 8; n++) {
        sum[n][2 * half] *= keep;
        sum[n][2 * half + 1] *= keep;
      }
    }

    const Weights<kKeys> weights(p);
    hold(sum);
    products_begin();
    add_weighted(sum, weights, values);
    products_end();
    products_wait<0>();
    hold(sum);
  }

  /* A warp's rows of queries are read by its own products alone, and those are done: they are the way out. */
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const float all = quad_sum(total[half]), factor = 1.0f / all;
    const int query = i + row + 8 * half + lane / 4;
    if (lane % 4 == 0 && query < shape.seq_len) {
      lse[shape.statistic_at(sequence, head, query)] = (largest[half] + log2f(all)) * kLn2;
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

template <int kDim>
int32_t run(const Shape &s, const bf16 *q, const bf16 *k, const bf16 *v, bf16 *out, float *lse) {
  const dim3 grid(static_cast<unsigned>(s.batch * s.n_heads),
                  static_cast<unsigned>((s.seq_len + kQueries - 1) / kQueries));
  return ESP_LAUNCH_SHARED(forward<kDim>, grid, kWarpgroup, kForwardBytes<kDim>, q, k, v, out, lse, s);
}

}  // namespace

int32_t forward_by_warpgroups(const Shape &s, const bf16 *q, const bf16 *k, const bf16 *v, bf16 *out, float *lse) {
  if (s.head_dim <= 64) return run<64>(s, q, k, v, out, lse);
  if (s.head_dim <= 128) return run<128>(s, q, k, v, out, lse);
  return run<256>(s, q, k, v, out, lse);
}

}  // namespace esp::attention
