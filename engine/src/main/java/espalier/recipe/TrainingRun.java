package espalier.recipe;

import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.device.Device;
import espalier.device.DeviceChoice;
import espalier.train.Checkpoints;
import espalier.train.StepProfiler;
import espalier.train.TrainingLoop;
import java.nio.file.Path;
import java.util.Optional;
import java.util.function.LongFunction;

/**
 * What the user sees of a training loop: its progress, and how to go on after an interruption.
 *
 * @param task name of the job
 * @param lossField field of the metrics that is shown as it falls
 * @param evaluation measures the model as it stands after a step; empty where nothing is evaluated
 * @param profiler of a few steps, on all ranks or on none: see {@link ProfileReport}
 */
record TrainingRun(
    Device device,
    String task,
    Console console,
    String lossField,
    long steps,
    Optional<LongFunction<ObjectNode>> evaluation,
    Optional<StepProfiler> profiler) {

  /**
   * Steps between evaluations, for {@link TrainingLoop.Settings}.
   *
   * @param asked as an option gives them, 0 for the first and the last only; empty where nothing is
   *     evaluated
   * @return 0 for none
   */
  static int evaluateEvery(Optional<Integer> asked, int steps) {
    return asked.map(every -> every > 0 ? every : steps).orElse(0);
  }

  TrainingLoop.End train(
      TrainingLoop loop, Optional<Checkpoints.Saved> saved, Checkpoints checkpoints, Path folder) {
    loop.begin(saved);
    profiler.ifPresent(loop::profile);
    saved.ifPresent(s -> console.info("%s: continuing after step %d".formatted(task, s.step())));
    DeviceChoice choice = DeviceChoice.current();
    String reason = choice.reason().isEmpty() ? "" : " (no GPU: " + choice.reason() + ")";
    console.info("%s: on %s%s".formatted(task, device.describe(), reason));
    if (loop.warmup() > steps) {
      console.warn(
          "--warmup %d: the run has %d steps, so that the learning rate does not get up to --lr"
              .formatted(loop.warmup(), steps));
    }
    try (Shown shown = new Shown()) {
      TrainingLoop.End end = loop.run(shown);
      loop.refusal()
          .ifPresent(
              why ->
                  console.warn("no CUDA graph could be made, so steps ran call by call: " + why));
      if (end == TrainingLoop.End.INTERRUPTED) {
        console.info(
            "%s: interrupted after step %d; %s is written, and the same command with --resume continues"
                .formatted(
                    task,
                    loop.step(),
                    checkpoints.latestFile().map(Path::toString).orElse(folder.toString())));
      }
      return end;
    }
  }

  /**
   * Shows how steps progress. How long an evaluation before the first takes tells nothing of the
   * time that is left, so it does not count.
   */
  private final class Shown implements TrainingLoop.Listener, AutoCloseable {
    private Optional<Console.Progress> progress = Optional.empty();

    @Override
    public void stepsBegin(long step) {
      progress = Optional.of(console.progress(task, step, steps));
    }

    @Override
    public void stepDone(long step, ObjectNode line) {
      progress
          .orElseThrow()
          .step(step, "%s %.4f".formatted(lossField, line.get(lossField).doubleValue()));
    }

    @Override
    public ObjectNode evaluate(long step) {
      return evaluation.orElseThrow().apply(step);
    }

    @Override
    public void close() {
      progress.ifPresent(Console.Progress::close);
    }
  }
}
