package espalier.bench;

import espalier.device.Device;
import espalier.device.DeviceChoice;
import espalier.device.ElementType;
import java.util.Locale;
import java.util.concurrent.TimeUnit;
import org.openjdk.jmh.annotations.BenchmarkMode;
import org.openjdk.jmh.annotations.Fork;
import org.openjdk.jmh.annotations.Level;
import org.openjdk.jmh.annotations.Measurement;
import org.openjdk.jmh.annotations.Mode;
import org.openjdk.jmh.annotations.OutputTimeUnit;
import org.openjdk.jmh.annotations.Param;
import org.openjdk.jmh.annotations.Scope;
import org.openjdk.jmh.annotations.State;
import org.openjdk.jmh.annotations.TearDown;
import org.openjdk.jmh.annotations.Warmup;

/**
 * What all benchmarks share: the device and type that they run on, and how they are timed. Each is
 * a process of its own (a fork), as a process has one device.
 */
@State(Scope.Benchmark)
@BenchmarkMode(Mode.AverageTime)
@OutputTimeUnit(TimeUnit.MICROSECONDS)
@Fork(value = 1, jvmArgsAppend = "--enable-native-access=ALL-UNNAMED")
@Warmup(iterations = 3, time = 1)
@Measurement(iterations = 5, time = 1)
public abstract class DeviceBenchmark {

  /** {@code -p device=cuda} where there is a GPU. */
  @Param("cpu")
  public String device;

  /** Of activations and weights: {@code f32}, or {@code bf16}. */
  @Param("f32")
  public String dtype;

  private Device opened;

  final Device open() {
    ElementType type = ElementType.valueOf(dtype.toUpperCase(Locale.ROOT));
    DeviceChoice choice =
        switch (device) {
          case "cpu" -> DeviceChoice.cpu(type);
          case "cuda" -> DeviceChoice.cuda(type);
          default -> throw new IllegalArgumentException("device=" + device + ": cpu or cuda");
        };
    DeviceChoice.choose(choice);
    opened = Device.open();
    return opened;
  }

  /** Kernels of a GPU are only queued when they return. */
  final void await() {
    opened.synchronize();
  }

  @TearDown(Level.Trial)
  public void close() {
    opened.close();
  }
}
