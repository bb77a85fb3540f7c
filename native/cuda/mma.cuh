/*
 * Tensor cores: bfloat16 products with float accumulators, and the loads that feed them, for compute capability 8.0 and
 * later. On a GPU they are PTX. On the emulator they are plain loops over the lanes of a warp, with checks for all that
 * PTX leaves undefined. All lanes of a warp must call together.
 *
 * Fragments of mma.m16n8k16 (PTX ISA, "Matrix Fragments for mma.m16n8k16"), for lane l. A register holds two bfloat16;
 * its lower half is the even column of A or the even row of B.
 *
 *   A [16, 16]   register r: row = l / 4 + 8 (r % 2), columns 2 (l % 4) + {0, 1} + 8 (r / 2)
 *   B [16, 8]    register r: column = l / 4, rows 2 (l % 4) + {0, 1} + 8 r
 *   C [16, 8]    float e: row = l / 4 + 8 (e / 2), column = 2 (l % 4) + e % 2
 *
 * ldmatrix loads 8 x 8 matrices of bfloat16, whose rows have 16 bytes each. Lane l gives the address of row l % 8 of
 * matrix l / 8. Of each matrix it gets row l / 4, columns 2 (l % 4) + {0, 1}; with .trans column l / 4, rows 2 (l % 4)
 * + {0, 1}.
 *
 *   a row-major tile [16, 16], as A                     x4, from rows l % 16, columns 8 (l / 16)
 *   a tile [8, 16] of B's transpose (K in attention)    x2, from rows l % 8, columns 8 (l / 8 % 2)
 *   a row-major tile [16, 8] of B (V in attention)      x2.trans, from rows l % 16
 */
#ifndef ESPALIER_CUDA_MMA_CUH
#define ESPALIER_CUDA_MMA_CUH

#include "bf16.cuh"
#include "device.cuh"

namespace esp {

#ifdef __CUDACC__

__device__ inline uint32_t shared_address(const void *pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

__device__ inline void ldmatrix_x1(uint32_t (&r)[1], const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"
               : "=r"(r[0])
               : "r"(shared_address(row))
               : "memory");
}
__device__ inline void ldmatrix_x2(uint32_t (&r)[2], const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
}
__device__ inline void ldmatrix_x4(uint32_t (&r)[4], const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
__device__ inline void ldmatrix_x1_trans(uint32_t (&r)[1], const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];"
               : "=r"(r[0])
               : "r"(shared_address(row))
               : "memory");
}
__device__ inline void ldmatrix_x2_trans(uint32_t (&r)[2], const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
}
__device__ inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void *row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

/* c += a b */
__device__ inline void mma_m16n8k16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* Copies 16 bytes from global to shared memory, both aligned to 16. If not `valid` it writes zeros and does not read
 * source. The thread sees them once it has waited for the group that the next commit closes; other threads see them
 * after a barrier behind that wait. */
__device__ inline void cp_async_16(void *shared, const void *source, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(source),
               "r"(valid ? 16 : 0)
               : "memory");
}
__device__ inline void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/* Waits until at most N of this thread's groups are still being copied. */
template <int N>
__device__ inline void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

#else

inline void ldmatrix_x1(uint32_t (&r)[1], const void *row) { emulator::ldmatrix(r, 1, row, false); }
inline void ldmatrix_x2(uint32_t (&r)[2], const void *row) { emulator::ldmatrix(r, 2, row, false); }
inline void ldmatrix_x4(uint32_t (&r)[4], const void *row) { emulator::ldmatrix(r, 4, row, false); }
inline void ldmatrix_x1_trans(uint32_t (&r)[1], const void *row) { emulator::ldmatrix(r, 1, row, true); }
inline void ldmatrix_x2_trans(uint32_t (&r)[2], const void *row) { emulator::ldmatrix(r, 2, row, true); }
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void *row) { emulator::ldmatrix(r, 4, row, true); }
inline void mma_m16n8k16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  emulator::mma_m16n8k16(c, a, b);
}
inline void cp_async_16(void *shared, const void *source, bool valid) {
  emulator::async_copy(shared, valid ? source : nullptr);
}
inline void cp_async_commit() { emulator::async_commit(); }
template <int N>
inline void cp_async_wait() {
  emulator::async_wait(N);
}

#endif

/* Two numbers, rounded to bfloat16, as a register of a fragment. */
__device__ inline uint32_t pack(float low, float high) {
  const bf16x2 both = __floats2bfloat162_rn(low, high);
  uint32_t bits;
  memcpy(&bits, &both, sizeof bits);
  return bits;
}

/* The left operand [16, 16] from the accumulators of its left and right halves, rounded. C's layout is that of A. */
__device__ inline void pack_a(uint32_t (&a)[4], const float (&left)[4], const float (&right)[4]) {
  a[0] = pack(left[0], left[1]);
  a[1] = pack(left[2], left[3]);
  a[2] = pack(right[0], right[1]);
  a[3] = pack(right[2], right[3]);
}

}  // namespace esp

#endif
