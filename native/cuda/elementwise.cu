/*
 * Elementwise operations, reductions and dropout, as in cpu/elementwise.cpp. Bound by memory: 1 to 3 elements are moved
 * for each element of the result.
 *
 * Threads take packs of 16 bytes, so that a warp reads 512 bytes in a row; a thread's packs are one grid apart. Where a
 * flag or a vector belongs to a row, a block takes a row. Sums are made in float64 and in a fixed order: columns.cuh
 * and sums.cuh. Dropout needs two 64-bit products an element, which takes about as long as its memory accesses.
 */
#include "columns.cuh"
#include "sums.cuh"

namespace {

template <int N>
__global__ void fill(float *x, float value, int64_t n) {
  esp::Pack<N> pack;
  for (int i = 0; i < N; i++) pack[i] = value;
  ESP_FOR_EACH(p, n / N) esp::store(x + p * N, pack);
}

template <typename T, int N>
__global__ void copy(const T *x, T *out, int64_t n) {
  ESP_FOR_EACH(p, n / N) esp::store(out + p * N, esp::load<N>(x + p * N));
}

/* out = alpha x + y. out may be x or y: each element is read before it is written, and is not needed for any other. */
template <typename T, int N>
__global__ void add(float alpha, const T *x, const T *y, T *out, int64_t n) {
  ESP_FOR_EACH(p, n / N) {
    const esp::Pack<N> a = esp::load<N>(x + p * N);
    esp::Pack<N> b = esp::load<N>(y + p * N);
    for (int i = 0; i < N; i++) b[i] += alpha * a[i];
    esp::store(out + p * N, b);
  }
}

template <typename T, int N>
__global__ void fill_rows(const float *row, T *out, int64_t cols) {
  for (int64_t c = threadIdx.x * N; c < cols; c += blockDim.x * N) {
    esp::store(out + blockIdx.x * cols + c, esp::load<N>(row + c));
  }
}

template <typename T>
__global__ void column_sum(const T *x, int64_t ldx, const uint8_t *skip, float alpha, float *out, int64_t rows,
                           int64_t cols) {
  esp::column_sums<1>(
      rows, cols,
      [=](int64_t r, int64_t c, double(&sums)[1]) {
        if (skip == nullptr || skip[r] == 0) sums[0] += static_cast<double>(esp::to_float(x[r * ldx + c]));
      },
      [=](int64_t c, const double(&sums)[1]) { esp::add_to(out[c], static_cast<double>(alpha) * sums[0]); });
}

struct Itself {
  __device__ double operator()(float x) const { return static_cast<double>(x); }
};

struct StoreSum {
  double *out;
  bool accumulate;
  __device__ void operator()(double sum) const { *out = accumulate ? *out + sum : sum; }
};

/* The output function of SplitMix64 (Steele, Lea & Flood 2014). */
__host__ __device__ inline uint64_t mix(uint64_t z) {
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

/* Where element i of all is, in rows of `cols` elements that are `ld` apart. */
struct RowsApart {
  int64_t cols, ld;
  __device__ int64_t operator()(int64_t i) const { return cols == ld ? i : i / cols * ld + i % cols; }
};

template <typename T, int N>
__global__ void dropout(const T *x, RowsApart of_x, T *out, int64_t n, uint32_t threshold, float scale,
                        const uint64_t *seed, uint64_t stream, bool accumulate) {
  const uint64_t step = 0x9e3779b97f4a7c15u, start = mix(seed[0] + mix(stream + step));
  ESP_FOR_EACH(p, n / N) {
    const esp::Pack<N> in = esp::load<N>(x + of_x(p * N));
    esp::Pack<N> result{};
    if (accumulate) result = esp::load<N>(out + p * N);
    for (int i = 0; i < N; i++) {
      const bool keep = mix(start + static_cast<uint64_t>(p * N + i) * step) >> 32 >= threshold;
      result[i] += keep ? in[i] * scale : 0.0f;
    }
    esp::store(out + p * N, result);
  }
}

/* The upper 24 bits of an output of SplitMix64 choose one of the odd numbers between -2^24 and 2^24, all of which are
 * floats. */
template <typename T, int N>
__global__ void fill_uniform(T *x, RowsApart of_x, float unit, uint64_t start, int64_t n) {
  const uint64_t step = 0x9e3779b97f4a7c15u;
  ESP_FOR_EACH(p, n / N) {
    esp::Pack<N> pack;
    for (int i = 0; i < N; i++) {
      const auto bits = static_cast<int32_t>(mix(start + static_cast<uint64_t>(p * N + i) * step) >> 40);
      pack[i] = static_cast<float>(2 * bits + 1 - (1 << 24)) * unit;
    }
    esp::store(x + of_x(p * N), pack);
  }
}

int32_t check_rows(int64_t rows, int64_t cols, int64_t ld) {
  ESP_REQUIRE(rows >= 0 && cols >= 0, "sizes must not be negative: rows=%ld cols=%ld", rows, cols);
  ESP_REQUIRE(ld >= cols, "ldx=%ld is shorter than a row of %ld", ld, cols);
  return ESP_OK;
}

/* What must be a multiple of a pack: the number of all elements if rows lie one after another, otherwise both the
 * length of a row and ld. */
int64_t pack_length(int64_t rows, int64_t cols, int64_t ld) { return ld == cols ? rows * cols : cols | ld; }

}  // namespace

int32_t esp_fill(float *x, float value, int64_t n) {
  ESP_REQUIRE(n >= 0, "n must not be negative, got %ld", n);
  constexpr int N = esp::kPack<float>;
  return esp::in_packs<float>(n, {x}) ? ESP_LAUNCH(fill<N>, esp::blocks_for(n / N), esp::kThreads, x, value, n)
                                      : ESP_LAUNCH(fill<1>, esp::blocks_for(n), esp::kThreads, x, value, n);
}

int32_t esp_copy(const void *x, void *out, int64_t n, int32_t dtype) {
  ESP_REQUIRE(n >= 0, "n must not be negative, got %ld", n);
  return esp::with_packs(dtype, n, {x, out}, [=](auto type, auto width) {
    using T = decltype(type);
    constexpr int N = decltype(width)::value;
    return ESP_LAUNCH((copy<T, N>), esp::blocks_for(n / N), esp::kThreads, static_cast<const T *>(x),
                      static_cast<T *>(out), n);
  });
}

int32_t esp_add(const void *x, const void *y, void *out, int64_t n, int32_t dtype) {
  ESP_REQUIRE(n >= 0, "n must not be negative, got %ld", n);
  return esp::with_packs(dtype, n, {x, y, out}, [=](auto type, auto width) {
    using T = decltype(type);
    constexpr int N = decltype(width)::value;
    return ESP_LAUNCH((add<T, N>), esp::blocks_for(n / N), esp::kThreads, 1.0f, static_cast<const T *>(x),
                      static_cast<const T *>(y), static_cast<T *>(out), n);
  });
}

int32_t esp_axpy(float alpha, const void *x, void *y, int64_t n, int32_t dtype) {
  ESP_REQUIRE(n >= 0, "n must not be negative, got %ld", n);
  return esp::with_packs(dtype, n, {x, y}, [=](auto type, auto width) {
    using T = decltype(type);
    constexpr int N = decltype(width)::value;
    return ESP_LAUNCH((add<T, N>), esp::blocks_for(n / N), esp::kThreads, alpha, static_cast<const T *>(x),
                      static_cast<const T *>(y), static_cast<T *>(y), n);
  });
}

int32_t esp_fill_rows(const float *row, void *out, int64_t rows, int64_t cols, int32_t dtype) {
  ESP_REQUIRE(rows >= 0 && cols > 0, "bad sizes: rows=%ld cols=%ld", rows, cols);
  return esp::with_packs(dtype, cols, {row, out}, [=](auto type, auto width) {
    using T = decltype(type);
    constexpr int N = decltype(width)::value;
    return ESP_LAUNCH((fill_rows<T, N>), rows, esp::threads_for_row(cols, N), row, static_cast<T *>(out), cols);
  });
}

int32_t esp_column_sum(const void *x, int64_t ldx, const uint8_t *skip, float alpha, float *out, int64_t rows,
                       int64_t cols, int32_t dtype) {
  ESP_REQUIRE(rows >= 0 && cols >= 0, "sizes must not be negative: rows=%ld cols=%ld", rows, cols);
  ESP_REQUIRE(ldx >= cols, "ldx=%ld is shorter than a row of %ld", ldx, cols);
  return esp::with_type(dtype, [=](auto type) {
    using T = decltype(type);
    return ESP_LAUNCH(column_sum<T>, esp::strips_of(cols), esp::kStripThreads, static_cast<const T *>(x), ldx, skip,
                      alpha, out, rows, cols);
  });
}

int32_t esp_sum(const float *x, int64_t n, double *out, int32_t accumulate) {
  ESP_REQUIRE(n >= 0, "n must not be negative, got %ld", n);
  return esp::sum_terms(x, n, Itself{}, StoreSum{out, accumulate != 0});
}

int32_t esp_fill_uniform(void *x, int64_t ldx, float bound, uint64_t seed, int64_t rows, int64_t cols, int32_t dtype) {
  if (int32_t status = check_rows(rows, cols, ldx)) return status;
  const uint64_t start = mix(seed + 0x9e3779b97f4a7c15u);
  const int64_t n = rows * cols;
  return esp::with_packs(dtype, pack_length(rows, cols, ldx), {x}, [=](auto type, auto width) {
    using T = decltype(type);
    constexpr int N = decltype(width)::value;
    return ESP_LAUNCH((fill_uniform<T, N>), esp::blocks_for(n / N), esp::kThreads, static_cast<T *>(x),
                      RowsApart{cols, ldx}, bound * 0x1p-24f, start, n);
  });
}

int32_t esp_dropout(const void *x, int64_t ldx, void *out, int64_t rows, int64_t cols, float p, const uint64_t *seed,
                    uint64_t stream, int32_t accumulate, int32_t dtype) {
  if (int32_t status = check_rows(rows, cols, ldx)) return status;
  ESP_REQUIRE(p >= 0 && p < 1, "p must be in [0, 1), got %g", static_cast<double>(p));
  const uint32_t threshold = static_cast<uint32_t>(static_cast<double>(p) * 4294967296.0);
  const float scale = static_cast<float>(1 / (1 - static_cast<double>(p)));
  const int64_t n = rows * cols;
  return esp::with_packs(dtype, pack_length(rows, cols, ldx), {x, out}, [=](auto type, auto width) {
    using T = decltype(type);
    constexpr int N = decltype(width)::value;
    return ESP_LAUNCH((dropout<T, N>), esp::blocks_for(n / N), esp::kThreads, static_cast<const T *>(x),
                      RowsApart{cols, ldx}, static_cast<T *>(out), n, threshold, scale, seed, stream, accumulate != 0);
  });
}
