package espalier.cli;

import espalier.recipe.Console;
import espalier.recipe.reproduce.Experiment;
import espalier.recipe.reproduce.Plan;
import espalier.recipe.reproduce.ReproduceRecipe;
import espalier.recipe.reproduce.ReproduceSettings;
import espalier.report.Report;
import java.nio.file.Path;
import java.util.List;
import java.util.Optional;
import java.util.OptionalInt;
import java.util.concurrent.Callable;
import picocli.CommandLine.ArgGroup;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;
import picocli.CommandLine.Parameters;

@Command(
    name = "reproduce",
    description = "The paper's comparisons as grids of runs, on any model, scaled to the machine.")
final class ReproduceCommand implements Callable<Integer> {

  @Mixin private Common common;
  @Mixin private Computing computing;

  @Parameters(
      paramLabel = "EXPERIMENT",
      description = "timing, sparsity, width, layer, rank, per-layer, multi-sae or baselines")
  private String experiment;

  @Option(names = "--out", required = true, description = "folder of the run and its cells")
  private Path out;

  @Option(names = "--model", description = "model folder, or name on the Hub (default: the demo's)")
  private Path model;

  @Option(
      names = "--data",
      arity = "1..*",
      paramLabel = "FILE",
      description =
          ".txt, .jsonl (field text), both also .gz or .zst, .parquet (column text),"
              + " or .npy (token ids [N, T])")
  private List<Path> data = List.of();

  @Option(names = "--eval-data", paramLabel = "FILE", description = "held-out data")
  private Path evalData;

  @Option(
      names = "--sae",
      paramLabel = "LAYER=PATH",
      description = "SAE to adapt around, instead of training them; repeatable")
  private List<String> saes = List.of();

  @Option(names = "--layer", description = "of the SAE (default: the middle)")
  private Integer layer;

  @Option(names = "--latents", description = "width of the SAE (default: 8 times the model's)")
  private Integer latents;

  @Option(names = "--k", description = "active latents a token (default: 32; the demo's: 16)")
  private Integer k;

  @Option(names = "--rank", description = "of the adapters (default: 16)")
  private Integer rank;

  @Option(
      names = "--layers",
      description = "with adapters: after or all (default: all for timing and multi-sae)")
  private String layers;

  @Option(names = "--batch", description = "rows at a time (default: 1; the demo's: 16)")
  private Integer batch;

  @Option(
      names = "--context",
      description = "tokens a row, when text is packed (default: 512; the demo's: 256)")
  private Integer context;

  @Option(names = "--lr", description = "of adapters (default: 5e-4; the demo's: 2e-3)")
  private Double lr;

  @Option(names = "--sae-lr", description = "of SAEs (default: 1e-3; the demo's: 2e-3)")
  private Double saeLr;

  @Option(names = "--seed", description = "of everything drawn (default: 42)")
  private long seed = 42;

  @ArgGroup private Size size = new Size();

  /** Options for the size of the run. */
  private static final class Size {
    @Option(
        names = "--budget",
        paramLabel = "MINUTES",
        description = "that the run should take on this machine (default: 10)")
    private double budget = 10;

    @Option(
        names = "--plan",
        description = "what a budget came to on some machine, as --list prints it")
    private String plan;
  }

  @ArgGroup private Part part = new Part();

  /** Options that choose a part of the run. */
  private static final class Part {
    @Option(names = "--list", description = "print a command line for each cell, and run none")
    private boolean list;

    @Option(names = "--cell", paramLabel = "NAME", description = "run one cell and what it needs")
    private String cell;

    @Option(
        names = "--collect",
        description = "write results of the cells that are done, and list those that are not")
    private boolean collect;
  }

  @Override
  public Integer call() {
    computing.check();
    ReproduceRecipe recipe = new ReproduceRecipe(settings(), Console.standard());
    if (part.list) {
      Optional<List<String>> lines =
          recipe.list(System.getProperty("espalier.launcher", "espalier"), computing.options());
      lines.ifPresent(all -> all.forEach(System.out::println));
      return lines.isPresent() ? 0 : 1;
    }
    if (part.cell != null) {
      return recipe.run(part.cell) ? 0 : 1;
    }
    if (!part.collect && !recipe.run()) {
      return 1;
    }
    List<String> missing = recipe.collect();
    missing.forEach(cell -> System.out.println("missing: " + cell));
    System.out.print(ReproductionTable.of(out.resolve("reproduction.json")));
    Report.write(out);
    System.out.println("\nplots: " + out.resolve("report.html"));
    return 0;
  }

  private ReproduceSettings settings() {
    return new ReproduceSettings(
        Experiment.parse(experiment),
        out,
        Optional.ofNullable(model).map(Located::model),
        data,
        Optional.ofNullable(evalData),
        saes.stream().map(Located::sae).toList(),
        optional(layer),
        optional(latents),
        optional(k),
        optional(rank),
        Optional.ofNullable(layers),
        optional(batch),
        optional(context),
        Optional.ofNullable(lr),
        Optional.ofNullable(saeLr),
        seed,
        size.budget,
        Optional.ofNullable(size.plan).map(Plan::parse));
  }

  private static OptionalInt optional(Integer value) {
    return value == null ? OptionalInt.empty() : OptionalInt.of(value);
  }
}
