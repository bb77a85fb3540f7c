/*
 * Memory of the device that the host cannot reach, for ESPALIER_EMULATOR_ACCESS=device: one range of addresses, closed
 * but while a kernel, a copy or a product runs. A GPU's memory is closed to the host too; where it is the process' own,
 * a program that forgets to copy works here and crashes there.
 *
 * Cannot show: what another thread of the host touches while the range is open.
 */
#ifndef ESPALIER_EMULATOR_ARENA_H
#define ESPALIER_EMULATOR_ARENA_H

#include <cstddef>

namespace emulator {

bool is_closed_to_host();
/* Aligned to a page; nullptr if the range is used up. Addresses come again once nothing is taken any more. */
void *take_pages(size_t bytes);
void give_pages_back(void *pages, size_t bytes);

/* The range is open while one of these lives. Under the emulator's lock; they may be nested. */
class DeviceAccess {
 public:
  DeviceAccess();
  ~DeviceAccess();
  DeviceAccess(const DeviceAccess &) = delete;
  DeviceAccess &operator=(const DeviceAccess &) = delete;
};

}  // namespace emulator

#endif
