package espalier.sae;

import espalier.device.Device;
import espalier.device.Transfer;
import java.lang.foreign.MemorySegment;

/** How many latents were active in the last batch, counted on the device: see esp_sae_activity. */
public final class Activity {

  private final MemorySegment counts; // float64 [3]

  Activity(Device device) {
    counts = device.allocate(3 * Double.BYTES);
    Transfer.clear(counts);
  }

  /** float64 {@code [3]}: active entries, tokens, dead latents. */
  public MemorySegment data() {
    return counts;
  }

  /** The counts as they are now, on the host. */
  public Counts read() {
    double[] values = Transfer.doubles(counts);
    return new Counts(values[0], values[1], values[2]);
  }

  /**
   * @param active entries of all tokens' lists together
   * @param tokens that the SAE was applied to
   * @param dead latents that have been silent for so long that they count as dead
   */
  public record Counts(double active, double tokens, double dead) {}
}
