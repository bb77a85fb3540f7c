/* Whether this process may use the matrix unit (amx.h). */
#include "amx.h"

#include <sys/syscall.h>
#include <unistd.h>

namespace esp {
namespace amx {

#if defined(ESPALIER_MODEL_AMX)

thread_local Tile tiles[8];

bool permitted() { return true; }

#elif defined(ESPALIER_AMX)

bool permitted() {
  constexpr long kRequest = 0x1023, kTileData = 18; /* ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA (Linux 5.16) */
  return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
}

#else

bool permitted() { return false; }

#endif

}  // namespace amx
}  // namespace esp
