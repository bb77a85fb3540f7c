package espalier.cli;

import espalier.distributed.Ranks;
import espalier.recipe.Parallel;
import espalier.train.GradientSum;
import picocli.CommandLine.Option;

/** The option of every command that trains on several ranks. */
final class GradientOrder {

  @Option(
      names = "--gradient-sum",
      description =
          "fixed: in an order that does not depend on the number of ranks; fastest: as MPI or NCCL"
              + " like it (default: fixed)")
  private GradientSum.Order order = GradientSum.Order.FIXED;

  Parallel on(Ranks ranks) {
    return new Parallel(ranks, order, false);
  }

  Parallel on(Ranks ranks, Sharding sharding) {
    return new Parallel(ranks, order, sharding.isAsked());
  }
}
