package espalier.cli;

import espalier.device.DeviceChoice;
import espalier.distributed.Launch;
import espalier.distributed.Ranks;
import java.util.function.Function;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Spec;

/** Runs a command on all ranks of its job; a mixin of every command that can have several. */
@Command
final class Spread {

  @Spec(Spec.Target.MIXEE)
  private CommandSpec command;

  /** Runs a job on all ranks. If it fails on one, it ends on all, with one line. */
  <T> T run(Function<Ranks, T> job) {
    Launch launch = Launch.detect(System.getenv());
    DeviceChoice.choose(DeviceChoice.current().of(launch.localRank()));
    Ranks ranks = Ranks.join(launch);
    T result;
    try {
      result = job.apply(ranks);
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
