/* Sums over two rows that are compared with each other. Internal. */
#ifndef ESPALIER_CPU_ROW_SUMS_H
#define ESPALIER_CPU_ROW_SUMS_H

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace esp {

/* |a - b|^2, |a|^2, |b|^2 and <a, b>. */
struct RowSums {
  double error, aa, bb, ab;

  double cosine() const { return ab / std::max(std::sqrt(aa) * std::sqrt(bb), 1e-8); }
};

template <typename T>
inline RowSums row_sums(const T *__restrict a, const T *__restrict b, int64_t d) {
  double error = 0, aa = 0, bb = 0, ab = 0;
#pragma omp simd reduction(+ : error, aa, bb, ab)
  for (int64_t c = 0; c < d; c++) {
    const double u = static_cast<double>(a[c]), w = static_cast<double>(b[c]);
    error += (u - w) * (u - w);
    aa += u * u;
    bb += w * w;
    ab += u * w;
  }
  return {error, aa, bb, ab};
}

}  // namespace esp

#endif
