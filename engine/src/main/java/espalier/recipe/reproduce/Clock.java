package espalier.recipe.reproduce;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.recipe.Console;
import espalier.recipe.SaeSpec;
import espalier.train.TrainingLoop;
import java.io.OutputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/**
 * Measures how long a step of each arm of a comparison takes on this machine. The arms take turns
 * in short slices, in an order that changes from round to round, so that whatever else the machine
 * does affects all of them alike. A step's time is the median over all slices. The time axis of the
 * comparison is this time multiplied by the steps that an arm has taken. So it is the time of one
 * machine even if cells ran on several.
 */
final class Clock {

  /** Steps of a slice that are not counted: while they run, caches fill and the JIT compiles. */
  private static final int WARM = 2;

  private static final int COUNTED = 4;

  private final Setup setup;
  private final Folders folders;
  private final Path scratch;
  private final Jobs quiet;

  /**
   * @param scratch where {@link #slice} leaves what it trains, until the next slice
   */
  Clock(Setup setup, Folders folders, Path scratch) {
    this.setup = setup;
    this.folders = folders;
    this.scratch = scratch;
    quiet =
        new Jobs(
            setup,
            folders,
            Console.to(
                new PrintStream(OutputStream.nullOutputStream(), false, StandardCharsets.UTF_8)));
  }

  /**
   * Lets the arms take turns.
   *
   * @return for each arm {@code step_ms}, {@code slices_ms} (the median of each slice) and {@code
   *     tokens_per_second}, and the machine's load before and after; empty if interrupted
   */
  Optional<ObjectNode> measure(Map<String, Task> arms, int rounds, Console.Progress progress) {
    ObjectNode json = JsonNodeFactory.instance.objectNode();
    json.put("load_before", Load.average());
    Map<String, List<Double>> slices = new LinkedHashMap<>();
    Map<String, List<Double>> steps = new LinkedHashMap<>();
    Map<String, Long> tokens = new HashMap<>(); // of a step
    List<String> order = new ArrayList<>(arms.keySet());
    Collections.sort(order);
    for (int round = 0; round < rounds; round++) {
      for (String arm : order) {
        Optional<double[]> times = slice(arms.get(arm), Optional.empty());
        if (times.isEmpty()) {
          return Optional.empty();
        }
        tokens.put(arm, tokensPerStep());
        slices.computeIfAbsent(arm, a -> new ArrayList<>()).add(median(times.get()));
        List<Double> all = steps.computeIfAbsent(arm, a -> new ArrayList<>());
        Arrays.stream(times.get()).forEach(all::add);
      }
      Collections.rotate(order, 1);
      progress.step(round + 1, "");
    }
    ObjectNode measured = json.putObject("arms");
    steps.forEach(
        (arm, all) -> {
          double ms = median(all.stream().mapToDouble(Double::doubleValue).toArray());
          ObjectNode fields = measured.putObject(arm).put("step_ms", ms);
          fields.put("tokens_per_second", tokens.get(arm) / ms * 1e3);
          slices.get(arm).forEach(fields.putArray("slices_ms")::add);
        });
    return Optional.of(json.put("load_after", Load.average()));
  }

  /**
   * Trains for a slice.
   *
   * @param sae replaces the SAEs that adapters are trained around
   * @return the milliseconds of each counted step; empty if interrupted
   */
  Optional<double[]> slice(Task task, Optional<Path> sae) {
    Folders.delete(scratch);
    TrainingLoop.End end =
        switch (task) {
          case Task.TrainSae train -> quiet.train(train, WARM + COUNTED, scratch);
          case Task.Adapt adapt ->
              quiet.adapt(
                  adapt,
                  adapt.saes().stream()
                      .map(
                          source ->
                              sae.map(path -> new SaeSpec(source.layer(), path))
                                  .orElseGet(() -> source.in(folders)))
                      .toList(),
                  WARM + COUNTED,
                  scratch);
          case Task.Pretrain p -> throw new IllegalArgumentException("pretraining is no arm");
          case Task.Clock c -> throw new IllegalArgumentException("a clock is no arm");
        };
    if (end == TrainingLoop.End.INTERRUPTED) {
      return Optional.empty();
    }
    double[] times =
        MetricsFile.steps(scratch).stream()
            .skip(WARM)
            .map(line -> line.get("step_ms"))
            .mapToDouble(JsonNode::doubleValue)
            .toArray();
    return Optional.of(times);
  }

  /** The tokens that a step of the last slice was trained on. */
  private long tokensPerStep() {
    return MetricsFile.tokens(MetricsFile.steps(scratch), 1);
  }

  static double median(double[] values) {
    double[] sorted = values.clone();
    Arrays.sort(sorted);
    return (sorted[(sorted.length - 1) / 2] + sorted[sorted.length / 2]) / 2;
  }
}
