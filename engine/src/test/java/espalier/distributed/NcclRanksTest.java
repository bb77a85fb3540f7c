package espalier.distributed;

import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assumptions.abort;
import static org.junit.jupiter.api.Assumptions.assumeFalse;

import espalier.bindings.Availability;
import espalier.bindings.NativeLibraries;
import espalier.device.Device;
import espalier.device.DeviceChoice;
import org.junit.jupiter.api.Test;

class NcclRanksTest {

  /** The class is there before the library is: without one nothing else than this may be said. */
  @Test
  void missingNcclIsSaid() {
    assumeFalse(
        DeviceChoice.current().kind() == DeviceChoice.Kind.EMULATOR, "the emulator has a stand-in");
    if (!(NativeLibraries.nccl() instanceof Availability.Unavailable missing)) {
      abort("NCCL is here");
      return;
    }
    try (Device device = Device.open()) {
      LaunchException e =
          assertThrows(LaunchException.class, () -> NcclRanks.on(device, Ranks.alone()));
      assertTrue(e.getMessage().endsWith(missing.reason()), e.getMessage());
    }
  }
}
