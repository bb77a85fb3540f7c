package espalier.cli;

import espalier.device.DeviceChoice;
import espalier.distributed.Launch;
import espalier.distributed.Ranks;
import espalier.recipe.Parallel;
import espalier.train.GradientSum;
import java.util.function.Function;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;

/** Options of every command that runs on several ranks, and how it does. */
final class Spread {

  @Option(
      names = "--gradient-sum",
      description =
          "fixed: in an order that does not depend on the number of ranks; fastest: as MPI or NCCL"
              + " like it (default: fixed)")
  private GradientSum.Order order = GradientSum.Order.FIXED;

  @Spec(Spec.Target.MIXEE)
  private CommandSpec command;

  /** Runs a job on all ranks; what fails on one ends it on all, with one line. */
  <T> T run(Function<Parallel, T> job) {
    Launch launch = Launch.detect(System.getenv());
    DeviceChoice.choose(DeviceChoice.current().of(launch.localRank()));
    Ranks ranks = Ranks.join(launch);
    T result;
    try {
      result = job.apply(new Parallel(ranks, order));
    } catch (RuntimeException | Error e) {
      if (ranks.size() > 1) {
        end(ranks, e);
      }
      throw e;
    }
    ranks.close();
    return result;
  }

  private void end(Ranks ranks, Throwable e) {
    if (command.commandLine().getParseResult().hasMatchedOption("--verbose")) {
      e.printStackTrace();
    }
    ranks.fail(Failures.line(e), Failures.exitCode(e));
  }
}
