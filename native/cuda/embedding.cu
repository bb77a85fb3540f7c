/*
 * Embedding: out[t] = scale * table[ids[t]], and its gradient.
 *
 * Elements moved: 2 tokens d forward. Backward tokens d are read, and at most 2 tokens d of the gradient are read and
 * written. Bound by memory.
 *
 * Forward, a block takes a token. Backward goes without atomics and in the order of tokens: a block takes a token and a
 * strip of columns, and works only if no earlier token has the same id. Then it adds up all tokens that have this id.
 * To find them all blocks together read tokens^2 ids, from cache: 50 us at 8192 tokens (computed).
 *
 * The host cannot look at ids. An id outside the table gives NaN, which reaches the loss, and has no gradient.
 */
#include "columns.cuh"
#include "vector.cuh"

namespace {

template <typename T, int N>
__global__ void forward(const int32_t *ids, const T *table, float scale, T *out, int64_t vocab, int64_t d) {
  const int64_t t = blockIdx.x, id = ids[t];
  const bool known = id >= 0 && id < vocab;
  for (int64_t c = threadIdx.x * N; c < d; c += blockDim.x * N) {
    esp::Pack<N> row;
    if (known) {
      row = esp::load<N>(table + id * d + c);
    } else {
      for (int i = 0; i < N; i++) row[i] = nanf("");
    }
    for (int i = 0; i < N; i++) row[i] *= scale;
    esp::store(out + t * d + c, row);
  }
}

/* Whether one of ids[0, end) is `id`. All threads of the block must call it. */
__device__ bool occurs(const int32_t *ids, int64_t end, int32_t id) {
  int found = 0;
  for (int64_t t = threadIdx.x; t < end; t += esp::kThreads) found |= ids[t] == id;
  return __syncthreads_or(found) != 0;
}

template <typename T, int N>
__global__ void backward(const int32_t *ids, const T *d_out, float scale, float *d_table, int64_t tokens, int64_t vocab,
                         int64_t d) {
  const int64_t own = blockIdx.x;
  const int32_t id = ids[own];
  if (id < 0 || id >= vocab || occurs(ids, own, id)) return;
  const int64_t c = (static_cast<int64_t>(blockIdx.y) * esp::kThreads + threadIdx.x) * N;
  __shared__ uint32_t matches[esp::kThreads / 32]; /* a bit for each of the next kThreads tokens */
  double sums[N] = {};
  for (int64_t first = own; first < tokens; first += esp::kThreads) {
    const int64_t t = first + threadIdx.x;
    const uint32_t match = __ballot_sync(esp::kAllLanes, t < tokens && ids[t] == id);
    if (threadIdx.x % 32 == 0) matches[threadIdx.x / 32] = match;
    __syncthreads();
    for (int word = 0; word < esp::kThreads / 32 && c < d; word++) {
      for (uint32_t rest = matches[word]; rest != 0; rest &= rest - 1) {
        const int64_t row = first + 32 * word + __ffs(static_cast<int>(rest)) - 1;
        const esp::Pack<N> gradient = esp::load<N>(d_out + row * d + c);
        for (int i = 0; i < N; i++) sums[i] += static_cast<double>(scale * gradient[i]);
      }
    }
    __syncthreads();
  }
  if (c >= d) return;
  for (int i = 0; i < N; i++) esp::add_to(d_table[id * d + c + i], sums[i]);
}

int32_t check(int64_t tokens, int64_t vocab, int64_t d) {
  ESP_REQUIRE(tokens >= 0 && vocab > 0 && d > 0, "bad sizes: tokens=%ld vocab=%ld d=%ld", tokens, vocab, d);
  return ESP_OK;
}

}  // namespace

int32_t esp_embedding_forward(const int32_t *ids, const void *table, float scale, void *out, int64_t tokens,
                              int64_t vocab, int64_t d, int32_t dtype) {
  if (int32_t status = check(tokens, vocab, d)) return status;
  return esp::with_packs(dtype, d, {table, out}, [=](auto type, auto width) {
    using T = decltype(type);
    constexpr int N = decltype(width)::value;
    return ESP_LAUNCH((forward<T, N>), tokens, esp::threads_for_row(d, N), ids, static_cast<const T *>(table), scale,
                      static_cast<T *>(out), vocab, d);
  });
}

int32_t esp_embedding_backward(const int32_t *ids, const void *d_out, float scale, float *d_table, int64_t tokens,
                               int64_t vocab, int64_t d, int32_t dtype) {
  if (int32_t status = check(tokens, vocab, d)) return status;
  return esp::with_packs(dtype, d, {d_out}, [=](auto type, auto width) {
    using T = decltype(type);
    constexpr int N = decltype(width)::value;
    const dim3 grid(esp::grid_of(tokens).x, esp::grid_of((d + esp::kThreads * N - 1) / (esp::kThreads * N)).x);
    return ESP_LAUNCH((backward<T, N>), grid, esp::kThreads, ids, static_cast<const T *>(d_out), scale, d_table, tokens,
                      vocab, d);
  });
}
