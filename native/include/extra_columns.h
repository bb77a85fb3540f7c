/* The layout in which the terms of esp_linear are more columns of its sums, as both kernel libraries recognise it.
 * Internal. */
#ifndef ESPALIER_EXTRA_COLUMNS_H
#define ESPALIER_EXTRA_COLUMNS_H

#include <cstdint>

#include "espalier.h"

namespace esp {

/* How many columns the terms add to the k of x, where they lie as ESP_EXTRA_COLUMNS needs it; -1 where they do not.
 * Elements have `bytes` bytes. */
inline int64_t extra_columns(bool transposed, int64_t k, const void *x, int64_t ldx, const void *w, int64_t ldw,
                             const esp_low_rank *terms, int32_t count, int64_t bytes) {
  int64_t columns = 0;
  for (int32_t p = 0; p < count; p++) {
    const esp_low_rank &term = terms[p];
    const int64_t at = k + columns; /* its first column of x; its column, or row, of w */
    const void *u = static_cast<const char *>(x) + bytes * at;
    const void *v = static_cast<const char *>(w) + bytes * (transposed ? term.from * ldw + at : at * ldw + term.from);
    if (term.u != u || term.v != v || term.ld_u != ldx || term.ld_v != ldw || term.scale != 1) return -1;
    columns += term.r;
  }
  return ldx >= k + columns && (!transposed || ldw >= k + columns) ? columns : -1;
}

}  // namespace esp

#endif
