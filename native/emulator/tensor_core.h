/* ldmatrix and mma for native/cuda/mma.cuh, which says how fragments are laid out. */
#ifndef ESPALIER_EMULATOR_TENSOR_CORE_H
#define ESPALIER_EMULATOR_TENSOR_CORE_H

#include <cstdint>

namespace emulator {

/* `matrices` is 1, 2 or 4, and there are as many registers. Refuses rows that are not in shared memory, or not aligned
 * to 16 bytes. */
void ldmatrix(uint32_t *registers, int matrices, const void *row, bool transposed);

/* c += a b, with 4 floats for c, 4 registers for a and 2 for b. Products are exact and are added in float in the order
 * of k, which is not a GPU's order. */
void mma_m16n8k16(float *c, const uint32_t *a, const uint32_t *b);

}  // namespace emulator

#endif
