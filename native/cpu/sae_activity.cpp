/*
 * What an SAE's training depends on from batch to batch: how many latents are active, how long each has been silent,
 * the running threshold, and the pull of the number of active latents towards its target.
 *
 * One pass over the lists and one over the latents is too little work for several threads.
 */
#include "kernel.h"

namespace {

/* Up to here all whole numbers are floats. */
constexpr float kLongestSilence = 1 << 24;

}  // namespace

int32_t esp_sae_activity(const int32_t *index, const float *value, const int32_t *count, int64_t capacity,
                         const uint8_t *keep, float *silent, float limit, double *activity, int64_t tokens, int64_t m) {
  ESP_REQUIRE(tokens >= 0 && m > 0 && capacity > 0, "bad sizes: tokens=%ld m=%ld capacity=%ld", tokens, m, capacity);
  int64_t rows = 0, active = 0, dead = 0;
  for (int64_t t = 0; t < tokens; t++) rows += keep == nullptr || keep[t] == 0 ? 1 : 0;
  if (silent != nullptr) {
    for (int64_t i = 0; i < m; i++) silent[i] = std::min(silent[i] + static_cast<float>(rows), kLongestSilence);
  }
  for (int64_t t = 0; t < tokens; t++) {
    for (int64_t at = t * capacity; at < t * capacity + count[t]; at++) {
      if (value[at] == 0) continue;
      active++;
      if (silent != nullptr) silent[index[at]] = 0;
    }
  }
  if (silent != nullptr) {
    for (int64_t i = 0; i < m; i++) dead += silent[i] > limit ? 1 : 0;
  }
  activity[0] = static_cast<double>(active);
  activity[1] = static_cast<double>(rows);
  activity[2] = static_cast<double>(dead);
  return ESP_OK;
}

int32_t esp_sae_follow(float *silent, float *threshold, float rate, const float *later, int64_t batches,
                       const int32_t *overflow, int64_t m) {
  ESP_REQUIRE(batches >= 0 && m > 0, "bad sizes: batches=%ld m=%ld", batches, m);
  if (overflow != nullptr && *overflow != 0) return ESP_OK;
  for (int64_t i = 0; i < m; i++) {
    silent[i] = later[i] < 0 ? std::min(silent[i] + (later[i] + kLongestSilence), kLongestSilence) : later[i];
  }
  for (int64_t b = 0; b < batches; b++) {
    const float smallest = later[m + b];
    if (smallest >= 0) *threshold = *threshold < 0 ? smallest : *threshold + rate * (smallest - *threshold);
  }
  return ESP_OK;
}

int32_t esp_sae_l0_pull(const double *activity, float target, float *sparsity) {
  ESP_REQUIRE(target > 0, "a target of %g active latents", static_cast<double>(target));
  const double rows = activity[1], aim = static_cast<double>(target);
  const double excess = rows == 0 ? 0 : activity[0] / rows / aim - 1;
  sparsity[1] = rows == 0 ? 0 : static_cast<float>(2 * static_cast<double>(sparsity[2]) * excess / (aim * rows));
  return ESP_OK;
}
