package espalier.recipe;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import espalier.Golden;
import espalier.bindings.NativeException;
import espalier.device.CudaException;
import espalier.device.CudaOutOfMemoryException;
import espalier.device.Device;
import espalier.device.DeviceChoice;
import espalier.device.ElementType;
import espalier.device.Emulator;
import espalier.train.Schedule;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Optional;
import java.util.OptionalInt;
import java.util.Set;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.ValueSource;

/**
 * Whole training steps on a device of CUDA: captured as a graph, in both types, and with everything
 * that may fail failing, which only the emulator can be told to do.
 */
class CudaStepTest {

  private static final List<String> KINDS =
      List.of("memory", "pinned", "stream", "event", "graph", "exec", "cublas");

  private final DeviceChoice chosen = DeviceChoice.current();

  @BeforeEach
  void onlyWhereThereIsCuda() {
    assumeTrue(chosen.kind() != DeviceChoice.Kind.CPU, "the CPU has no graphs and never fails");
  }

  @AfterEach
  void restore() {
    DeviceChoice.choose(chosen);
    if (chosen.kind() == DeviceChoice.Kind.EMULATOR) {
      Emulator.reset();
      Emulator.memory(4L << 30);
    }
  }

  @ParameterizedTest
  @EnumSource(ElementType.class)
  void aReplayedStepIsBitForBitTheEagerOne(ElementType type) {
    DeviceChoice.choose(new DeviceChoice(chosen.kind(), chosen.ordinal(), type, ""));
    double[] eager;
    float[] expected;
    try (Device device = Device.open()) {
      GoldenSteps steps = new GoldenSteps(device);
      eager = steps.run(4, false);
      expected = steps.parameters();
    }
    try (Device device = Device.open()) {
      GoldenSteps steps = new GoldenSteps(device);
      assertArrayEquals(eager, steps.run(4, true));
      assertArrayEquals(expected, steps.parameters());
      assertEquals("as one CUDA graph", steps.step.describe());
    }
  }

  /** No host call but one launch: what a replayed step costs the host. */
  @Test
  void aReplayedStepIsOneLaunch() {
    onTheEmulator();
    try (Device device = Device.open()) {
      GoldenSteps steps = new GoldenSteps(device);
      steps.run(2, true);
      long launches = Emulator.calls("cudaLaunchKernel");
      long copies = Emulator.calls("cudaMemcpyAsync");
      long graphs = Emulator.calls("cudaGraphLaunch");
      steps.run(3, true);
      assertEquals(launches, Emulator.calls("cudaLaunchKernel"));
      assertEquals(copies, Emulator.calls("cudaMemcpyAsync"));
      assertEquals(graphs + 3, Emulator.calls("cudaGraphLaunch"));
    }
  }

  @Test
  void tooLittleMemoryIsSaidInFull() {
    onTheEmulator();
    Emulator.memory(72L << 20);
    try (Device device = Device.open()) {
      device.holder("weights");
      device.allocate(6L << 20);
      device.holder("activations");
      CudaOutOfMemoryException e =
          assertThrows(CudaOutOfMemoryException.class, () -> device.allocate(64L << 20));
      String said = e.getMessage();
      assertTrue(
          said.startsWith("activations: needs 0.06 GiB, 0.00 GiB of 0.07 GiB free; held: cuBLAS"),
          said);
      assertTrue(said.contains("weights 0.01 GiB"), said);
      assertTrue(said.contains("try --dtype bf16"), said);
      device.allocate(1 << 10); // what failed has left nothing behind
    }
    assertNothingLives();
  }

  @Test
  void moreThanAnyGpuHasIsRefused() {
    try (Device device = Device.open()) {
      device.holder("activations");
      CudaOutOfMemoryException e =
          assertThrows(CudaOutOfMemoryException.class, () -> device.allocate(1L << 46));
      String said = e.getMessage();
      assertTrue(said.startsWith("activations: needs 65536.00 GiB, "), said);
      assertTrue(said.contains("held: cuBLAS"), said);
      device.allocate(1 << 10); // what failed has left nothing behind
      device.synchronize();
    }
  }

  /** Before any of it is read. */
  @Test
  void aModelThatDoesNotFitIsSaidBeforeItIsLoaded() {
    onTheEmulator();
    Emulator.memory((64L << 20) + (64 << 10)); // cuBLAS's and a little more
    try (Device device = Device.open()) {
      long before = device.allocatedBytes();
      CudaOutOfMemoryException e =
          assertThrows(CudaOutOfMemoryException.class, () -> Golden.model(device, "llama"));
      assertTrue(e.getMessage().startsWith("the model's weights: needs"), e.getMessage());
      assertEquals(before, device.allocatedBytes());
    }
  }

  /**
   * Files of a model that lack most of its layers: with enough memory that is what is said, with
   * too little it is never come to, whether weights or activations do not fit.
   */
  @Test
  void aRunThatDoesNotFitIsSaidBeforeTheWeightsAreRead(@TempDir Path temp) throws IOException {
    onTheEmulator();
    Path model = Files.createDirectory(temp.resolve("model"));
    String config = Files.readString(Golden.folder("llama").resolve("config.json"));
    Files.writeString(
        model.resolve("config.json"),
        config.replace("\"num_hidden_layers\": 4", "\"num_hidden_layers\": 40"));
    Files.copy(
        Golden.folder("llama").resolve("model.safetensors"), model.resolve("model.safetensors"));
    Set<String> said = new LinkedHashSet<>();
    for (long more = 64 << 10; said.stream().noneMatch(s -> s.contains("layers.4.")); more *= 2) {
      Emulator.memory((64L << 20) + more); // cuBLAS's, and twice as much every time
      AdaptRecipe recipe = new AdaptRecipe(adapt(model, temp.resolve("out")), Console.silent());
      said.add(assertThrows(RuntimeException.class, recipe::run).getMessage());
      assertTrue(more < 4L << 30, said::toString);
    }
    assertTrue(
        said.stream().anyMatch(s -> s.startsWith("the model's weights: needs")), said::toString);
    assertTrue(
        said.stream().anyMatch(s -> s.startsWith("activations of a step: needs")), said::toString);
  }

  /** Rows so many that activations are more than the weights. */
  private static AdaptSettings adapt(Path model, Path out) {
    return new AdaptSettings(
        model,
        List.of(new SaeSpec(1, Golden.folder("sae-topk"))),
        List.of(Golden.folder("tokens.npy")),
        out,
        "lora",
        "kl",
        OptionalInt.of(4),
        8,
        0,
        "all",
        "both",
        1e-2,
        Schedule.CONSTANT,
        0,
        0,
        1,
        3,
        1,
        24,
        OptionalInt.of(1),
        7,
        Optional.empty(),
        0,
        Optional.empty(),
        RowOrdering.SHUFFLED,
        false,
        1);
  }

  /** Whatever fails first: an exception that says so, nothing leaked, and the next job runs. */
  @ParameterizedTest
  @ValueSource(
      strings = {
        "cudaMalloc:2",
        "cudaHostAlloc:2",
        "cudaMemcpyAsync:2",
        "cudaLaunchKernel:719",
        "kernel:700",
        "cudaStreamSynchronize:719",
        "cudaGraphLaunch:719",
        "cublasGemmEx:13"
      })
  void everyFailureIsTypedAndLeaksNothing(String fault) {
    onTheEmulator();
    String function = fault.substring(0, fault.indexOf(':'));
    int status = Integer.parseInt(fault.substring(fault.indexOf(':') + 1));
    int failed = 0;
    for (long nth = 1; nth <= 64; nth *= 4) {
      Emulator.reset();
      Emulator.fail(function, nth, status);
      try (Device device = Device.open()) {
        new GoldenSteps(device).run(4, true);
      } catch (CudaException | NativeException e) {
        failed++;
        assertTrue(e.getMessage().contains(":"), e.getMessage());
      }
      Emulator.reset();
      assertNothingLives();
    }
    assertTrue(failed > 0, function + " never failed");
    try (Device device = Device.open()) {
      assertTrue(Double.isFinite(new GoldenSteps(device).run(1, true)[0]));
    }
  }

  /** The work goes on call by call, with the same numbers and the reason. */
  @ParameterizedTest
  @ValueSource(strings = {"cudaStreamBeginCapture", "cudaGraphInstantiate"})
  void captureThatFailsIsSaidAndDoneWithout(String function) {
    onTheEmulator();
    double[] expected;
    try (Device device = Device.open()) {
      expected = new GoldenSteps(device).run(3, false);
    }
    Emulator.fail(function, 1, 801);
    try (Device device = Device.open()) {
      GoldenSteps steps = new GoldenSteps(device);
      assertArrayEquals(expected, steps.run(3, true));
      assertTrue(
          steps.step.describe().startsWith("call by call, as capturing failed: " + function),
          steps.step.describe());
      assertTrue(steps.step.refusal().orElseThrow().startsWith(function));
    }
  }

  private void onTheEmulator() {
    assumeTrue(
        chosen.kind() == DeviceChoice.Kind.EMULATOR,
        "a GPU does not fail, run out of memory or count calls on demand");
  }

  private static void assertNothingLives() {
    for (String kind : KINDS) {
      assertEquals(0, Emulator.live(kind), kind);
    }
  }
}
