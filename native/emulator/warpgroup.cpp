/* A warp's last lane does the work of all (see warpgroup.h). */
#include "warpgroup.h"

#include <cstring>

#include "block.h"
#include "intrinsics.h"
#include "races.h"

namespace emulator {
namespace {

constexpr uint32_t kAll = 0xffffffffu;
constexpr int kInner = 16, kRows = 16, kMostColumns = 256;
constexpr uint64_t kSwizzle128 = 1;

struct Wait {
  Groups<WarpgroupProduct> *products;
  int left;
};

struct Operand {
  uint64_t start, leading, stride;

  explicit Operand(uint64_t descriptor)
      : start((descriptor & 0x3fff) << 4),
        leading((descriptor >> 16 & 0x3fff) << 4),
        stride((descriptor >> 32 & 0x3fff) << 4) {
    if (descriptor >> 62 != kSwizzle128) fault("wgmma of a tile without 128-byte swizzling");
    if ((descriptor >> 49 & 7) != 0) fault("wgmma of a tile with a base offset");
  }

  /* A chunk of 8 elements, 16 bytes. `offset` is where it would be without the permutation: bits 4 to 6 of the address
   * are xored with bits 7 to 9. */
  const uint16_t *chunk(uint64_t offset) const {
    const uint64_t address = start + offset, permuted = address ^ (address >> 7 & 7) << 4;
    const char *there = static_cast<const char *>(dynamic_shared()) + permuted;
    if (permuted + 16 > dynamic_shared_bytes())
      fault("wgmma reads beyond shared memory: byte %lu", static_cast<unsigned long>(permuted));
    races::read(there, 16);
    return reinterpret_cast<const uint16_t *>(there);
  }
  /* 8 elements along K, from k on, of row (or column of b) `line`, where K is contiguous. */
  const uint16_t *along_k(int line, int k) const {
    return chunk(static_cast<uint64_t>(line / 8) * stride + static_cast<uint64_t>(line % 8 * 128 + 2 * k));
  }
  /* 8 elements along N, from column n on, at k, where N is contiguous. */
  const uint16_t *along_n(int k, int n) const {
    return chunk(static_cast<uint64_t>(n / 64) * leading + static_cast<uint64_t>(n % 64 * 2 + k % 8 * 128) +
                 static_cast<uint64_t>(k / 8) * stride);
  }
};

float widened(uint16_t bits) { return bits_as<float>(static_cast<uint32_t>(bits) << 16); }

const WarpgroupProduct &of(void *const *lanes, int lane, size_t i) {
  return static_cast<Wait *>(lanes[lane])->products->items[i];
}

void multiply(void *const *lanes, size_t i) {
  float a[kRows][kInner], b[kInner][kMostColumns], c[kRows][kMostColumns];
  const WarpgroupProduct &first = of(lanes, 0, i);
  const int columns = first.columns, warp_row = static_cast<int>(first_of_warp() / kWarp % 4) * kRows;
  for (int lane = 0; lane < 32; lane++) {
    const WarpgroupProduct &own = of(lanes, lane, i);
    if (own.columns != columns || own.a_in_registers != first.a_in_registers || own.a != first.a || own.b != first.b ||
        own.b_by_columns != first.b_by_columns || own.adds != first.adds) {
      fault("lanes call different wgmma");
    }
    const int group = lane / 4, pair = 2 * (lane % 4);
    for (int r = 0; r < 4 && own.a_in_registers; r++) {
      for (int h = 0; h < 2; h++) {
        a[group + 8 * (r % 2)][pair + h + 8 * (r / 2)] =
            bits_as<float>(h == 0 ? own.registers[r] << 16 : own.registers[r] & 0xffff0000u);
      }
    }
    for (int j = 0; j < columns / 8; j++) {
      for (int e = 0; e < 4; e++) c[group + 8 * (e / 2)][8 * j + pair + e % 2] = own.adds ? own.c[4 * j + e] : 0;
    }
  }
  if (!first.a_in_registers) {
    const Operand left(first.a);
    for (int row = 0; row < kRows; row++) {
      for (int k = 0; k < kInner; k += 8) {
        const uint16_t *eight = left.along_k(warp_row + row, k);
        for (int e = 0; e < 8; e++) a[row][k + e] = widened(eight[e]);
      }
    }
  }
  const Operand right(first.b);
  if (first.b_by_columns) {
    for (int k = 0; k < kInner; k++) {
      for (int n = 0; n < columns; n += 8) {
        const uint16_t *eight = right.along_n(k, n);
        for (int e = 0; e < 8; e++) b[k][n + e] = widened(eight[e]);
      }
    }
  } else {
    for (int n = 0; n < columns; n++) {
      for (int k = 0; k < kInner; k += 8) {
        const uint16_t *eight = right.along_k(n, k);
        for (int e = 0; e < 8; e++) b[k + e][n] = widened(eight[e]);
      }
    }
  }
  for (int row = 0; row < kRows; row++) {
    for (int k = 0; k < kInner; k++) {
      for (int n = 0; n < columns; n++) c[row][n] += a[row][k] * b[k][n];
    }
  }
  for (int lane = 0; lane < 32; lane++) {
    const WarpgroupProduct &own = of(lanes, lane, i);
    for (int j = 0; j < columns / 8; j++) {
      for (int e = 0; e < 4; e++) own.c[4 * j + e] = c[lane / 4 + 8 * (e / 2)][8 * j + 2 * (lane % 4) + e % 2];
    }
  }
}

void run(void *const *lanes) {
  for (int lane = 0; lane < 32; lane++) {
    if (lanes[lane] == nullptr) fault("a lane of the warp has ended before wgmma");
  }
  const Wait &first = *static_cast<Wait *>(lanes[0]);
  for (int lane = 1; lane < 32; lane++) {
    const Wait &own = *static_cast<Wait *>(lanes[lane]);
    if (own.left != first.left || own.products->ends != first.products->ends) {
      fault("lanes wait for different wgmma");
    }
  }
  const size_t due = first.products->due(first.left);
  for (size_t i = 0; i < due; i++) multiply(lanes, i);
  for (int lane = 0; lane < 32; lane++) {
    const Wait &own = *static_cast<Wait *>(lanes[lane]);
    own.products->forget_due(own.left);
  }
}

}  // namespace

uint64_t descriptor(const void *tile, int leading_bytes, int stride_bytes) {
  const auto offset = static_cast<uint64_t>(static_cast<const char *>(tile) - static_cast<char *>(dynamic_shared()));
  if (offset >= dynamic_shared_bytes()) fault("wgmma of %p, which is not dynamic shared memory", tile);
  if (offset % 16 != 0) fault("wgmma of a tile at byte %lu, not aligned to 16", static_cast<unsigned long>(offset));
  return offset >> 4 | static_cast<uint64_t>(leading_bytes >> 4) << 16 |
         static_cast<uint64_t>(stride_bytes >> 4) << 32 | kSwizzle128 << 62;
}

void warpgroup_product(float *c, int columns, const uint32_t *a, uint64_t a_descriptor, uint64_t b, bool b_by_columns,
                       bool adds) {
  WarpgroupProduct product{c, columns, a != nullptr, {}, a_descriptor, b, b_by_columns, adds};
  if (a != nullptr) std::memcpy(product.registers, a, sizeof product.registers);
  running_products().items.push_back(product);
}

void products_end() { running_products().end_group(); }

void products_wait(int groups_left) {
  if (has_hidden_copies()) fault("wgmma beside copies to shared memory that shared_is_written() does not follow");
  Wait mine{&running_products(), groups_left};
  collective("wgmma", kAll, &mine, run);
}

}  // namespace emulator
