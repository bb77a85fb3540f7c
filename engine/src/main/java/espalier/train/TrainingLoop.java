package espalier.train;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.device.Device;
import java.util.Optional;

/**
 * Steps of gradient accumulation, clipping and AdamW, with metrics, evaluations, checkpoints and a
 * clean stop.
 *
 * <p>Every step is a pure function of its number and of the parameters and moments before it, so a
 * run that was interrupted and resumed repeats the uninterrupted one bit for bit.
 */
public final class TrainingLoop {

  /**
   * @param steps updates of the whole run
   * @param accumulate micro-batches an update
   * @param evaluateEvery steps between evaluations, the first before the first step and one after
   *     the last; 0 for none
   * @param checkpointEvery steps between checkpoints
   */
  public record Settings(
      long steps,
      int accumulate,
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
  private final Settings settings;
  private final Objective objective;
  private final AdamW optimizer;
  private final MetricsLog metrics;
  private final Checkpoints checkpoints;
  private final Interruption interruption;
  private long step;
  private double seconds;

  public TrainingLoop(
      Device device,
      Settings settings,
      Objective objective,
      AdamW optimizer,
      MetricsLog metrics,
      Checkpoints checkpoints,
      Interruption interruption) {
    this.device = device;
    this.settings = settings;
    this.objective = objective;
    this.optimizer = optimizer;
    this.metrics = metrics;
    this.checkpoints = checkpoints;
    this.interruption = interruption;
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
    metrics.truncateAfter(saved.isPresent() ? step : -1);
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
      boolean stop = interruption.isRequested() && step < settings.steps;
      if (stop || isDue(settings.checkpointEvery) || step == settings.steps) {
        metrics.flush();
        checkpoints.write(step, seconds, optimizer);
      }
      if (stop) {
        return End.INTERRUPTED;
      }
    }
    return End.DONE;
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
      metrics.append(line);
    }
  }

  private ObjectNode trainOneStep() {
    long start = System.nanoTime();
    var gradients = optimizer.parameters().gradients();
    device.kernels().fill(gradients.data(), 0, gradients.size());
    double loss = 0;
    for (int i = 0; i < settings.accumulate; i++) {
      loss += objective.accumulateGradients(step * settings.accumulate + i);
    }
    objective.beforeUpdate();
    double norm = optimizer.gradientNorm(device);
    if (!Double.isFinite(loss) || !Double.isFinite(norm)) {
      metrics.flush();
      throw new TrainingDivergedException(step + 1, loss, norm, checkpoints.latestFile());
    }
    double lr = settings.lr * settings.schedule.factor(step, settings.steps, settings.warmup);
    optimizer.update(device, step + 1, lr);
    objective.afterUpdate();
    step++;
    double elapsed = (System.nanoTime() - start) * 1e-9;
    seconds += elapsed;

    long tokens = objective.tokens() * settings.accumulate;
    ObjectNode line = JsonNodeFactory.instance.objectNode();
    line.put("step", step);
    line.put("tokens", step * tokens);
    objective.describe(line);
    line.put("grad_norm", norm);
    line.put("lr", lr);
    line.put("step_ms", elapsed * 1e3);
    line.put("tokens_per_second", tokens / elapsed);
    metrics.append(line);
    return line;
  }
}
