/* Tells AddressSanitizer about other stacks, and about memory that must not be accessed. Without it these functions do
 * nothing. */
#ifndef ESPALIER_EMULATOR_SANITIZER_H
#define ESPALIER_EMULATOR_SANITIZER_H

#include <cstddef>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulator::sanitizer {

#ifdef __SANITIZE_ADDRESS__
constexpr bool kAddress = true;
/* To be called before a switch to that stack. kept is NULL if the present stack is not used again. */
inline void leave(void **kept, const void *stack, size_t bytes) { __sanitizer_start_switch_fiber(kept, stack, bytes); }
/* To be called after a switch. old_stack and old_bytes, if not NULL, receive the stack from which it came. */
inline void enter(void *kept, const void **old_stack, size_t *old_bytes) {
  __sanitizer_finish_switch_fiber(kept, old_stack, old_bytes);
}
inline void forbid(void *memory, size_t bytes) { __asan_poison_memory_region(memory, bytes); }
inline void allow(void *memory, size_t bytes) { __asan_unpoison_memory_region(memory, bytes); }
#else
constexpr bool kAddress = false;
inline void leave(void **, const void *, size_t) {}
inline void enter(void *, const void **, size_t *) {}
inline void forbid(void *, size_t) {}
inline void allow(void *, size_t) {}
#endif

}  // namespace emulator::sanitizer

#endif
