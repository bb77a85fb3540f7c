package espalier.bench;

import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.device.Device;
import espalier.recipe.BenchSettings;
import espalier.recipe.RandomStep;
import java.util.OptionalInt;
import java.util.concurrent.TimeUnit;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.Level;
import org.openjdk.jmh.annotations.OutputTimeUnit;
import org.openjdk.jmh.annotations.Param;
import org.openjdk.jmh.annotations.Setup;

/**
 * A whole step, from token ids to the update: of adapting the model around an SAE, and of training
 * that SAE end to end, on random weights. The latter is float32 only.
 */
@OutputTimeUnit(TimeUnit.MILLISECONDS)
public class StepBenchmark extends DeviceBenchmark {

  /** What learns. */
  public enum Kind {
    ADAPT,
    E2E
  }

  @Param({"ADAPT", "E2E"})
  Kind kind;

  /** Of {@code espalier bench --shape}. */
  @Param("gemma-like")
  String shape;

  @Param("512")
  int context;

  @Param("8192")
  int saeWidth;

  @Param("32")
  int l0;

  @Param("16")
  int rank;

  private RandomStep step;

  @Setup(Level.Trial)
  public void allocate() {
    BenchSettings settings =
        new BenchSettings(shape, context, 1, saeWidth, OptionalInt.empty(), rank, "after", l0, 1);
    Device device = open();
    step =
        switch (kind) {
          case ADAPT -> RandomStep.adapt(device, settings);
          case E2E -> RandomStep.endToEnd(device, settings);
        };
  }

  /** Waits for the device by itself. */
  @Benchmark
  public ObjectNode step() {
    return step.run();
  }
}
