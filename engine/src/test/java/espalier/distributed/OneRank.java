package espalier.distributed;

import static org.junit.jupiter.api.Assumptions.abort;
import static org.junit.jupiter.api.Assumptions.assumeFalse;

import espalier.device.Device;

/** A job of one process that talks to itself through NCCL: all that one GPU can show of several. */
public final class OneRank {

  private OneRank() {}

  /** Skips the test on the CPU, and where there is no NCCL. To be detached in the end. */
  public static Ranks on(Device device) {
    assumeFalse(device.isHost(), "NCCL connects GPUs");
    try {
      return NcclRanks.on(device, Ranks.alone());
    } catch (LaunchException e) {
      return abort(e.getMessage());
    }
  }
}
