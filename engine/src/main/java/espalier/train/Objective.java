package espalier.train;

import com.fasterxml.jackson.databind.node.ObjectNode;

/**
 * What a training loop trains: the loss of a micro-batch, and what it wants to be told of a step.
 */
public interface Objective {

  /** Tokens of one micro-batch. */
  long tokens();

  /**
   * Loads micro-batch {@code index} of the run and adds its gradients to the parameters'.
   * Everything it does must depend on the index alone, so that a resumed run repeats the
   * uninterrupted one.
   *
   * @return the loss, in the unit of the line that {@link #describe} writes; not finite if training
   *     must stop
   */
  double accumulateGradients(long index);

  /** Fields of the step's metrics line, from what the micro-batches since the last call left. */
  void describe(ObjectNode line);

  /** Between the gradients and the update. */
  default void beforeUpdate() {}

  /** After the update. */
  default void afterUpdate() {}
}
