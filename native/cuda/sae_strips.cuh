/* Rows divided into strips of columns, one for each block. Internal. */
#ifndef ESPALIER_CUDA_SAE_STRIPS_CUH
#define ESPALIER_CUDA_SAE_STRIPS_CUH

#include "device.cuh"

namespace esp {

/* Strips of equal width, in which a thread takes one pack. There are as few as blocks of up to 512 threads allow. */
struct Strips {
  unsigned count, threads;

  Strips(int64_t d, int pack) {
    constexpr int64_t kWidest = 512;
    const int64_t packs = (d + pack - 1) / pack, strips = (packs + kWidest - 1) / kWidest;
    count = static_cast<unsigned>(strips);
    threads = static_cast<unsigned>(((packs + strips - 1) / strips + 31) / 32 * 32);
  }
};

}  // namespace esp

#endif
