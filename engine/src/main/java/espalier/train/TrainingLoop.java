package espalier.train;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.device.Control;
import espalier.device.Device;
import espalier.device.Replay;
import espalier.distributed.Ranks;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
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
   * @param accumulate micro-batches of an update, on each rank
   * @param order in which their gradients are added up
   * @param lr peak learning rate
   * @param warmup updates over which the learning rate rises to its peak
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
    /**
     * Called once before the steps, after the evaluation that comes before them.
     *
     * @param step how many steps are done
     */
    void stepsBegin(long step);

    /**
     * Called after each step.
     *
     * @param step how many steps are done
     * @param line the step's metrics
     */
    void stepDone(long step, ObjectNode line);

    /**
     * Measures the model as it stands; the fields go into the metrics beside {@code step} and
     * {@code seconds}.
     *
     * @throws StoppedException on all ranks alike, if the user wants the run to stop meanwhile
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
  private final Replay gradients; // alone on one rank: the whole step
  private final Replay update;
  private final MemorySegment numbers; // float64 [accumulate, objective.numbers()]
  private final MemorySegment numbersOnHost;
  private long step;
  private double seconds;
  private boolean interrupted;
  private long evaluated = -1; // the last step that was
  private long saved = -1; // the last step with a checkpoint
  private Optional<StepProfiler> profiler = Optional.empty();

  /**
   * @param metrics where rank 0 writes; empty on the others
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
    gradients = device.replay(ranks.size() == 1 ? this::queueStep : this::queueGradients);
    update = device.replay(this::queueUpdate);
    long bytes = (long) settings.accumulate * objective.numbers() * Double.BYTES;
    numbers = device.allocate(bytes);
    numbersOnHost = device.allocateStaging(bytes);
  }

  /**
   * Starts at step 0, or goes on from a checkpoint: its parameters and moments are taken over.
   * Metrics of later steps are cut off.
   */
  public void begin(Optional<Checkpoints.Saved> start) {
    start.ifPresent(
        from -> {
          from.restore(optimizer);
          optimizer.parameters().round(device.kernels());
          step = from.step();
          saved = step;
          seconds = from.seconds();
        });
    requireAlike("where to begin", step, "--out must be on a file system that all ranks share");
    metrics.ifPresent(m -> m.truncateAfter(start.isPresent() ? step : -1));
    evaluated = (long) ranks.gather(metrics.map(MetricsLog::lastEvaluation).orElse(-1L))[0];
    ranks.checkpoint(start.map(from -> from.file().toString()).orElse(""));
  }

  /** Some of the steps that follow are measured call by call. */
  public void profile(StepProfiler asked) {
    profiler = Optional.of(asked);
  }

  /** How a step's work is queued: see {@link Replay#describe}. */
  public String queueing() {
    return gradients.describe();
  }

  /** Why steps, which might have been recorded, go call by call: see {@link Replay#refusal}. */
  public Optional<String> refusal() {
    return gradients.refusal().or(update::refusal);
  }

  /** Updates before the learning rate is at its peak. */
  public long warmup() {
    return settings.warmup;
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
    boolean goesOn = evaluate(listener);
    if (goesOn) {
      listener.stepsBegin(step);
    }
    while (goesOn && step < settings.steps) {
      ObjectNode line = trainOneStep();
      listener.stepDone(step, line);
      if (isDue(settings.checkpointEvery) || step == settings.steps) {
        save(); // before an evaluation, which may take as long as many steps
      }
      goesOn = evaluate(listener) && !(interrupted && step < settings.steps);
    }
    if (!goesOn) {
      save();
      return End.INTERRUPTED;
    }
    return End.DONE;
  }

  private void save() {
    if (ranks.isFirst() && saved != step) {
      ranks.checkpoint(checkpoints.write(step, seconds, optimizer).toString());
    }
    saved = step;
  }

  /** Two ranks of one job that see different values would silently compute different things. */
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

  /**
   * Evaluates if an evaluation is due after this step, unless it was done before the run was
   * resumed.
   *
   * @return false if the user wants the run to stop; whoever resumes it then makes up for the
   *     evaluation
   */
  private boolean evaluate(Listener listener) {
    boolean asked = isDue(settings.evaluateEvery) || step == settings.steps;
    if (settings.evaluateEvery == 0 || !asked || evaluated == step) {
      return true;
    }
    if (interrupted) {
      return false;
    }
    ObjectNode line = JsonNodeFactory.instance.objectNode();
    line.put("step", step);
    line.put(MetricsLog.EVALUATION, seconds);
    try {
      line.setAll(listener.evaluate(step));
    } catch (StoppedException e) {
      return false;
    }
    metrics.ifPresent(m -> m.append(line));
    evaluated = step;
    return true;
  }

  /** The device's part of a step where no other rank has one: the same calls each time. */
  private void queueStep() {
    queueMicroBatches();
    sum.finish();
    queueUpdateItself();
    device.control().download();
  }

  /** The first half, where other ranks have gradients to add. */
  private void queueGradients() {
    queueMicroBatches();
    device.control().download();
  }

  /** The second half, once all ranks have the same gradients. */
  private void queueUpdate() {
    queueUpdateItself();
    device.control().download();
  }

  private void queueMicroBatches() {
    device.control().upload();
    long bytes = (long) objective.numbers() * Double.BYTES;
    for (int i = 0; i < settings.accumulate; i++) {
      sum.begin(i);
      objective.accumulate(i, numbers.asSlice(i * bytes, bytes));
      sum.add(i);
    }
    device.download(numbers, numbersOnHost);
  }

  private void queueUpdateItself() {
    objective.beforeUpdate();
    optimizer.update(device);
    objective.afterUpdate();
    optimizer.parameters().round(device.kernels());
  }

  /**
   * One update alone, without evaluation or checkpoint, and its line of metrics.
   *
   * @throws TrainingDivergedException as {@link #run} does
   */
  public ObjectNode trainOneStep() {
    profiler.ifPresent(StepProfiler::begin);
    long start = System.nanoTime();
    double lr = settings.lr * settings.schedule.factor(step, settings.steps, settings.warmup);
    prepare(lr);
    ranks.work(this::runGradients);
    double[] sums = gather(numbersOnHost.toArray(ValueLayout.JAVA_DOUBLE));
    if (ranks.size() > 1) {
      requireFinite(sums[0], 0);
      sum.finish();
      objective.exchange();
      update.run();
      device.synchronize();
    }
    double norm = device.control().gradientNorm();
    requireAlike(
        "step %d: the gradient norm".formatted(step + 1),
        norm,
        "ranks must run on processors of one kind");
    requireFinite(sums[0], norm);
    step++;
    double elapsed = (System.nanoTime() - start) * 1e-9;
    seconds += elapsed;
    profiler.ifPresent(p -> p.end(elapsed));

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

  /** The host's part of a step: this rank's micro-batches, and what the optimizer is told. */
  private void prepare(double lr) {
    long first = step * sum.microBatches() + (long) ranks.rank() * settings.accumulate;
    for (int i = 0; i < settings.accumulate; i++) {
      objective.prepare(first + i, i);
    }
    Control control = device.control();
    control.clearResults();
    control.step(step + 1);
    control.learningRate(lr);
  }

  private void runGradients() {
    Control control = device.control();
    gradients.run();
    device.synchronize();
    while (control.overflow() > 0) { // the step has changed nothing
      objective.grow(control.overflow());
      gradients.forget();
      control.clearResults();
      gradients.run();
      device.synchronize();
    }
  }

  private void requireFinite(double loss, double norm) {
    if (!Double.isFinite(loss) || !Double.isFinite(norm)) {
      throw new TrainingDivergedException(step + 1, loss, norm, checkpoints.latestFile());
    }
  }

  /**
   * Adds up what the micro-batches of all ranks left, in their order, and agrees with the other
   * ranks on whether to go on.
   */
  private double[] gather(double[] own) {
    double[] message = Arrays.copyOf(own, own.length + 1);
    message[own.length] = interruption.isRequested() ? 1 : 0;
    double[] all = ranks.gather(message);
    double[] sums = new double[objective.numbers()];
    for (int r = 0; r < ranks.size(); r++) {
      int at = r * message.length;
      for (int i = 0; i < own.length; i++) {
        sums[i % sums.length] += all[at + i];
      }
      interrupted |= all[at + own.length] != 0;
    }
    return sums;
  }
}
