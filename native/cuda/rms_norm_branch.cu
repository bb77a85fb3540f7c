/*
 * sum = x + RMSNorm of a branch, and RMSNorm of that sum. This is what lies between two linear maps if a model family
 * normalises what it adds to the residual stream (Gemma 2). The results are bit for bit those of the kernels of
 * rms_norm.cu and esp_add one after another: what these would store is rounded here too, but read from registers.
 *
 * Elements moved: 4 rows d forward (6 or 7 by separate kernels), 6 rows d backward (7 by separate kernels). With a
 * thousand rows a launch costs its latency above all, and here there is one launch instead of two or three.
 *
 * Rows that do not fit into a warp, and norms in training, take the separate kernels.
 */
#include "rms_norm.cuh"

namespace {

using esp::rms::Gains, esp::rms::Lane;

/* out is NULL if only the sum is wanted. */
template <typename T, int kPacks>
__global__ void __launch_bounds__(32 * esp::rms::kWarps)
    forward_of_branch(const T *branch, const float *__restrict__ branch_weight, float *branch_rstd, const T *x, T *sum,
                      const float *__restrict__ weight, float weight_offset, float eps, T *out, int64_t ld_out,
                      float *rstd, int64_t rows, int64_t d) {
  constexpr int N = esp::kPack<T>;
  __shared__ Gains<N, kPacks> branch_gains, gains;
  const Lane<T, kPacks> lane(rows, d);
  const auto branch_asked = branch_gains.ask(branch_weight, d), asked = gains.ask(weight, out == nullptr ? 0 : d);
  uint4 kept[kPacks], stream[kPacks];
  lane.load(branch, kept);
  lane.load(x, stream);
  branch_gains.keep(branch_asked, weight_offset);
  gains.keep(asked, weight_offset);
  __syncthreads();
  if (!lane.is_there()) return; /* the whole warp */
  const float branch_scale = lane.rstd_of(kept, eps, branch_rstd);
#pragma unroll
  for (int p = 0; p < kPacks; p++) {
    const esp::Pack<N> normed = esp::rms::normed(esp::unpacked<T>(kept[p]), branch_scale, branch_gains.of(p));
    const esp::Pack<N> added = esp::unpacked<T>(esp::packed<T>(normed));
    esp::Pack<N> row = esp::unpacked<T>(stream[p]);
#pragma unroll
    for (int i = 0; i < N; i++) row[i] = __fadd_rn(row[i], added[i]); /* the product is rounded before it is added */
    kept[p] = esp::packed<T>(row);
    lane.store(sum, d, p, kept[p]);
  }
  if (out == nullptr) return;
  const float scale = lane.rstd_of(kept, eps, rstd);
#pragma unroll
  for (int p = 0; p < kPacks; p++) {
    lane.store(out, ld_out, p, esp::packed<T>(esp::rms::normed(esp::unpacked<T>(kept[p]), scale, gains.of(p))));
  }
}

template <typename T, int kPacks>
__global__ void __launch_bounds__(32 * esp::rms::kWarps)
    backward_of_branch(const T *sum, const float *__restrict__ weight, const float *rstd, const T *d_out, T *d_sum,
                       bool accumulate, const T *branch, const float *__restrict__ branch_weight,
                       const float *branch_rstd, float weight_offset, T *d_branch, int64_t rows, int64_t d) {
  constexpr int N = esp::kPack<T>;
  constexpr bool kAllAtOnce = kPacks <= 9; /* otherwise the branch is read when registers become free */
  __shared__ Gains<N, kPacks> branch_gains, gains;
  const Lane<T, kPacks> lane(rows, d);
  const auto asked = gains.ask(weight, d), branch_asked = branch_gains.ask(branch_weight, d);
  uint4 kept[kPacks], gradient[kPacks], before[kPacks] = {}, of_branch[kPacks];
  lane.load(sum, kept);
  lane.load(d_out, gradient);
  if (accumulate) lane.load(d_sum, before);
  if constexpr (kAllAtOnce) lane.load(branch, of_branch);
  const float scale = lane.is_there() ? rstd[lane.row] : 0;
  const float branch_scale = lane.is_there() ? branch_rstd[lane.row] : 0;
  gains.keep(asked, weight_offset);
  branch_gains.keep(branch_asked, weight_offset);
  __syncthreads();
  if (!lane.is_there()) return; /* the whole warp */
  lane.gradient(kept, gradient, before, gains, scale, d_sum);
  if constexpr (!kAllAtOnce) lane.load(branch, of_branch);
  const uint4 nothing[kPacks] = {};
  lane.gradient(of_branch, gradient, nothing, branch_gains, branch_scale, d_branch);
}

}  // namespace

int32_t esp_add_normed_forward(const void *branch, const float *branch_weight, float *branch_rstd, const void *x,
                               void *sum, const float *weight, float weight_offset, float eps, void *out,
                               int64_t ld_out, float *rstd, int64_t rows, int64_t d, int32_t dtype) {
  ESP_REQUIRE(rows >= 0 && d > 0, "bad sizes: rows=%ld d=%ld", rows, d);
  ESP_REQUIRE(out == nullptr || ld_out >= d, "ld_out=%ld is shorter than a row of %ld", ld_out, d);
  const int64_t multiple = out == nullptr ? d : d | ld_out;
  return esp::with_packs(dtype, multiple, {branch, branch_weight, x, sum, weight, out}, [&](auto type, auto width) {
    using T = decltype(type);
    int32_t status = ESP_OK;
    const bool done = esp::rms::by_warps<T, decltype(width)::value>(d, [&](auto packs) {
      status =
          ESP_LAUNCH((forward_of_branch<T, decltype(packs)::value>), esp::rms::blocks_of(rows), 32 * esp::rms::kWarps,
                     static_cast<const T *>(branch), branch_weight, branch_rstd, static_cast<const T *>(x),
                     static_cast<T *>(sum), weight, weight_offset, eps, static_cast<T *>(out), ld_out, rstd, rows, d);
    });
    if (done) return status;
    /* sum holds the branch's norm in the meantime. */
    status = esp_rms_norm_forward(branch, branch_weight, weight_offset, eps, sum, d, branch_rstd, rows, d, dtype);
    if (status != ESP_OK) return status;
    return out == nullptr
               ? esp_add(x, sum, sum, rows * d, dtype)
               : esp_add_rms_norm_forward(x, sum, weight, weight_offset, eps, sum, out, ld_out, rstd, rows, d, dtype);
  });
}

int32_t esp_add_normed_backward(const void *sum, const float *weight, const float *rstd, const void *d_out, void *d_sum,
                                int32_t accumulate, float *d_weight, const void *branch, const float *branch_weight,
                                const float *branch_rstd, float weight_offset, void *d_branch, float *d_branch_weight,
                                int64_t rows, int64_t d, int32_t dtype) {
  ESP_REQUIRE(rows >= 0 && d > 0, "bad sizes: rows=%ld d=%ld", rows, d);
  return esp::with_packs(
      dtype, d, {sum, weight, d_out, d_sum, branch, branch_weight, d_branch}, [&](auto type, auto width) {
        using T = decltype(type);
        int32_t status = ESP_OK;
        const bool trained = d_weight != nullptr || d_branch_weight != nullptr;
        const bool done = !trained && esp::rms::by_warps<T, decltype(width)::value>(d, [&](auto packs) {
          status = ESP_LAUNCH((backward_of_branch<T, decltype(packs)::value>), esp::rms::blocks_of(rows),
                              32 * esp::rms::kWarps, static_cast<const T *>(sum), weight, rstd,
                              static_cast<const T *>(d_out), static_cast<T *>(d_sum), accumulate != 0,
                              static_cast<const T *>(branch), branch_weight, branch_rstd, weight_offset,
                              static_cast<T *>(d_branch), rows, d);
        });
        if (done) return status;
        status =
            esp_rms_norm_backward(sum, weight, weight_offset, rstd, d_out, d_sum, accumulate, d_weight, rows, d, dtype);
        return status != ESP_OK ? status
                                : esp_rms_norm_backward(branch, branch_weight, weight_offset, branch_rstd, d_sum,
                                                        d_branch, 0, d_branch_weight, rows, d, dtype);
      });
}
