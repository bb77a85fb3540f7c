package espalier.recipe.reproduce;

import java.util.List;
import java.util.Map;

/** What a cell does. */
sealed interface Task {

  /** Trains the demo's model. */
  record Pretrain() implements Task {}

  /**
   * Trains a TopK SAE.
   *
   * @param objective as {@code train-sae --objective} takes it
   * @param evaluations how many are spread over the training; if {@code keeps}, each has a snapshot
   */
  record TrainSae(
      String objective, int layer, int latents, int k, int steps, int evaluations, boolean keeps)
      implements Task {}

  /**
   * Trains adapters, or one of the things that they are compared with.
   *
   * @param train as {@code adapt --train} takes it
   * @param layers as {@code adapt --layers} takes it
   * @param evaluations how many there are, besides the one before the first step
   */
  record Adapt(
      String train, List<SaeSource> saes, int rank, String layers, int steps, int evaluations)
      implements Task {}

  /**
   * Measures how long a step of each of these tasks takes. They take turns, in one process on one
   * machine.
   *
   * @param arms the tasks by name
   */
  record Clock(Map<String, Task> arms, int rounds) implements Task {}
}
