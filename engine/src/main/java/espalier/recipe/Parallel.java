package espalier.recipe;

import espalier.distributed.Ranks;
import espalier.train.GradientSum;

/**
 * How a job is spread over processes. This decides who computes what, but not the result: with
 * gradients summed in a fixed order, another number of ranks may continue a run.
 *
 * @param order in which gradients are added up
 * @param shardSae whether the ranks hold each frozen SAE together, instead of each rank all of it
 */
public record Parallel(Ranks ranks, GradientSum.Order order, boolean shardSae) {

  /** One process. */
  static Parallel alone() {
    return new Parallel(Ranks.alone(), GradientSum.Order.FIXED, false);
  }
}
