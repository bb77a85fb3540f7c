package espalier.train;

import espalier.device.Device;
import espalier.device.Profile;
import java.util.ArrayList;
import java.util.List;
import java.util.function.Consumer;

/**
 * Profiles a few steps of a training loop, after the first ones, which do what later ones do not.
 * Profiling does not change the parameters.
 */
public final class StepProfiler {

  /** The first runs call by call, the second is recorded, and lists of latents may grow. */
  public static final int WARM = 3;

  /** Steps that are profiled: enough to see which figures are stable. */
  public static final int STEPS = 5;

  /**
   * @param seconds of the whole step, by the host's clock
   */
  public record Step(double seconds, List<Profile.Call> calls) {}

  private final Device device;
  private final Consumer<List<Step>> done;
  private final List<Step> steps = new ArrayList<>();
  private int seen;

  /**
   * @param done told of the steps after the last of them
   */
  public StepProfiler(Device device, Consumer<List<Step>> done) {
    this.device = device;
    this.done = done;
  }

  void begin() {
    if (isDue()) {
      device.beginProfile();
    }
  }

  /** The step is done on the device too. */
  void end(double seconds) {
    if (isDue()) {
      steps.add(new Step(seconds, device.endProfile()));
      if (steps.size() == STEPS) {
        done.accept(List.copyOf(steps));
      }
    }
    seen++;
  }

  private boolean isDue() {
    return seen >= WARM && steps.size() < STEPS;
  }
}
