/*
 * What an SAE's training depends on from batch to batch: how many latents are active, how long each has been silent,
 * the running threshold, and the pull of the number of active latents towards its target.
 *
 * 8 bytes an entry, 12 bytes a latent, and a few microseconds of latency. All that is counted are whole numbers below
 * 2^53. Their sums in float64 are exact, so atomics give the same result in any order.
 */
#include "device.cuh"

namespace {

constexpr int kWarps = esp::kThreads / 32;

/* Up to here all whole numbers are floats. */
constexpr float kLongestSilence = 1 << 24;

/* Runs in one block. */
__global__ void count_rows(const uint8_t *keep, double *activity, int64_t tokens) {
  double rows = 0;
  for (int64_t t = threadIdx.x; t < tokens; t += esp::kThreads) rows += keep == nullptr || keep[t] == 0 ? 1 : 0;
  rows = esp::block_sum(rows);
  if (threadIdx.x != 0) return;
  activity[0] = 0;
  activity[1] = rows;
  activity[2] = 0;
}

__global__ void lengthen(float *silent, const double *activity, int64_t m) {
  const float rows = static_cast<float>(activity[1]);
  ESP_FOR_EACH(i, m) {
    const float longer = silent[i] + rows;
    silent[i] = longer < kLongestSilence ? longer : kLongestSilence;
  }
}

/* A warp takes a token. */
__global__ void count_active(const int32_t *index, const float *value, const int32_t *count, int64_t capacity,
                             float *silent, double *activity, int64_t tokens) {
  const int64_t t = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  const int64_t entries = t < tokens ? count[t] : 0;
  double active = 0;
  for (int64_t j = threadIdx.x % 32; j < entries; j += 32) {
    const int64_t entry = t * capacity + j;
    if (value[entry] == 0) continue;
    active += 1;
    if (silent != nullptr) atomicExch(reinterpret_cast<int *>(silent + index[entry]), 0); /* the bits of 0.0 */
  }
  active = esp::block_sum(active);
  if (threadIdx.x == 0) atomicAdd(activity, active);
}

__global__ void count_dead(const float *silent, float limit, double *activity, int64_t m) {
  double dead = 0;
  ESP_FOR_EACH(i, m) dead += silent[i] > limit ? 1 : 0;
  dead = esp::block_sum(dead);
  if (threadIdx.x == 0) atomicAdd(activity + 2, dead);
}

__global__ void follow_silent(float *silent, const float *later, const int32_t *overflow, int64_t m) {
  if (overflow != nullptr && *overflow != 0) return;
  ESP_FOR_EACH(i, m) {
    const float longer = silent[i] + (later[i] + kLongestSilence);
    silent[i] = later[i] >= 0 ? later[i] : longer < kLongestSilence ? longer : kLongestSilence;
  }
}

/* Runs in one thread, because batches follow one another. */
__global__ void follow_smallest(float *threshold, float rate, const float *smallest, int64_t batches,
                                const int32_t *overflow) {
  if (overflow != nullptr && *overflow != 0) return;
  float at = *threshold;
  for (int64_t b = 0; b < batches; b++) {
    if (smallest[b] >= 0) at = at < 0 ? smallest[b] : at + rate * (smallest[b] - at);
  }
  *threshold = at;
}

__global__ void pull(const double *activity, float target, float *sparsity) {
  const double rows = activity[1], aim = static_cast<double>(target);
  const double excess = rows == 0 ? 0 : activity[0] / rows / aim - 1;
  sparsity[1] = rows == 0 ? 0 : static_cast<float>(2 * static_cast<double>(sparsity[2]) * excess / (aim * rows));
}

}  // namespace

int32_t esp_sae_activity(const int32_t *index, const float *value, const int32_t *count, int64_t capacity,
                         const uint8_t *keep, float *silent, float limit, double *activity, int64_t tokens, int64_t m) {
  ESP_REQUIRE(tokens >= 0 && m > 0 && capacity > 0, "bad sizes: tokens=%ld m=%ld capacity=%ld", tokens, m, capacity);
  const int64_t blocks = (tokens + kWarps - 1) / kWarps;
  int32_t status = ESP_LAUNCH(count_rows, 1, esp::kThreads, keep, activity, tokens);
  if (status == ESP_OK && silent != nullptr) {
    status = ESP_LAUNCH(lengthen, esp::blocks_for(m), esp::kThreads, silent, activity, m);
  }
  if (status == ESP_OK) {
    status = ESP_LAUNCH(count_active, blocks, esp::kThreads, index, value, count, capacity, silent, activity, tokens);
  }
  if (status == ESP_OK && silent != nullptr) {
    status = ESP_LAUNCH(count_dead, esp::blocks_for(m), esp::kThreads, silent, limit, activity, m);
  }
  return status;
}

int32_t esp_sae_follow(float *silent, float *threshold, float rate, const float *later, int64_t batches,
                       const int32_t *overflow, int64_t m) {
  ESP_REQUIRE(batches >= 0 && m > 0, "bad sizes: batches=%ld m=%ld", batches, m);
  int32_t status = ESP_LAUNCH(follow_silent, esp::blocks_for(m), esp::kThreads, silent, later, overflow, m);
  if (status == ESP_OK) status = ESP_LAUNCH(follow_smallest, 1, 1, threshold, rate, later + m, batches, overflow);
  return status;
}

int32_t esp_sae_l0_pull(const double *activity, float target, float *sparsity) {
  ESP_REQUIRE(target > 0, "a target of %g active latents", static_cast<double>(target));
  return ESP_LAUNCH(pull, 1, 1, activity, target, sparsity);
}
