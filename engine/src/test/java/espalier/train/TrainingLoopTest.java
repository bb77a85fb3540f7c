package espalier.train;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.autograd.ParameterSet;
import espalier.device.Device;
import espalier.distributed.Ranks;
import java.io.IOException;
import java.lang.foreign.MemorySegment;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Optional;
import java.util.function.LongConsumer;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** When a loop evaluates and writes checkpoints, and that no way to stop it changes its course. */
class TrainingLoopTest {

  private static final int STEPS = 5;

  @TempDir private Path temp;

  /** Gradients that are 1 everywhere. */
  private record Slope(Device device, ParameterSet parameters) implements Objective {
    @Override
    public long tokens() {
      return 1;
    }

    @Override
    public int numbers() {
      return 1;
    }

    @Override
    public void prepare(long index, int slot) {}

    @Override
    public void accumulate(int slot, MemorySegment numbers) {
      device.kernels().fill(parameters.gradients().data(), 1, parameters.size());
      device.kernels().fill(numbers, 0, Double.BYTES / Float.BYTES);
    }

    @Override
    public void grow(int entries) {}

    @Override
    public void describe(ObjectNode line, double[] sums, long microBatches) {}
  }

  /** What a test does before the steps, after each, and in each evaluation. */
  private record Meanwhile(LongConsumer stepsBegin, LongConsumer stepDone, LongConsumer evaluate)
      implements TrainingLoop.Listener {

    static final Meanwhile NOTHING = new Meanwhile(step -> {}, step -> {});

    Meanwhile(LongConsumer stepDone, LongConsumer evaluate) {
      this(step -> {}, stepDone, evaluate);
    }

    @Override
    public void stepsBegin(long step) {
      stepsBegin.accept(step);
    }

    @Override
    public void stepDone(long step, ObjectNode line) {
      stepDone.accept(step);
    }

    @Override
    public ObjectNode evaluate(long step) {
      evaluate.accept(step);
      return JsonNodeFactory.instance.objectNode().put("measured", step);
    }
  }

  private TrainingLoop.End run(String name, Interruption interruption, Meanwhile meanwhile)
      throws IOException {
    Path folder = Files.createDirectories(temp.resolve(name));
    try (Device device = Device.open();
        MetricsLog metrics = new MetricsLog(folder.resolve("metrics.jsonl"))) {
      ParameterSet parameters =
          new ParameterSet(device, List.of(new ParameterSet.Shape("x", 1, 8)));
      Checkpoints checkpoints = new Checkpoints(folder, "the same");
      TrainingLoop loop =
          new TrainingLoop(
              device,
              Ranks.alone(),
              new TrainingLoop.Settings(
                  STEPS, 1, GradientSum.Order.FIXED, 0.1, Schedule.LINEAR, 0, 2, 4),
              new Slope(device, parameters),
              AdamW.create(device, parameters, AdamW.Hyperparameters.of(0, 0)),
              Optional.of(metrics),
              checkpoints,
              interruption);
      loop.begin(checkpoints.latest());
      return loop.run(meanwhile);
    }
  }

  private void finish(String name) throws IOException {
    assertEquals(
        TrainingLoop.End.DONE, run(name, new Interruption(), Meanwhile.NOTHING), "goes on");
  }

  /** All lines, without what depends on the clock. */
  private List<ObjectNode> metrics(String name) throws IOException {
    List<ObjectNode> lines = new ArrayList<>();
    for (String line : Files.readAllLines(temp.resolve(name).resolve("metrics.jsonl"))) {
      ObjectNode node = (ObjectNode) new ObjectMapper().readTree(line);
      node.remove(List.of("step_ms", "tokens_per_second", "seconds"));
      lines.add(node);
    }
    return lines;
  }

  private Path checkpoint(String name, long step) {
    return temp.resolve(name).resolve("step-00000" + step + ".safetensors");
  }

  private void assertTheSameRun(String name) throws IOException {
    finish("whole");
    assertEquals(metrics("whole"), metrics(name));
    assertArrayEquals(parameters("whole"), parameters(name));
  }

  /** Of the last checkpoint, whose metadata tell the time. */
  private byte[] parameters(String name) throws IOException {
    byte[] file = Files.readAllBytes(checkpoint(name, STEPS));
    int numbers = 3 * 8 * Float.BYTES;
    return Arrays.copyOfRange(file, file.length - numbers, file.length);
  }

  @Test
  void evaluatesFirstAndLastAndInBetween() throws IOException {
    finish("run");
    assertEquals(
        List.of(0, 2, 4, 5),
        metrics("run").stream()
            .filter(line -> line.has("measured"))
            .map(line -> line.get("step").intValue())
            .toList());
  }

  @Test
  void stepsBeginAfterTheEvaluationBeforeThem() throws IOException {
    List<String> seen = new ArrayList<>();
    Meanwhile meanwhile =
        new Meanwhile(
            step -> seen.add("begin " + step),
            step -> seen.add("step " + step),
            step -> seen.add("evaluation " + step));
    run("run", new Interruption(), meanwhile);
    assertEquals(
        List.of("evaluation 0", "begin 0", "step 1", "step 2", "evaluation 2"), seen.subList(0, 5));
  }

  /** Asked for after a step or in an evaluation, a stop leaves a checkpoint of where it is. */
  @ParameterizedTest
  @CsvSource({
    "false, 1, 2", // the evaluation after step 2 is left out
    "false, 2, 2", // it is cut short
    "true, 2, 2",
    "false, 3, 4",
    "false, 4, 4",
    "true, 0, 0",
    "false, 5, 5",
    "true, 5, 5",
  })
  void aRunThatIsStoppedGoesOnAsIfNothingHadHappened(boolean inEvaluation, long at, long stopped)
      throws IOException {
    Interruption interruption = new Interruption();
    LongConsumer ask =
        step -> {
          if (step == at) {
            interruption.request();
          }
        };
    Meanwhile meanwhile =
        new Meanwhile(
            inEvaluation ? step -> {} : ask,
            step -> {
              if (inEvaluation) {
                ask.accept(step);
              }
              if (interruption.isRequested()) {
                throw new StoppedException();
              }
            });
    assertEquals(TrainingLoop.End.INTERRUPTED, run("run", interruption, meanwhile));
    assertTrue(Files.exists(checkpoint("run", stopped)));
    assertFalse(
        metrics("run").stream()
            .anyMatch(line -> line.has("measured") && line.get("step").longValue() == stopped));
    finish("run");
    assertTheSameRun("run");
  }

  @Test
  void anEvaluationThatDiesLosesNoStep() throws IOException {
    Meanwhile meanwhile =
        new Meanwhile(
            step -> {},
            step -> {
              if (step == 4) {
                throw new IllegalStateException("dies");
              }
            });
    assertThrows(IllegalStateException.class, () -> run("run", new Interruption(), meanwhile));
    assertTrue(Files.exists(checkpoint("run", 4)));
    finish("run");
    assertTheSameRun("run");
  }

  /** A line that was written in time is not written again. */
  @Test
  void whatWasEvaluatedIsNotEvaluatedAgain() throws IOException {
    finish("run");
    Files.delete(checkpoint("run", STEPS));
    List<Long> again = new ArrayList<>();
    run("run", new Interruption(), new Meanwhile(step -> {}, again::add));
    assertEquals(List.of(5L), again);
    assertTheSameRun("run");
  }

  @Test
  void aStopInTheLastStepIsTooLateWhereNothingIsLeftToDo() throws IOException {
    finish("run");
    Interruption interruption = new Interruption();
    interruption.request();
    assertEquals(TrainingLoop.End.DONE, run("run", interruption, Meanwhile.NOTHING));
  }
}
