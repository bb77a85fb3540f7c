package espalier.train;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.lang.foreign.MemorySegment;

/**
 * What a training loop minimises: the loss of micro-batches, and the numbers of a step that go into
 * the metrics.
 *
 * <p>A step has two halves. The host prepares its micro-batches ({@link #prepare}); then their work
 * is queued ({@link #accumulate} and the two hooks), the same kernel calls at every step, so that a
 * device may record and replay them. Nothing in the second half reads what the device computes.
 */
public interface Objective {

  /** Tokens of one micro-batch. */
  long tokens();

  /**
   * How many numbers each micro-batch leaves, to be added up over a step. The first is the loss;
   * training stops if it is not finite. The others are for {@link #describe}.
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
   * Queues the work on a prepared micro-batch: adds its gradients to those of the parameters, and
   * its loss to that in the device's {@link espalier.device.Control}.
   *
   * @param numbers float64 {@code [numbers()]} in device memory, overwritten
   */
  void accumulate(int slot, MemorySegment numbers);

  /**
   * Queued between the gradients and the update where there are other ranks: exchanges with them
   * what the micro-batches leave beside gradients.
   */
  default void exchange() {}

  /** Queued between the gradients and the update. */
  default void beforeUpdate() {}

  /** Queued after the update. */
  default void afterUpdate() {}

  /**
   * Makes room for so many entries in each list of latents: the last step needed them, and is
   * repeated.
   */
  void grow(int entries);

  /**
   * Adds fields to the step's line of metrics.
   *
   * @param sums {@code [numbers()]}, over the micro-batches of all ranks
   * @param microBatches how many these are
   */
  void describe(ObjectNode line, double[] sums, long microBatches);
}
