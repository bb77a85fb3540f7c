/* wgmma for native/cuda/warpgroup.cuh, which says how operands are laid out. */
#ifndef ESPALIER_EMULATOR_WARPGROUP_H
#define ESPALIER_EMULATOR_WARPGROUP_H

#include <cstdint>

namespace emulator {

/* A product that a thread has issued. */
struct WarpgroupProduct {
  float *c; /* 4 floats for every 8 columns */
  int columns;
  bool a_in_registers;
  uint32_t registers[4];
  uint64_t a, b; /* descriptors */
  bool b_by_columns, adds;
};

/* Descriptors are as on a GPU, but with addresses relative to the block's dynamic shared memory. A tile in a __shared__
 * variable is refused. */
uint64_t descriptor(const void *tile, int leading_bytes, int stride_bytes);

/* c (+)= a b. It is computed when it is waited for, from what shared memory holds when the warp's lanes then meet. A
 * warp computes its own 16 rows, and is not checked against the other three. `a` is NULL if a_descriptor says where a
 * is. */
void warpgroup_product(float *c, int columns, const uint32_t *a, uint64_t a_descriptor, uint64_t b, bool b_by_columns,
                       bool adds);
void products_end();
void products_wait(int groups_left);

/* Makes the thread's copies to shared memory visible to the tensor cores. A product faults if copies that a thread has
 * waited for since were not made visible. */
void shared_is_written();

}  // namespace emulator

#endif
