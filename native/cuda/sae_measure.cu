/*
 * How well an SAE reconstructs: the squared error with its gradient, and running statistics over tokens.
 *
 * 2 to 3 elements are moved for each column of a token: bound by memory. For errors a block takes a row. Gradients of
 * losses that are balanced against each other need two sums over tokens first. Each of up to 1024 blocks computes them
 * for itself, in the same order, so that no block waits for another. For statistics warps take rows in turn; blocks
 * leave their parts in a table, which one more kernel adds up. How often latents fire are integers, which may be
 * counted in any order. Sums of columns: columns.cuh.
 *
 * All sums are float64 (at 1/64 of float32's rate on sm_89, 1/2 on sm_80 and sm_90), because a few tokens (attention
 * sinks) have norms a hundred times those of the others.
 */
#include "columns.cuh"
#include "row_sums.cuh"

namespace {

/* The sum of a row of floats. Its order depends on threads and warps alone, so every block gets the same. */
__device__ inline double block_total(const float *x, int64_t n) {
  double own = 0;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) own += static_cast<double>(x[i]);
  return esp::block_sum(own);
}

template <typename T, int N>
__global__ void mse(const T *x, const T *y, const uint8_t *keep, float *loss, T *d_y, float factor, int64_t d) {
  const int64_t t = blockIdx.x, first = threadIdx.x * N, step = blockDim.x * N;
  const bool kept = keep != nullptr && keep[t] != 0;
  double sum = 0;
  for (int64_t c = first; c < d; c += step) {
    esp::Pack<N> difference{};
    if (!kept) {
      const esp::Pack<N> target = esp::load<N>(x + t * d + c);
      difference = esp::load<N>(y + t * d + c);
      for (int i = 0; i < N; i++) {
        const double exact = static_cast<double>(difference[i]) - static_cast<double>(target[i]);
        sum += exact * exact;
        difference[i] = factor * (difference[i] - target[i]);
      }
    }
    if (d_y != nullptr) esp::store(d_y + t * d + c, difference);
  }
  sum = esp::block_sum(sum);
  if (threadIdx.x == 0) loss[t] = static_cast<float>(sum);
}

template <typename T, int N>
__global__ void mse_backward(const T *x, const T *y, const uint8_t *keep, const float *error, const float *kl,
                             float balance, T *d_y, bool accumulate, float factor, int64_t tokens, int64_t d) {
  float weight = accumulate ? 1 : 0;
  if (kl != nullptr) {
    const double divergence = block_total(kl, tokens), errors = block_total(error, tokens);
    const double ratio = divergence == 0 ? 0 : static_cast<double>(balance) * errors / divergence;
    if (accumulate) weight = static_cast<float>(ratio);
  }
  for (int64_t t = blockIdx.x; t < tokens; t += gridDim.x) {
    const bool kept = keep != nullptr && keep[t] != 0;
    for (int64_t c = threadIdx.x * N; c < d; c += blockDim.x * N) {
      esp::Pack<N> gradient{};
      if (accumulate) {
        gradient = esp::load<N>(d_y + t * d + c);
        for (int i = 0; i < N; i++) gradient[i] *= weight;
      }
      if (!kept) {
        const esp::Pack<N> target = esp::load<N>(x + t * d + c), output = esp::load<N>(y + t * d + c);
        for (int i = 0; i < N; i++) gradient[i] += factor * (output[i] - target[i]);
      }
      esp::store(d_y + t * d + c, gradient);
    }
  }
}

constexpr int kWarps = esp::kThreads / 32;
constexpr int kBlocks = 1024;

/* The sums over rows, in the order of stats. */
constexpr int kSums = 11;
enum { kRows, kError, kSquares, kCosines, kActive, kOutputSquares, kProducts, kNorms, kOutputNorms, kRatios, kValues };

/* Each block's part. All kernels go to one stream, so nothing else uses the table in between. */
__device__ double parts[kBlocks][kSums];

/* Warps take rows in turn. */
template <typename T, int N>
__global__ void row_stats(const T *x, const T *y, const int32_t *index, const float *value, const int32_t *count,
                          int64_t capacity, const uint8_t *keep, int64_t *fired, int64_t tokens, int64_t d) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  double sums[kSums] = {}; /* sums over rows are in lane 0 alone, those over entries in each lane */
  for (int64_t t = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32; t < tokens; t += gridDim.x * kWarps) {
    if (keep != nullptr && keep[t] != 0) continue;
    const esp::RowSums row = esp::row_sums<N>(x + t * d, y + t * d, d);
    for (int64_t entry = t * capacity + lane; entry < t * capacity + count[t]; entry += 32) {
      if (value[entry] == 0) continue;
      sums[kActive] += 1;
      sums[kValues] += static_cast<double>(value[entry]);
      atomicAdd(reinterpret_cast<unsigned long long *>(fired + index[entry]), 1ull);
    }
    if (lane != 0) continue;
    const double norm = sqrt(row.aa), output_norm = sqrt(row.bb);
    sums[kRows] += 1;
    sums[kError] += row.error;
    sums[kSquares] += row.aa;
    sums[kCosines] += row.cosine();
    sums[kOutputSquares] += row.bb;
    sums[kProducts] += row.ab;
    sums[kNorms] += norm;
    sums[kOutputNorms] += output_norm;
    sums[kRatios] += norm < 1e-4 ? 1 : output_norm / norm;
  }
  for (int i = 0; i < kSums; i++) {
    const double sum = esp::block_sum(sums[i]);
    if (threadIdx.x == 0) parts[blockIdx.x][i] = sum;
  }
}

/* Each block adds up one of the sums. */
__global__ void add_parts(int blocks, double *stats) {
  double sum = 0;
  for (int b = static_cast<int>(threadIdx.x); b < blocks; b += esp::kThreads) sum += parts[b][blockIdx.x];
  sum = esp::block_sum(sum);
  if (threadIdx.x == 0) stats[blockIdx.x] += sum;
}

template <typename T>
__global__ void column_stats(const T *x, const uint8_t *keep, double *stats, int64_t tokens, int64_t d) {
  esp::column_sums<1>(
      tokens, d,
      [=](int64_t t, int64_t c, double(&sums)[1]) {
        if (keep == nullptr || keep[t] == 0) sums[0] += static_cast<double>(esp::to_float(x[t * d + c]));
      },
      [=](int64_t c, const double(&sums)[1]) { stats[c] += sums[0]; });
}

}  // namespace

int32_t esp_sae_mse(const void *x, const void *y, const uint8_t *keep, float *loss, void *d_y, float grad_scale,
                    int64_t tokens, int64_t d, int32_t dtype) {
  ESP_REQUIRE(tokens >= 0 && d > 0, "bad sizes: tokens=%ld d=%ld", tokens, d);
  return esp::with_packs(dtype, d, {x, y, d_y}, [&](auto type, auto width) {
    using T = decltype(type);
    constexpr int N = decltype(width)::value;
    return ESP_LAUNCH((mse<T, N>), tokens, esp::threads_for_row(d, N), static_cast<const T *>(x),
                      static_cast<const T *>(y), keep, loss, static_cast<T *>(d_y), 2 * grad_scale, d);
  });
}

int32_t esp_sae_mse_backward(const void *x, const void *y, const uint8_t *keep, const float *error, const float *kl,
                             float balance, void *d_y, int32_t accumulate, float grad_scale, int64_t tokens, int64_t d,
                             int32_t dtype) {
  ESP_REQUIRE(tokens >= 0 && d > 0, "bad sizes: tokens=%ld d=%ld", tokens, d);
  ESP_REQUIRE((error == nullptr) == (kl == nullptr), "error and kl: one is NULL, the other is not");
  /* Each block reads all of error and kl. */
  return esp::with_packs(dtype, d, {x, y, d_y}, [&](auto type, auto width) {
    using T = decltype(type);
    constexpr int N = decltype(width)::value;
    return ESP_LAUNCH((mse_backward<T, N>), tokens < kBlocks ? tokens : int64_t{kBlocks}, esp::threads_for_row(d, N),
                      static_cast<const T *>(x), static_cast<const T *>(y), keep, error, kl, balance,
                      static_cast<T *>(d_y), accumulate != 0, 2 * grad_scale, tokens, d);
  });
}

int32_t esp_sae_stats(const void *x, const void *y, const int32_t *index, const float *value, const int32_t *count,
                      int64_t capacity, const uint8_t *keep, double *stats, int64_t *fired, int64_t tokens, int64_t d,
                      int64_t m, int32_t dtype) {
  ESP_REQUIRE(tokens >= 0 && d > 0 && m > 0 && capacity > 0, "bad sizes: tokens=%ld d=%ld m=%ld capacity=%ld", tokens,
              d, m, capacity);
  const int64_t warps = (tokens + kWarps - 1) / kWarps;
  const int blocks = static_cast<int>(warps < kBlocks ? warps : kBlocks);
  return esp::with_packs(dtype, d, {x, y}, [&](auto type, auto width) {
    using T = decltype(type);
    constexpr int N = decltype(width)::value;
    const auto *input = static_cast<const T *>(x);
    int32_t status = ESP_LAUNCH((row_stats<T, N>), blocks, esp::kThreads, input, static_cast<const T *>(y), index,
                                value, count, capacity, keep, fired, tokens, d);
    if (status == ESP_OK) status = ESP_LAUNCH(add_parts, kSums, esp::kThreads, blocks, stats);
    if (status != ESP_OK) return status;
    return ESP_LAUNCH(column_stats<T>, esp::strips_of(d), esp::kStripThreads, input, keep, stats + kSums, tokens, d);
  });
}
