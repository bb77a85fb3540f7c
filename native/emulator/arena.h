/*
 * Memory of the device that the host cannot access, for ESPALIER_EMULATOR_ACCESS=device. It is one range of addresses,
 * which is open only while a kernel, a copy or a product runs. A GPU's memory is closed to the host, too. If device
 * memory is ordinary memory of the process, a program that forgets to copy works here and crashes on a GPU.
 *
 * Cannot show: accesses by another thread of the host while the range is open.
 */
#ifndef ESPALIER_EMULATOR_ARENA_H
#define ESPALIER_EMULATOR_ARENA_H

#include <cstddef>

namespace emulator {

bool is_closed_to_host();
/* Memory aligned to a page; nullptr if the range is used up. Addresses are handed out again once all memory has been
 * given back. */
void *take_pages(size_t bytes);
void give_pages_back(void *pages, size_t bytes);

/* The range is open while at least one object of this class exists. It must be made under the emulator's lock; they may
 * be nested. */
class DeviceAccess {
 public:
  DeviceAccess();
  ~DeviceAccess();
  DeviceAccess(const DeviceAccess &) = delete;
  DeviceAccess &operator=(const DeviceAccess &) = delete;
};

}  // namespace emulator

#endif
