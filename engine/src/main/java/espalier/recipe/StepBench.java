package espalier.recipe;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.device.Device;
import espalier.distributed.Ranks;
import espalier.train.StepProfiler;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Optional;

/**
 * Measures the step of {@code espalier adapt} on random weights and tokens: how long it takes, how
 * much memory it needs, and what share of the device's rate it reaches with the operations that the
 * algorithm needs.
 */
public final class StepBench {

  private static final int GEMM_REPEATS = 9;

  private final BenchSettings settings;
  private final Optional<Path> profile;
  private final Console console;

  /**
   * @param profile file for the time line of steps after the measured ones: see {@link
   *     ProfileReport}
   */
  public StepBench(BenchSettings settings, Optional<Path> profile, Console console) {
    this.settings = settings;
    this.profile = profile;
    this.console = console;
  }

  public ObjectNode run() {
    try (Device device = Device.open()) {
      return measure(device, RandomStep.adapt(device, settings));
    }
  }

  private ObjectNode measure(Device device, RandomStep step) {
    double[] milliseconds = new double[settings.steps()];
    double kl = 0;
    for (int i = 0; i < StepProfiler.WARM + milliseconds.length; i++) {
      ObjectNode line = step.run();
      if (i >= StepProfiler.WARM) {
        milliseconds[i - StepProfiler.WARM] = line.get("step_ms").doubleValue();
      }
      kl = line.get("kl").doubleValue();
    }
    ObjectNode result = result(device, step, milliseconds, kl);
    if (profile.isPresent()) {
      step.profile(ProfileReport.profiler(device, Ranks.alone(), profile.get(), console));
      for (int i = 0; i < StepProfiler.WARM + StepProfiler.STEPS; i++) {
        step.run();
      }
    }
    return result;
  }

  private ObjectNode result(Device device, RandomStep random, double[] milliseconds, double kl) {
    long bytes = device.allocatedBytes(); // before what measuring the rate takes
    double flops = random.adaptFlops().total();
    double[] sorted = milliseconds.clone();
    Arrays.sort(sorted);
    double step = sorted[sorted.length / 2];
    long tokens = (long) settings.batch() * settings.context();
    double rate = new Rates(device).gemm(GEMM_REPEATS);
    ObjectNode json = JsonNodeFactory.instance.objectNode();
    json.put("measured", "adapt step");
    json.put("side", "espalier");
    json.put("shape", settings.shape());
    json.put("device", device.describe());
    json.put("dtype", device.type().label());
    json.put("context", settings.context());
    json.put("batch", settings.batch());
    json.put("sae_width", settings.saeWidth());
    json.put("sae_layer", random.saeLayer());
    json.put("l0", settings.l0());
    json.put("rank", settings.rank());
    json.put("layers", settings.layers());
    json.put("steps", settings.steps());
    json.put("step_ms", step);
    json.put("fastest_ms", sorted[0]);
    json.put("slowest_ms", sorted[sorted.length - 1]);
    json.put("tokens_per_second", tokens / step * 1e3);
    json.put("peak_bytes", bytes);
    json.put("needed_tflop", flops * 1e-12);
    json.put("gemm_edge", Rates.edge());
    json.put("gemm_tflops", rate * 1e-12);
    json.put("share_of_gemm_rate", flops / (step * 1e-3) / rate);
    json.put("last_kl", kl);
    json.put("queueing", random.queueing());
    json.put("revision", Versions.revision());
    return json;
  }
}
