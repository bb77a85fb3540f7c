package espalier.recipe;

import espalier.distributed.Ranks;
import espalier.train.GradientSum;

/**
 * How a job is spread over processes. It says who computes what, and nothing of what is computed:
 * with gradients summed in a fixed order, a run may be continued by another number of ranks.
 *
 * @param order in which gradients are added up
 * @param shardSae whether ranks hold frozen SAEs together, instead of each all of them
 */
public record Parallel(Ranks ranks, GradientSum.Order order, boolean shardSae) {

  /** One process. */
  static Parallel alone() {
    return new Parallel(Ranks.alone(), GradientSum.Order.FIXED, false);
  }
}
