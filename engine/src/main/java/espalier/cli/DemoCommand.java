package espalier.cli;

import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.recipe.Console;
import espalier.recipe.DemoRecipe;
import espalier.recipe.DemoSettings;
import espalier.report.Report;
import java.nio.file.Path;
import java.util.Optional;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;

@Command(
    name = "demo",
    description = "The whole story on a small model, in a few minutes on any machine.")
final class DemoCommand implements Callable<Integer> {

  @Mixin private Common common;
  @Mixin private Computing computing;

  @Option(names = "--out", description = "folder of the demo (default: ${DEFAULT-VALUE})")
  private Path out = Path.of("runs/demo");

  @Option(names = "--seed", description = "of everything drawn (default: 42)")
  private long seed = 42;

  @Option(
      names = "--scale",
      hidden = true,
      description = "share of the usual steps, for a quick check that it works at all")
  private double scale = 1;

  @Override
  public Integer call() {
    computing.check();
    Optional<ObjectNode> results =
        new DemoRecipe(new DemoSettings(out, seed, scale), Console.standard()).run();
    if (results.isEmpty()) {
      return 1;
    }
    System.out.print(DemoTable.of(results.get()));
    Report.write(out);
    System.out.println("\nplots: " + out.resolve("report.html"));
    return 0;
  }
}
