package espalier.cli;

import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.distributed.Ranks;
import espalier.recipe.Console;
import espalier.recipe.EvaluateRecipe;
import espalier.recipe.EvaluateSettings;
import espalier.recipe.MetricSet;
import espalier.report.Report;
import java.nio.file.Path;
import java.util.List;
import java.util.Optional;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;

@Command(
    name = "evaluate",
    description = "Measures what SAEs cost a model and what an adapter wins back.")
final class EvaluateCommand implements Callable<Integer> {

  @Mixin private Common common;
  @Mixin private Computing computing;
  @Mixin private Spread spread;
  @Mixin private Sharding sharding;

  @Option(names = "--model", required = true, description = "model folder, or name on the Hub")
  private Path model;

  @Option(
      names = "--sae",
      paramLabel = "LAYER=PATH",
      description =
          "SAE at the output of block LAYER, counted from 0, or where in it its files say;"
              + " repeatable")
  private List<String> saes = List.of();

  @Option(names = "--adapter", paramLabel = "DIR", description = "PEFT adapter")
  private Path adapter;

  @Option(
      names = "--data",
      required = true,
      arity = "1..*",
      paramLabel = "FILE",
      description =
          ".txt, .jsonl (field text), both also .gz or .zst, .parquet (column text),"
              + " or .npy (token ids [N, T])")
  private List<Path> data;

  @Option(
      names = "--context",
      description = "tokens a row, when text is packed (default: ${DEFAULT-VALUE})")
  private int context = 1024;

  @Option(
      names = "--metrics",
      paramLabel = "basic|core|all",
      description = {
        "basic: CE, KL, reconstruction;",
        "core: loss recovered against zero ablation, too;",
        "all: loss differences of tokens and distances of activations, too",
        "(default: core)"
      })
  private MetricSet metrics = MetricSet.CORE;

  @Option(
      names = "--out",
      paramLabel = "DIR",
      description = "also leave the result, latent densities and a report in an empty folder")
  private Path out;

  @Option(names = "--json", description = "print one JSON object")
  private boolean json;

  @Override
  public Integer call() {
    computing.check();
    EvaluateSettings settings =
        new EvaluateSettings(
            Located.model(model),
            saes.stream().map(Located::sae).toList(),
            Located.adapter(adapter),
            data,
            context,
            metrics,
            Optional.ofNullable(out));
    return spread.run(ranks -> evaluate(settings, ranks));
  }

  private int evaluate(EvaluateSettings settings, Ranks ranks) {
    new EvaluateRecipe(settings, Console.standard(), ranks, sharding.isAsked())
        .run(evaluation -> print(evaluation.toJson()));
    if (ranks.isFirst() && out != null) {
      Report.write(out);
    }
    return 0;
  }

  private void print(ObjectNode result) {
    System.out.print(json ? result + "\n" : EvaluationTable.of(result));
  }
}
