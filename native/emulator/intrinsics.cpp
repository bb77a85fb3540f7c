/* The parts of intrinsics.h that races.h must not take for plain loads and stores, or that several lanes share. */
#include "intrinsics.h"

#include <cstdint>

#include "races.h"

namespace emulator {
namespace {

struct Vote {
  bool predicate;
  uint32_t result;
};

/* Any operation on a word, by compare-and-swap of its bits. */
template <typename T, typename Operation>
T update(T *address, Operation operation) {
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  if (reinterpret_cast<uintptr_t>(address) % sizeof(T) != 0)
    fault("an atomic at %p is not aligned", static_cast<void *>(address));
  races::atomic(address, sizeof(T));
  auto *word = reinterpret_cast<Bits *>(address);
  Bits before = __atomic_load_n(word, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(word, &before, bits_as<Bits>(operation(bits_as<T>(before))), false,
                                      __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return bits_as<T>(before);
}

template <typename T>
T add(T *address, T value) {
  return update(address, [=](T x) { return x + value; });
}

template <typename T>
T swap_if(T *address, T expected, T value) {
  return update(address, [=](T x) { return x == expected ? value : x; });
}

}  // namespace

uint32_t ballot(const char *name, uint32_t mask, bool predicate) {
  Vote vote{predicate, 0};
  collective(name, mask, &vote, [](void *const *lanes) {
    uint32_t bits = 0;
    for (unsigned lane = 0; lane < kWarp; lane++) {
      const auto *own = static_cast<const Vote *>(lanes[lane]);
      if (own != nullptr && own->predicate) bits |= 1u << lane;
    }
    for (unsigned lane = 0; lane < kWarp; lane++) {
      if (lanes[lane] != nullptr) static_cast<Vote *>(lanes[lane])->result = bits;
    }
  });
  return vote.result;
}

void warp_barrier(uint32_t mask) {
  char here;
  collective("__syncwarp", mask, &here, [](void *const *lanes) {
    uint32_t present = 0;
    for (unsigned lane = 0; lane < kWarp; lane++) present |= lanes[lane] != nullptr ? 1u << lane : 0u;
    races::warp_barrier(present);
  });
}

}  // namespace emulator

int atomicAdd(int *address, int value) { return emulator::add(address, value); }
unsigned atomicAdd(unsigned *address, unsigned value) { return emulator::add(address, value); }
unsigned long long atomicAdd(unsigned long long *address, unsigned long long value) {
  return emulator::add(address, value);
}
float atomicAdd(float *address, float value) { return emulator::add(address, value); }
double atomicAdd(double *address, double value) { return emulator::add(address, value); }
int atomicMax(int *address, int value) {
  return emulator::update(address, [=](int x) { return x < value ? value : x; });
}
unsigned atomicMax(unsigned *address, unsigned value) {
  return emulator::update(address, [=](unsigned x) { return x < value ? value : x; });
}
int atomicMin(int *address, int value) {
  return emulator::update(address, [=](int x) { return value < x ? value : x; });
}
unsigned atomicMin(unsigned *address, unsigned value) {
  return emulator::update(address, [=](unsigned x) { return value < x ? value : x; });
}
int atomicCAS(int *address, int expected, int value) { return emulator::swap_if(address, expected, value); }
unsigned atomicCAS(unsigned *address, unsigned expected, unsigned value) {
  return emulator::swap_if(address, expected, value);
}
unsigned long long atomicCAS(unsigned long long *address, unsigned long long expected, unsigned long long value) {
  return emulator::swap_if(address, expected, value);
}
int atomicExch(int *address, int value) {
  return emulator::update(address, [=](int) { return value; });
}
unsigned atomicExch(unsigned *address, unsigned value) {
  return emulator::update(address, [=](unsigned) { return value; });
}
int atomicOr(int *address, int value) {
  return emulator::update(address, [=](int x) { return x | value; });
}
unsigned atomicOr(unsigned *address, unsigned value) {
  return emulator::update(address, [=](unsigned x) { return x | value; });
}
