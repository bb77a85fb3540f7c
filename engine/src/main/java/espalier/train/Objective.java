package espalier.train;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.lang.foreign.MemorySegment;

/**
 * What a training loop trains: the loss of micro-batches, and what it wants to be told of a step.
 *
 * <p>A step has two halves. The host prepares its micro-batches ({@link #prepare}); then their work
 * is queued ({@link #accumulate} and the two hooks), the same kernel calls at every step, so that a
 * device may record and replay them. Nothing in the second half reads what the device computes.
 */
public interface Objective {

  /** Tokens of one micro-batch. */
  long tokens();

  /**
   * How many numbers each micro-batch leaves, to be added up over a step: the loss, which is not
   * finite if training must stop, and what else {@link #describe} asks for.
   */
  int numbers();

  /**
   * Prepares micro-batch {@code index} of the run in the host's memory. Everything must depend on
   * the index alone, so that a resumed run repeats the uninterrupted one.
   *
   * @param slot which of this rank's micro-batches of the step it is
   */
  void prepare(long index, int slot);

  /**
   * Queues the work on a prepared micro-batch: its gradients are added to the parameters', its loss
   * to that of the device's {@link espalier.device.Control}.
   *
   * @param numbers float64 {@code [numbers()]} in device memory, overwritten
   */
  void accumulate(int slot, MemorySegment numbers);

  /**
   * Queued between the gradients and the update where there are other ranks: tells them what this
   * one's micro-batches leave beside gradients.
   */
  default void exchange() {}

  /** Queued between the gradients and the update. */
  default void beforeUpdate() {}

  /** Queued after the update. */
  default void afterUpdate() {}

  /** Makes room for lists of latents of so many entries: the last step needed them. */
  void grow(int entries);

  /**
   * Fields of the step's metrics line.
   *
   * @param sums of the numbers of the step's micro-batches, wherever they were computed
   * @param microBatches how many
   */
  void describe(ObjectNode line, double[] sums, long microBatches);
}
