/* A warp's last lane does the work of all (see tensor_core.h). */
#include "tensor_core.h"

#include <cstring>

#include "block.h"
#include "intrinsics.h"
#include "races.h"

namespace emulator {
namespace {

constexpr uint32_t kAll = 0xffffffffu;

struct Load {
  uint32_t *registers;
  int matrices;
  const void *row;
  bool transposed;
};

struct Product {
  float *c;
  const uint32_t *a, *b;
};

template <typename T>
T &of(void *const *lanes, int lane) {
  if (lanes[lane] == nullptr) fault("a lane of the warp has ended before ldmatrix or mma");
  return *static_cast<T *>(lanes[lane]);
}

float half(uint32_t pair, int which) { return bits_as<float>(which == 0 ? pair << 16 : pair & 0xffff0000u); }

void load(void *const *lanes) {
  uint16_t matrix[8][8];
  const Load &first = of<Load>(lanes, 0);
  for (int m = 0; m < first.matrices; m++) {
    for (int r = 0; r < 8; r++) {
      const void *row = of<Load>(lanes, 8 * m + r).row;
      if (!is_shared(row, 16)) fault("ldmatrix of %p, which is not shared memory", row);
      if (reinterpret_cast<uintptr_t>(row) % 16 != 0) fault("ldmatrix of %p: not aligned to 16 bytes", row);
      races::read(row, 16);
      std::memcpy(matrix[r], row, 16);
    }
    for (int lane = 0; lane < 32; lane++) {
      const Load &own = of<Load>(lanes, lane);
      if (own.matrices != first.matrices || own.transposed != first.transposed) fault("lanes call different ldmatrix");
      const int r = lane / 4, c = 2 * (lane % 4);
      const uint32_t low = own.transposed ? matrix[c][r] : matrix[r][c];
      const uint32_t high = own.transposed ? matrix[c + 1][r] : matrix[r][c + 1];
      own.registers[m] = low | high << 16;
    }
  }
}

void multiply(void *const *lanes) {
  float a[16][16], b[16][8], c[16][8];
  for (int lane = 0; lane < 32; lane++) {
    const Product &own = of<Product>(lanes, lane);
    const int group = lane / 4, pair = 2 * (lane % 4);
    for (int r = 0; r < 4; r++) {
      for (int h = 0; h < 2; h++) a[group + 8 * (r % 2)][pair + h + 8 * (r / 2)] = half(own.a[r], h);
    }
    for (int r = 0; r < 2; r++) {
      for (int h = 0; h < 2; h++) b[pair + h + 8 * r][group] = half(own.b[r], h);
    }
    for (int e = 0; e < 4; e++) c[group + 8 * (e / 2)][pair + e % 2] = own.c[e];
  }
  for (int row = 0; row < 16; row++) {
    for (int k = 0; k < 16; k++) {
      for (int column = 0; column < 8; column++) c[row][column] += a[row][k] * b[k][column];
    }
  }
  for (int lane = 0; lane < 32; lane++) {
    const Product &own = of<Product>(lanes, lane);
    for (int e = 0; e < 4; e++) own.c[e] = c[lane / 4 + 8 * (e / 2)][2 * (lane % 4) + e % 2];
  }
}

}  // namespace

void ldmatrix(uint32_t *registers, int matrices, const void *row, bool transposed) {
  Load mine{registers, matrices, row, transposed};
  collective("ldmatrix", kAll, &mine, load);
}

void mma_m16n8k16(float *c, const uint32_t *a, const uint32_t *b) {
  Product mine{c, a, b};
  collective("mma", kAll, &mine, multiply);
}

}  // namespace emulator
