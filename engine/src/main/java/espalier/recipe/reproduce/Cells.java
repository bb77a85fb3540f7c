package espalier.recipe.reproduce;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.format.InputException;
import espalier.format.SaeFile;
import espalier.recipe.SaeSpec;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.stream.IntStream;

/** The cells of each experiment. Those that others need come first. */
final class Cells {

  static final String MODEL = "model";
  static final String SAE = "sae";
  static final String END_TO_END = "e2e";
  static final String CLOCK = "clock";

  /** The names of the arms, as they appear in results. */
  static final String TOPK = "TopK SAE";

  static final String LORA = "TopK SAE, then LoRA";
  static final String LORA_ALL = "TopK SAE, then LoRA in all layers";
  static final String TRAINED_END_TO_END = "TopK SAE, end to end";

  /** The arms of the baselines, by the names that {@code adapt --train} gives them. */
  private static final Map<String, String> BESIDE_LORA =
      new TreeMap<>(
          Map.of(
              "linear", "TopK SAE, then a linear map at its output",
              "mlp", "TopK SAE, then an MLP at its output",
              "sae", "TopK SAE, then the SAE itself by KL",
              "lora+sae", "TopK SAE, then LoRA and the SAE by KL"));

  /** In how many rounds the arms of a comparison by time take turns. */
  private static final int ROUNDS = 6;

  private final Setup setup;
  private final Plan plan;
  private final Map<String, Cell> cells = new LinkedHashMap<>();

  /**
   * An SAE of the grid.
   *
   * @param id a part of the names of the cells around it
   * @param coordinates layer, latents and k, as far as they are known
   */
  private record Placed(String id, SaeSource source, ObjectNode coordinates) {}

  private Cells(Setup setup, Plan plan) {
    this.setup = setup;
    this.plan = plan;
  }

  static List<Cell> of(Setup setup, Plan plan) {
    Cells all = new Cells(setup, plan);
    if (setup.demo()) {
      all.add(MODEL, List.of(), "", coordinates(), new Task.Pretrain());
    }
    switch (setup.experiment()) {
      case TIMING -> all.timing();
      case SPARSITY -> all.adapted(all.vary("k", setup.k()));
      case WIDTH -> all.adapted(all.vary("latents", setup.latents()));
      case LAYER -> all.adapted(all.depths());
      case RANK -> all.ranks();
      case PER_LAYER -> all.perLayer();
      case MULTI_SAE -> all.multiSae();
      case BASELINES -> all.baselines();
    }
    return List.copyOf(all.cells.values());
  }

  private void timing() {
    int snapshots = plan.grid().snapshots();
    if (plan.saeSteps() % snapshots != 0) {
      throw new InputException(
          "--plan: sae=%d must be a multiple of the %d snapshots taken"
              .formatted(plan.saeSteps(), snapshots));
    }
    sae(SAE, "mse", setup.layer(), setup.latents(), setup.k(), snapshots, true);
    endToEnd(2 * snapshots);
    SaeSource last = SaeSource.trained(setup.layer(), SAE);
    clock(
        Map.of(
            TOPK, cells.get(SAE).task(),
            TRAINED_END_TO_END, cells.get(END_TO_END).task(),
            LORA,
                new Task.Adapt(
                    "lora", List.of(last), setup.rank(), setup.adapted(), plan.steps(), 0)));
    for (int percent : plan.grid().forks()) {
      SaeSource fork = SaeSource.snapshot(setup.layer(), SAE, plan.saeStepsAt(percent));
      ObjectNode at = coordinates().put("sae_percent", percent).put("layer", setup.layer());
      adapt(
          String.format(Locale.ROOT, "lora-%03d", percent),
          LORA,
          fork,
          at,
          setup.rank(),
          setup.adapted(),
          3);
    }
  }

  /** SAEs that differ only in {@code size}, which is {@code latents} or {@code k}. */
  private List<Placed> vary(String size, int base) {
    if (!setup.saes().isEmpty()) {
      return given();
    }
    List<Placed> placed = new ArrayList<>();
    for (double factor : plan.grid().factors()) {
      int value = (int) Math.round(base * factor);
      boolean isWidth = size.equals("latents");
      int latents = isWidth ? value : setup.latents();
      int k = isWidth ? setup.k() : value;
      placed.add(trained((isWidth ? "m" : "k") + value, setup.layer(), latents, k));
    }
    return placed;
  }

  private List<Placed> depths() {
    if (!setup.saes().isEmpty()) {
      return given();
    }
    TreeSet<Integer> layers = new TreeSet<>();
    for (double depth : plan.grid().depths()) {
      layers.add((int) Math.min(setup.layers() - 2, Math.round(depth * (setup.layers() - 1))));
    }
    return layers.stream().map(this::atLayer).toList();
  }

  private Placed atLayer(int layer) {
    return trained("l" + layer, layer, setup.latents(), setup.k());
  }

  private List<Placed> middle() {
    return setup.saes().isEmpty() ? List.of(atLayer(setup.layer())) : given();
  }

  /** Adapts around each of these SAEs with each rank; each rank is a curve. */
  private void adapted(List<Placed> saes) {
    for (int rank : plan.grid().ranks(setup.hidden())) {
      for (Placed sae : saes) {
        adapt(sae, "rank " + rank, rank, setup.adapted(), "-r" + rank);
      }
    }
  }

  private void ranks() {
    for (Placed sae : middle()) {
      for (int rank : plan.grid().manyRanks(setup.hidden())) {
        adapt(sae, curve(sae), rank, setup.adapted(), "-r" + rank);
      }
    }
  }

  private void perLayer() {
    for (Placed sae : middle()) {
      adapt(sae, "all behind the SAE", setup.rank(), "after", "-after");
      List<Integer> behind =
          IntStream.range(sae.source.layer() + 1, setup.layers()).boxed().toList();
      for (int layer : plan.grid().some(behind)) {
        Cell cell = adapt(sae, curve(sae), setup.rank(), String.valueOf(layer), "-only" + layer);
        cell.coordinates().put("adapted_layer", layer);
      }
    }
  }

  private void multiSae() {
    List<Placed> saes = setup.saes().isEmpty() ? spread() : given();
    for (int every = 1; every <= saes.size(); every *= 2) {
      List<Placed> some = every(saes, every);
      List<SaeSource> sources = some.stream().map(Placed::source).toList();
      adapt(
          "lora-n" + some.size(),
          LORA,
          sources,
          coordinates().put("saes", some.size()).put("rank", setup.rank()),
          setup.rank(),
          setup.adapted(),
          1);
    }
  }

  private List<Placed> spread() {
    int count = Math.min(plan.grid().mostSaes(), setup.layers() - 1);
    return IntStream.rangeClosed(1, count)
        .map(i -> (int) Math.round((double) i * (setup.layers() - 1) / count) - 1)
        .mapToObj(this::atLayer)
        .toList();
  }

  /**
   * Of every {@code every} SAEs the last one. So if fewer are asked for, they are evenly spread,
   * too.
   */
  private static List<Placed> every(List<Placed> saes, int every) {
    return IntStream.range(0, saes.size())
        .filter(i -> (i + 1) % every == 0)
        .mapToObj(saes::get)
        .toList();
  }

  private void baselines() {
    Placed sae = middle().getFirst();
    Cell lora = adapt(sae, LORA, setup.rank(), "after", "-after", 3);
    Cell all = adapt(sae, LORA_ALL, setup.rank(), "all", "-all", 3);
    endToEnd(6);
    Map<String, Task> arms = new LinkedHashMap<>();
    if (cells.containsKey(sae.source.cell())) {
      arms.put(TOPK, cells.get(sae.source.cell()).task());
    }
    arms.put(TRAINED_END_TO_END, cells.get(END_TO_END).task());
    arms.put(LORA, lora.task());
    arms.put(LORA_ALL, all.task());
    BESIDE_LORA.forEach((train, arm) -> arms.put(arm, beside(sae, train, arm).task()));
    clock(arms);
  }

  /** A cell with another way to win back the cross-entropy. */
  private Cell beside(Placed sae, String train, String arm) {
    Task.Adapt task =
        new Task.Adapt(train, List.of(sae.source), setup.rank(), "after", plan.steps(), 3);
    ObjectNode at = sae.coordinates.deepCopy();
    return add(
        "beside-" + train.replace('+', '-') + "-" + sae.id, needs(List.of(task)), arm, at, task);
  }

  private void endToEnd(int evaluations) {
    add(
        END_TO_END,
        model(),
        TRAINED_END_TO_END,
        size(setup.layer(), setup.latents(), setup.k()),
        new Task.TrainSae(
            "e2e",
            setup.layer(),
            setup.latents(),
            setup.k(),
            plan.endToEndSteps(),
            evaluations,
            false));
  }

  private void clock(Map<String, Task> arms) {
    add(CLOCK, needs(arms.values()), "", coordinates(), new Task.Clock(arms, ROUNDS));
  }

  private List<Placed> given() {
    List<Placed> placed = new ArrayList<>();
    for (SaeSpec spec : setup.saes()) {
      try (SaeFile file = SaeFile.open(spec.path())) {
        ObjectNode at = coordinates().put("layer", spec.layer());
        at.put("latents", file.weights().dSae());
        placed.add(new Placed("given" + placed.size(), SaeSource.given(spec), at));
      }
    }
    return placed;
  }

  private Placed trained(String id, int layer, int latents, int k) {
    String name = SAE + "-" + id;
    sae(name, "mse", layer, latents, k, 1, false);
    return new Placed(id, SaeSource.trained(layer, name), size(layer, latents, k));
  }

  private void sae(
      String name,
      String objective,
      int layer,
      int latents,
      int k,
      int evaluations,
      boolean keeps) {
    Task task =
        new Task.TrainSae(objective, layer, latents, k, plan.saeSteps(), evaluations, keeps);
    add(name, model(), TOPK, size(layer, latents, k), task);
  }

  private Cell adapt(Placed sae, String arm, int rank, String layers, String suffix) {
    return adapt(sae, arm, rank, layers, suffix, 1);
  }

  private Cell adapt(
      Placed sae, String arm, int rank, String layers, String suffix, int evaluations) {
    ObjectNode at = sae.coordinates.deepCopy();
    return adapt("lora-" + sae.id + suffix, arm, sae.source, at, rank, layers, evaluations);
  }

  private Cell adapt(
      String name,
      String arm,
      SaeSource sae,
      ObjectNode at,
      int rank,
      String layers,
      int evaluations) {
    return adapt(name, arm, List.of(sae), at.put("rank", rank), rank, layers, evaluations);
  }

  private Cell adapt(
      String name,
      String arm,
      List<SaeSource> saes,
      ObjectNode at,
      int rank,
      String layers,
      int evaluations) {
    Task task = new Task.Adapt("lora", saes, rank, layers, plan.steps(), evaluations);
    return add(name, needs(List.of(task)), arm, at, task);
  }

  private Cell add(String name, List<String> needs, String arm, ObjectNode at, Task task) {
    Cell cell = new Cell(name, needs, arm, at, task);
    cells.put(name, cell);
    return cell;
  }

  private List<String> model() {
    return setup.demo() ? List.of(MODEL) : List.of();
  }

  /** The cells that these tasks need: those of the SAEs that they work around, and of the model. */
  private List<String> needs(Iterable<Task> tasks) {
    TreeSet<String> needs = new TreeSet<>(model());
    for (Task task : tasks) {
      if (task instanceof Task.Adapt adapt) {
        adapt.saes().stream()
            .filter(sae -> sae.given().isEmpty())
            .map(SaeSource::cell)
            .forEach(needs::add);
      }
    }
    return List.copyOf(needs);
  }

  private static String curve(Placed sae) {
    return sae.id.startsWith("given") ? sae.id : "LoRA";
  }

  private static ObjectNode size(int layer, int latents, int k) {
    return coordinates().put("layer", layer).put("latents", latents).put("k", k);
  }

  private static ObjectNode coordinates() {
    return JsonNodeFactory.instance.objectNode();
  }
}
