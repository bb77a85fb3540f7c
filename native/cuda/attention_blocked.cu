/*
 * Attention without tensor cores, forward and backward: for float32, and for bfloat16 if head_dim or pointers are not
 * multiples of 8 elements. The algorithms are those of attention_forward.cu and attention_backward.cu.
 *
 * A block of 16 x 16 threads works on 64 x 64 pairs. A thread owns 4 x 4 of their scores; of the results it owns 4 rows
 * and 4 of every 64 columns. Operands go through shared memory as float. For scores these are 32 columns of both sides
 * at a time, 64 x 32 each and transposed, so that a thread reads what it needs of a column as two float4. For results
 * they are 64 x 64. Two reads of 16 bytes serve 16 FMAs.
 *
 * FLOPs: 4 head_dim a pair forward, 14 backward. The unseen half of the tiles on the diagonal is computed as well.
 * Bytes: for each tile of 64 x 64 scores both sides are read, from L2.
 */
#include "attention.cuh"

namespace esp::attention {
namespace {

constexpr int kTile = 64, kSide = 16, kInner = 32; /* kSide: threads in a row of threads */
constexpr int kChunks = kLargestHead / kTile;
constexpr int kPitch = kTile / 4 + 1; /* in float4; one more than needed, against conflicts */

/* A thread has 4 of each 64 columns of a row of results. */
using Sums = float[kChunks][4][4];

__shared__ float4 operands[2 * kInner * kPitch]; /* two of [kInner, kTile], or [kTile, kTile] */
__shared__ float4 weights[kTile][kPitch];        /* p or ds, [inner, row] */

struct Thread {
  int x, y;
  __device__ Thread() : x(static_cast<int>(threadIdx.x) % kSide), y(static_cast<int>(threadIdx.x) / kSide) {}
};

__device__ inline float element(const float4 &four, int e) { return reinterpret_cast<const float *>(&four)[e]; }
__device__ inline float &element(float4 &four, int e) { return reinterpret_cast<float *>(&four)[e]; }

/* Rows of a matrix, `width` elements each. Only `count` of them exist. */
template <typename T>
struct Rows {
  const T *data;
  int64_t ld;
  int count, width;

  __device__ float at(int row, int column) const {
    return row < count && column < width ? to_float(data[row * ld + column]) : 0.0f;
  }
};

/* target[c, r] = rows[r, first + c]. A warp takes 4 rows of 8 columns, so that no two of its lanes store to one bank.
 */
template <typename T>
__device__ inline void load_transposed(const Rows<T> &rows, int first, float4 *target) {
  for (int i = static_cast<int>(threadIdx.x); i < kTile * kInner; i += kThreads) {
    const int column = i % 8 + i / 32 % (kInner / 8) * 8, row = i / 8 % 4 + i / (4 * kInner) * 4;
    element(target[column * kPitch + row / 4], row % 4) = rows.at(row, first + column);
  }
}

/* c[a, b] += <row 4 y + a of left, row 4 x + b of right>. When it returns all threads have finished reading. */
template <typename L, typename R>
__device__ inline void multiply(const Rows<L> &left, const Rows<R> &right, float (&c)[4][4]) {
  const Thread own;
  float4 *a = operands, *b = operands + kInner * kPitch;
  for (int first = 0; first < left.width; first += kInner) {
    load_transposed(left, first, a);
    load_transposed(right, first, b);
    __syncthreads();
#pragma unroll 4
    for (int inner = 0; inner < kInner; inner++) {
      const float4 rows = a[inner * kPitch + own.y], columns = b[inner * kPitch + own.x];
#pragma unroll
      for (int r = 0; r < 4; r++) {
#pragma unroll
        for (int e = 0; e < 4; e++) c[r][e] += element(rows, r) * element(columns, e);
      }
    }
    __syncthreads();
  }
}

/* weights = transposed c. Before the call all threads must have finished reading weights. */
__device__ inline void share(const float (&c)[4][4]) {
  const Thread own;
#pragma unroll
  for (int e = 0; e < 4; e++) weights[4 * own.x + e][own.y] = make_float4(c[0][e], c[1][e], c[2][e], c[3][e]);
}

/* sum[row] += sum over inner of weights[inner, row] rows[inner]. It begins and ends with a barrier. */
template <typename T>
__device__ inline void add_weighted(const Rows<T> &rows, Sums &sum) {
  const Thread own;
#pragma unroll
  for (int chunk = 0; chunk < kChunks; chunk++) {
    if (chunk * kTile >= rows.width) break;
    for (int i = static_cast<int>(threadIdx.x); i < kTile * kTile; i += kThreads) {
      element(operands[i / 4], i % 4) = rows.at(i / kTile, chunk * kTile + i % kTile);
    }
    __syncthreads();
#pragma unroll 4
    for (int inner = 0; inner < kTile; inner++) {
      const float4 weight = weights[inner][own.y], columns = operands[inner * (kTile / 4) + own.x];
#pragma unroll
      for (int r = 0; r < 4; r++) {
#pragma unroll
        for (int e = 0; e < 4; e++) sum[chunk][r][e] += element(weight, r) * element(columns, e);
      }
    }
    __syncthreads();
  }
}

/* target[row] = factor[row] sum[row] */
template <typename T>
__device__ inline void store(const Sums &sum, const float (&factor)[4], T *target, int64_t ld, int count, int width) {
  const Thread own;
#pragma unroll
  for (int chunk = 0; chunk < kChunks; chunk++) {
#pragma unroll
    for (int r = 0; r < 4; r++) {
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const int row = 4 * own.y + r, column = chunk * kTile + 4 * own.x + e;
        if (row < count && column < width) target[row * ld + column] = rounded<T>(factor[r] * sum[chunk][r][e]);
      }
    }
  }
}

/* The score s of a product, and its derivative with respect to the product. */
__device__ inline float exact_score(const Shape &shape, float product, float &slope) {
  const float s = product * shape.scale;
  slope = shape.scale;
  if (!(shape.softcap > 0)) return s;
  const float t = tanhf(s / shape.softcap);
  slope = shape.scale * (1.0f - t * t);
  return shape.softcap * t;
}

/* The maximum over the 16 threads that share rows. */
__device__ inline float row_max(float x) {
  for (int lanes = kSide / 2; lanes > 0; lanes /= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, lanes));
  return x;
}
__device__ inline float row_sum(float x) {
  for (int lanes = kSide / 2; lanes > 0; lanes /= 2) x += __shfl_xor_sync(kAllLanes, x, lanes);
  return x;
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    forward(const T *q, const T *k, const T *v, T *out, float *lse, Shape shape) {
  const Thread own;
  const int block = static_cast<int>(blockIdx.x), head = block % shape.n_heads, kv_head = head / shape.group();
  const int64_t sequence = block / shape.n_heads;
  const int i = static_cast<int>(gridDim.y - 1 - blockIdx.y) * kTile, width = shape.head_dim;
  const int end = shape.seq_len - i < kTile ? shape.seq_len : i + kTile;
  const Rows<T> queries{q + shape.query_at(sequence, head, i), shape.ld_q, end - i, width};
  Sums sum = {};
  float largest[4], total[4] = {};
#pragma unroll
  for (int r = 0; r < 4; r++) largest[r] = -INFINITY;
  for (int j = shape.first_key(i) / kTile * kTile; j < end; j += kTile) {
    const int64_t at = shape.key_at(sequence, kv_head, j);
    float p[4][4] = {};
    multiply(queries, Rows<T>{k + at, shape.ld_kv, end - j, width}, p);
#pragma unroll
    for (int r = 0; r < 4; r++) {
      float raised = largest[r], of_tile = 0, slope;
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const bool sees = shape.sees(i + 4 * own.y + r, j + 4 * own.x + e);
        p[r][e] = sees ? exact_score(shape, p[r][e], slope) : -INFINITY;
        raised = fmaxf(raised, p[r][e]);
      }
      raised = row_max(raised);
      const float base = raised == -INFINITY ? 0.0f : raised, keep = expf(largest[r] - base);
#pragma unroll
      for (int e = 0; e < 4; e++) {
        p[r][e] = expf(p[r][e] - base);
        of_tile += p[r][e];
      }
      total[r] = total[r] * keep + of_tile;
      largest[r] = raised;
#pragma unroll
      for (int chunk = 0; chunk < kChunks; chunk++) {
#pragma unroll
        for (int e = 0; e < 4; e++) sum[chunk][r][e] *= keep;
      }
    }
    share(p);
    add_weighted(Rows<T>{v + at, shape.ld_kv, end - j, width}, sum);
  }
  float factor[4];
#pragma unroll
  for (int r = 0; r < 4; r++) {
    const float all = row_sum(total[r]);
    factor[r] = 1.0f / all;
    if (own.x == 0 && 4 * own.y + r < end - i) {
      lse[shape.statistic_at(sequence, head, i + 4 * own.y + r)] = largest[r] + logf(all);
    }
  }
  store(sum, factor, out + shape.out_at(sequence, head, i), shape.ld_out, end - i, width);
}

/* Makes p and ds of one pair, in place; both are 0 if the query does not see the key. */
__device__ inline void weigh(const Shape &shape, bool sees, float lse, float delta, float &p, float &dp) {
  float slope;
  const float s = exact_score(shape, p, slope);
  p = sees ? expf(s - lse) : 0.0f;
  dp = p * (dp - delta) * slope;
}

template <typename T>
__global__ void __launch_bounds__(kThreads) by_query(const T *q, const T *k, const T *v, const float *lse,
                                                     const T *d_out, const float *delta, T *d_q, Shape shape) {
  const Thread own;
  const int block = static_cast<int>(blockIdx.x), head = block % shape.n_heads, kv_head = head / shape.group();
  const int64_t sequence = block / shape.n_heads;
  const int i = static_cast<int>(gridDim.y - 1 - blockIdx.y) * kTile, width = shape.head_dim;
  const int end = shape.seq_len - i < kTile ? shape.seq_len : i + kTile;
  const int64_t at_query = shape.query_at(sequence, head, i);
  const Rows<T> queries{q + at_query, shape.ld_q, end - i, width};
  const Rows<T> gradients{d_out + shape.d_out_at(sequence, head, i), shape.ld_d_out(), end - i, width};
  float own_lse[4], own_delta[4];
#pragma unroll
  for (int r = 0; r < 4; r++) {
    const int query = i + 4 * own.y + r;
    own_lse[r] = query < end ? lse[shape.statistic_at(sequence, head, query)] : 0.0f;
    own_delta[r] = query < end ? delta[shape.statistic_at(sequence, head, query)] : 0.0f;
  }
  Sums sum = {};
  for (int j = shape.first_key(i) / kTile * kTile; j < end; j += kTile) {
    const int64_t at = shape.key_at(sequence, kv_head, j);
    const Rows<T> keys{k + at, shape.ld_kv, end - j, width};
    float p[4][4] = {}, ds[4][4] = {};
    multiply(queries, keys, p);
    multiply(gradients, Rows<T>{v + at, shape.ld_kv, end - j, width}, ds);
#pragma unroll
    for (int r = 0; r < 4; r++) {
#pragma unroll
      for (int e = 0; e < 4; e++) {
        weigh(shape, shape.sees(i + 4 * own.y + r, j + 4 * own.x + e), own_lse[r], own_delta[r], p[r][e], ds[r][e]);
      }
    }
    share(ds);
    add_weighted(keys, sum);
  }
  store(sum, {1, 1, 1, 1}, d_q + at_query, shape.ld_q, end - i, width);
}

template <typename T>
__global__ void __launch_bounds__(kThreads) by_key(const T *q, const T *k, const T *v, const float *lse, const T *d_out,
                                                   const float *delta, T *d_k, T *d_v, Shape shape) {
  const Thread own;
  const int block = static_cast<int>(blockIdx.x), kv_head = block % shape.n_kv_heads;
  const int64_t sequence = block / shape.n_kv_heads;
  const int j = static_cast<int>(blockIdx.y) * kTile, width = shape.head_dim;
  const int count = shape.seq_len - j < kTile ? shape.seq_len - j : kTile, end = shape.end_query(j + count - 1);
  const int64_t at = shape.key_at(sequence, kv_head, j);
  const Rows<T> keys{k + at, shape.ld_kv, count, width}, values{v + at, shape.ld_kv, count, width};
  Sums d_key = {}, d_value = {};
  for (int head = kv_head * shape.group(); head < (kv_head + 1) * shape.group(); head++) {
    for (int i = j; i < end; i += kTile) {
      const Rows<T> queries{q + shape.query_at(sequence, head, i), shape.ld_q, shape.seq_len - i, width};
      const Rows<T> gradients{d_out + shape.d_out_at(sequence, head, i), shape.ld_d_out(), shape.seq_len - i, width};
      float p[4][4] = {}, ds[4][4] = {};
      multiply(keys, queries, p);
      multiply(values, gradients, ds);
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const int query = i + 4 * own.x + e;
        const bool exists = query < shape.seq_len;
        const int64_t statistic = shape.statistic_at(sequence, head, exists ? query : i);
        const float query_lse = lse[statistic], query_delta = delta[statistic];
#pragma unroll
        for (int r = 0; r < 4; r++) {
          weigh(shape, shape.sees(query, j + 4 * own.y + r), query_lse, query_delta, p[r][e], ds[r][e]);
        }
      }
      share(p);
      add_weighted(gradients, d_value);
      share(ds);
      add_weighted(queries, d_key);
    }
  }
  store(d_key, {1, 1, 1, 1}, d_k + at, shape.ld_kv, count, width);
  store(d_value, {1, 1, 1, 1}, d_v + at, shape.ld_kv, count, width);
}

dim3 grid(const Shape &s, int64_t heads) {
  return dim3(static_cast<unsigned>(s.batch * heads), static_cast<unsigned>((s.seq_len + kTile - 1) / kTile));
}

}  // namespace

template <typename T>
int32_t forward_blocked(const Shape &s, const T *q, const T *k, const T *v, T *out, float *lse) {
  return ESP_LAUNCH(forward<T>, grid(s, s.n_heads), kThreads, q, k, v, out, lse, s);
}

template <typename T>
int32_t backward_blocked(const Shape &s, const T *q, const T *k, const T *v, const float *lse, const T *d_out,
                         const float *delta, T *d_q, T *d_k, T *d_v) {
  const int32_t status =
      ESP_LAUNCH(by_key<T>, grid(s, s.n_kv_heads), kThreads, q, k, v, lse, d_out, delta, d_k, d_v, s);
  if (status != ESP_OK) return status;
  return ESP_LAUNCH(by_query<T>, grid(s, s.n_heads), kThreads, q, k, v, lse, d_out, delta, d_q, s);
}

template int32_t forward_blocked(const Shape &, const float *, const float *, const float *, float *, float *);
template int32_t forward_blocked(const Shape &, const bf16 *, const bf16 *, const bf16 *, bf16 *, float *);
template int32_t backward_blocked(const Shape &, const float *, const float *, const float *, const float *,
                                  const float *, const float *, float *, float *, float *);
template int32_t backward_blocked(const Shape &, const bf16 *, const bf16 *, const bf16 *, const float *, const bf16 *,
                                  const float *, bf16 *, bf16 *, bf16 *);

}  // namespace esp::attention
