package espalier.train;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.device.Device;
import espalier.distributed.Ranks;
import java.util.Arrays;
import java.util.Optional;

/**
 * Steps of gradient accumulation over one rank or several, clipping and AdamW, with metrics,
 * evaluations, checkpoints and a clean stop.
 *
 * <p>Every step is a pure function of its number and of the parameters and moments before it, so a
 * run that was interrupted and resumed repeats the uninterrupted one bit for bit.
 */
public final class TrainingLoop {

  /**
   * @param steps updates of the whole run
   * @param accumulate micro-batches an update, of each rank
   * @param order in which their gradients are added up
   * @param evaluateEvery steps between evaluations, the first before the first step and one after
   *     the last; 0 for none
   * @param checkpointEvery steps between checkpoints
   */
  public record Settings(
      long steps,
      int accumulate,
      GradientSum.Order order,
      double lr,
      Schedule schedule,
      long warmup,
      long evaluateEvery,
      long checkpointEvery) {}

  /** Whom the loop tells of its progress. */
  public interface Listener {
    /** After each step: how many are done. */
    void stepDone(long step, ObjectNode line);

    /**
     * Measures the model as it stands; the fields go into the metrics beside {@code step} and
     * {@code seconds}.
     */
    ObjectNode evaluate(long step);
  }

  /** How a run ended. */
  public enum End {
    DONE,
    INTERRUPTED
  }

  private final Device device;
  private final Ranks ranks;
  private final Settings settings;
  private final Objective objective;
  private final AdamW optimizer;
  private final Optional<MetricsLog> metrics;
  private final Checkpoints checkpoints;
  private final Interruption interruption;
  private final GradientSum sum;
  private long step;
  private double seconds;
  private boolean interrupted;

  /**
   * @param metrics of rank 0, the one that writes
   */
  public TrainingLoop(
      Device device,
      Ranks ranks,
      Settings settings,
      Objective objective,
      AdamW optimizer,
      Optional<MetricsLog> metrics,
      Checkpoints checkpoints,
      Interruption interruption) {
    this.device = device;
    this.ranks = ranks;
    this.settings = settings;
    this.objective = objective;
    this.optimizer = optimizer;
    this.metrics = metrics;
    this.checkpoints = checkpoints;
    this.interruption = interruption;
    sum =
        new GradientSum(
            device, ranks, settings.order, settings.accumulate, optimizer.parameters().gradients());
  }

  /**
   * Starts at step 0, or goes on from a checkpoint: its parameters and moments are taken over.
   * Metrics of later steps are cut off.
   */
  public void begin(Optional<Checkpoints.Saved> saved) {
    saved.ifPresent(
        from -> {
          from.restore(optimizer);
          step = from.step();
          seconds = from.seconds();
        });
    requireAlike("where to begin", step, "--out must be on a file system that all ranks share");
    metrics.ifPresent(m -> m.truncateAfter(saved.isPresent() ? step : -1));
    ranks.checkpoint(saved.map(from -> from.file().toString()).orElse(""));
  }

  /** Updates done so far. */
  public long step() {
    return step;
  }

  /** Training time so far; evaluations and checkpoints are not in it. */
  public double seconds() {
    return seconds;
  }

  /**
   * @throws TrainingDivergedException if a loss or gradient norm is not finite; the parameters are
   *     then as they were before that step
   */
  public End run(Listener listener) {
    if (step == 0) {
      evaluate(listener);
    }
    while (step < settings.steps) {
      ObjectNode line = trainOneStep();
      listener.stepDone(step, line);
      if (isDue(settings.evaluateEvery) || (settings.evaluateEvery > 0 && step == settings.steps)) {
        evaluate(listener);
      }
      boolean stop = interrupted && step < settings.steps;
      if (ranks.isFirst() && (stop || isDue(settings.checkpointEvery) || step == settings.steps)) {
        metrics.ifPresent(MetricsLog::flush);
        ranks.checkpoint(checkpoints.write(step, seconds, optimizer).toString());
      }
      if (stop) {
        return End.INTERRUPTED;
      }
    }
    return End.DONE;
  }

  /** Two ranks of one job that do not see the same would go different ways without a word. */
  private void requireAlike(String what, double own, String otherwise) {
    double[] all = ranks.gather(own);
    for (int r = 0; r < all.length; r++) {
      if (Double.compare(all[r], all[0]) != 0) {
        throw new IllegalStateException(
            "%s is %s for rank 0 and %s for rank %d: %s"
                .formatted(what, all[0], all[r], r, otherwise));
      }
    }
  }

  private boolean isDue(long every) {
    return every > 0 && step % every == 0;
  }

  private void evaluate(Listener listener) {
    if (settings.evaluateEvery > 0) {
      ObjectNode line = JsonNodeFactory.instance.objectNode();
      line.put("step", step);
      line.put("seconds", seconds);
      line.setAll(listener.evaluate(step));
      metrics.ifPresent(m -> m.append(line));
    }
  }

  private ObjectNode trainOneStep() {
    long start = System.nanoTime();
    double[] own = trainMicroBatches();
    sum.finish();
    objective.beforeUpdate();
    double norm = optimizer.gradientNorm(device);
    double[] sums = gather(own, norm);
    if (!Double.isFinite(sums[0]) || !Double.isFinite(norm)) {
      metrics.ifPresent(MetricsLog::flush);
      throw new TrainingDivergedException(step + 1, sums[0], norm, checkpoints.latestFile());
    }
    double lr = settings.lr * settings.schedule.factor(step, settings.steps, settings.warmup);
    optimizer.update(device, step + 1, lr);
    objective.afterUpdate();
    step++;
    double elapsed = (System.nanoTime() - start) * 1e-9;
    seconds += elapsed;

    long tokens = objective.tokens() * sum.microBatches();
    ObjectNode line = JsonNodeFactory.instance.objectNode();
    line.put("step", step);
    line.put("tokens", step * tokens);
    objective.describe(line, sums, sum.microBatches());
    line.put("grad_norm", norm);
    line.put("lr", lr);
    line.put("step_ms", elapsed * 1e3);
    line.put("tokens_per_second", tokens / elapsed);
    metrics.ifPresent(m -> m.append(line));
    return line;
  }

  /** This rank's micro-batches of the step; what each returns, one after another. */
  private double[] trainMicroBatches() {
    double[] all = new double[0];
    long first = step * sum.microBatches() + (long) ranks.rank() * settings.accumulate;
    for (int i = 0; i < settings.accumulate; i++) {
      sum.begin(i);
      double[] one = trainMicroBatch(first + i);
      sum.add(i);
      all = Arrays.copyOf(all, settings.accumulate * one.length);
      System.arraycopy(one, 0, all, i * one.length, one.length);
    }
    return all;
  }

  private double[] trainMicroBatch(long index) {
    double[][] result = new double[1][];
    ranks.work(() -> result[0] = objective.accumulateGradients(index));
    return result[0];
  }

  /**
   * Adds up what the micro-batches of all ranks returned, in their order, and agrees with the other
   * ranks on whether to go on.
   */
  private double[] gather(double[] own, double norm) {
    double[] message = Arrays.copyOf(own, own.length + 2);
    message[own.length] = norm;
    message[own.length + 1] = interruption.isRequested() ? 1 : 0;
    double[] all = ranks.gather(message);
    int width = own.length / settings.accumulate;
    double[] sums = new double[width];
    for (int r = 0; r < ranks.size(); r++) {
      int at = r * message.length;
      for (int i = 0; i < own.length; i++) {
        sums[i % width] += all[at + i];
      }
      if (Double.compare(all[at + own.length], norm) != 0) {
        throw new IllegalStateException(
            ("step %d: the gradient norm is %s here and %s on rank %d: ranks must run on processors"
                    + " of one kind")
                .formatted(step + 1, norm, all[at + own.length], r));
      }
      interrupted |= all[at + own.length + 1] != 0;
    }
    return sums;
  }
}
