/*
 * A linear map and its low-rank terms in one pass, on tensor cores, bfloat16:
 *
 *   y = beta y + x op(w) + scale_p u_p op(v_p) on the columns of each term p
 *
 * A block computes 128 x kCols elements of y. Its accumulators first get u_p op(v_p), are then multiplied by the scale
 * of their column, so that nothing is rounded in between, and then get x op(w). For the tensor cores the terms are more
 * columns of x, but nothing has to lie side by side in memory. y is written once, and read only if beta is not 0.
 *
 * Operands arrive 32 columns of K at a time, in swizzled tiles (tile.cuh); kStages such steps are being copied or in
 * use. The 8 warps, 2 x 4, own 64 x kCols / 4 elements each. With 128 columns they read 512 bytes from shared memory 6
 * times for 16 mma, with 256 columns 8 times for 32.
 *
 * FLOPs: 2 m n k + sum of 2 m n_p r_p. Bytes: x and w once, y once or twice from memory. From L2 x, w and y are read
 * again for each tile that shares them. Neighbouring blocks work on the same columns of w.
 */
#include "linear.cuh"
#include "tile.cuh"

namespace esp::linear {
namespace {

constexpr int kRows = 128, kInner = 32, kWarps = 8, kThreads = 32 * kWarps, kWarpRows = 2;
constexpr int kRowTiles = kRows / kWarpRows / 16;

template <int kCols, int kStages>
struct Cut {
  static constexpr int kWarpCols = kCols / (kWarps / kWarpRows);
  static constexpr int kStageElements = (kRows + kCols) * kInner;
  static constexpr int kElements = kStages * kStageElements > kRows *kCols ? kStages *kStageElements : kRows *kCols;
  static constexpr int kSharedBytes = 2 * kElements;
};

/* kTransposed: w is [n, k] and v is [n, r]; otherwise [k, n] and [r, n]. */
template <bool kTransposed, int kCols, int kStages>
__global__ void __launch_bounds__(kThreads) product(Map map) {
  using C = Cut<kCols, kStages>;
  using Right = std::conditional_t<kTransposed, Tile<kInner>, Tile<kCols>>;
  ESP_DYNAMIC_SHARED(bf16, shared);
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32;
  const int row = warp % kWarpRows * 16 * kRowTiles, column = warp / kWarpRows * C::kWarpCols;
  const int i = static_cast<int>(blockIdx.x) * kRows, j = static_cast<int>(blockIdx.y) * kCols;
  const int rows = map.m - i, cols = map.n - j;

  auto left_of = [&](int step) { return Tile<kInner>{shared + step % kStages * C::kStageElements}; };
  auto right_of = [&](int step) { return Right{shared + step % kStages * C::kStageElements + kRows * kInner}; };
  /* Copies rows i.. of x [m, inner] and columns j.. of op(w) [inner, width], whose columns start at `from`; of both the
   * part of `inner` that begins at `at`. */
  auto fetch = [&](int step, const bf16 *x, int64_t ldx, const bf16 *w, int64_t ldw, int inner, int from, int width,
                   int at) {
    left_of(step).template fetch<kRows, kThreads>(x, i * ldx + at, ldx, {0, rows, 0, inner - at}, thread);
    const int first = from - j, end = first + width;
    if constexpr (kTransposed) {
      right_of(step).template fetch<kCols, kThreads>(w, -first * ldw + at, ldw, {first, end, 0, inner - at}, thread);
    } else {
      right_of(step).template fetch<kInner, kThreads>(w, at * ldw - first, ldw, {0, inner - at, first, end}, thread);
    }
  };
  /* How many steps a term takes in this block. */
  auto steps_of = [&](const Term &term) {
    return term.from < j + kCols && term.from + term.n > j ? (term.r + kInner - 1) / kInner : 0;
  };
  int term_steps = 0;
  for (int p = 0; p < map.count; p++) term_steps += steps_of(map.terms[p]);
  const int steps = term_steps + (map.k + kInner - 1) / kInner;
  auto fetch_step = [&](int step) {
    if (step >= term_steps) {
      if (step < steps) {
        fetch(step, map.x, map.ldx, map.w, map.ldw, map.k, 0, map.n, (step - term_steps) * kInner);
      }
    } else {
      int p = 0, within = step;
      for (; within >= steps_of(map.terms[p]); p++) within -= steps_of(map.terms[p]);
      const Term &term = map.terms[p];
      fetch(step, term.u, term.ld_u, term.v, term.ld_v, term.r, term.from, term.n, within * kInner);
    }
    cp_async_commit();
  };

  float sum[kRowTiles][C::kWarpCols / 8][4] = {};
  const int lane = thread % 32;
  auto scale_terms = [&] {
#pragma unroll
    for (int n = 0; n < C::kWarpCols / 8; n++) {
      const int at = j + column + 8 * n + 2 * (lane % 4);
      float factor[2] = {1, 1};
      for (int p = 0; p < map.count; p++) {
        const int within = at - map.terms[p].from;
        if (within >= 0 && within < map.terms[p].n) factor[0] = map.terms[p].scale;
        if (within + 1 >= 0 && within + 1 < map.terms[p].n) factor[1] = map.terms[p].scale;
      }
#pragma unroll
      for (int t = 0; t < kRowTiles; t++) {
#pragma unroll
        for (int e = 0; e < 4; e++) sum[t][n][e] *= factor[e % 2];
      }
    }
  };

  for (int step = 0; step < kStages - 1; step++) fetch_step(step);
  for (int step = 0; step < steps; step++) {
    cp_async_wait<kStages - 2>();
    __syncthreads(); /* this step's tiles have arrived, and nobody reads those of the last step any more */
    fetch_step(step + kStages - 1);
    if (step == term_steps && term_steps > 0) scale_terms();
    const Tile<kInner> left = left_of(step);
    const Right right = right_of(step);
#pragma unroll
    for (int inner = 0; inner < kInner; inner += 16) {
      uint32_t a[kRowTiles][4];
#pragma unroll
      for (int t = 0; t < kRowTiles; t++) left.load_a(a[t], row + 16 * t, inner);
#pragma unroll
      for (int n = 0; n < C::kWarpCols / 16; n++) {
        uint32_t b[2][2];
        if constexpr (kTransposed) {
          right.load_b_of_rows(b, column + 16 * n, inner);
        } else {
          right.load_b_of_columns(b, inner, column + 16 * n);
        }
#pragma unroll
        for (int t = 0; t < kRowTiles; t++) {
          mma_m16n8k16(sum[t][2 * n], a[t], b[0]);
          mma_m16n8k16(sum[t][2 * n + 1], a[t], b[1]);
        }
      }
    }
  }
  if (steps == term_steps && term_steps > 0) scale_terms(); /* k = 0 */

  __syncthreads(); /* the result goes where the tiles were; copies not waited for yet are empty groups */
  const Tile<kCols> result{shared};
  const int64_t at = i * map.ldy + j;
  if (map.beta != 0) {
    result.template fetch<kRows, kThreads>(map.y, at, map.ldy, {0, rows, 0, cols}, thread);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
#pragma unroll
    for (int t = 0; t < kRowTiles; t++) {
#pragma unroll
      for (int n = 0; n < C::kWarpCols / 8; n++) {
        float before[4];
        result.load_c(before, row + 16 * t, column + 8 * n);
#pragma unroll
        for (int e = 0; e < 4; e++) sum[t][n][e] += map.beta * before[e];
      }
    }
  }
#pragma unroll
  for (int t = 0; t < kRowTiles; t++) {
#pragma unroll
    for (int n = 0; n < C::kWarpCols / 8; n++) result.store_c(sum[t][n], row + 16 * t, column + 8 * n);
  }
  __syncthreads();
  result.template store<kRows, kThreads>(0, map.y + at, map.ldy, rows, cols, thread);
}

template <bool kTransposed, int kCols, int kStages>
int32_t run(const Map &map) {
  const dim3 grid(static_cast<unsigned>((map.m + kRows - 1) / kRows),
                  static_cast<unsigned>((map.n + kCols - 1) / kCols));
  return ESP_LAUNCH_SHARED((product<kTransposed, kCols, kStages>), grid, kThreads, (Cut<kCols, kStages>::kSharedBytes),
                           map);
}

}  // namespace

int32_t fused(const Map &map, bool transposed, bool wide) {
  if (wide) return transposed ? run<true, 256, 3>(map) : run<false, 256, 3>(map);
  return transposed ? run<true, 128, 4>(map) : run<false, 128, 4>(map);
}

}  // namespace esp::linear
