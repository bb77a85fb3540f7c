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
   * @return what is added up over a step's micro-batches: the loss first, which is not finite if
   *     training must stop, and what else {@link #describe} asks for
   */
  double[] accumulateGradients(long index);

  /**
   * Fields of the step's metrics line.
   *
   * @param sums of what the step's micro-batches returned, wherever they were computed
   * @param microBatches how many
   */
  void describe(ObjectNode line, double[] sums, long microBatches);

  /** Between the gradients and the update. */
  default void beforeUpdate() {}

  /** After the update. */
  default void afterUpdate() {}
}
