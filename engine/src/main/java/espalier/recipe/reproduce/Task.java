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
   * @param objective as {@code train-sae --objective} has it
   * @param evaluations spread over the training, each with a snapshot if {@code keeps}
   */
  record TrainSae(
      String objective, int layer, int latents, int k, int steps, int evaluations, boolean keeps)
      implements Task {}

  /**
   * Trains adapters, or what stands beside them in a comparison.
   *
   * @param train as {@code adapt --train} has it
   * @param layers as {@code adapt --layers} has it
   * @param evaluations after the one before the first step
   */
  record Adapt(
      String train, List<SaeSource> saes, int rank, String layers, int steps, int evaluations)
      implements Task {}

  /**
   * Measures how long a step of each of these takes, in turn, in one process on one machine.
   *
   * @param arms by name
   */
  record Clock(Map<String, Task> arms, int rounds) implements Task {}
}
