package espalier.recipe;

import espalier.autograd.LanguageModelHead;
import espalier.autograd.Tape;
import espalier.data.RowOrder;
import espalier.data.TokenRows;
import espalier.device.Device;
import espalier.distributed.Ranks;
import espalier.distributed.SharedBatches;
import espalier.model.LanguageModel;
import espalier.model.TokenBatch;
import espalier.nn.Adapters;
import espalier.sae.Sae;
import espalier.sae.SaeStatistics;
import espalier.sae.Splice;
import espalier.train.StoppedException;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.OptionalDouble;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.function.BooleanSupplier;
import java.util.function.Consumer;

/**
 * Measures a model, with SAEs and with adapters, on all rows of a data set. Several ranks divide
 * the rows among them, and all get the result that one rank would get.
 *
 * <p>What does not change while adapters are trained (the original model, the SAEs alone) is
 * measured once.
 *
 * <p>Which positions count: the model's KL is over all positions, its CE over those that have a
 * next token. Measures of a single SAE ({@link SaeStatistics}, its {@link SpliceScore}) are over
 * the positions that SAEs are applied to: all but BOS and EOS. {@link TokenDifferences} and {@link
 * ActivationDistance} state theirs themselves.
 */
final class Evaluator {

  /** Enough tokens for efficient products; more would only take memory. */
  private static final int TOKENS_AT_ONCE = 1024;

  private final Device device;
  private final Ranks ranks;
  private final LanguageModel model;
  private final SortedMap<Integer, Sae> saes;
  private final TokenRows rows;
  private final MetricSet metrics;
  private final BatchSource inOrder;
  private final TokenBatch batch;
  private final SortedMap<Integer, SaeStatistics> statistics = new TreeMap<>();
  private final Pass unadapted;
  private final Pass adapted;
  private Evaluation before;
  private BooleanSupplier stop = () -> false;

  /**
   * Variants that are compared with the original in one pass over the data.
   *
   * @param losses of each variant
   * @param statistics of the first variant's SAEs; empty where nobody asks for them
   * @param detail of the first variant; empty where nobody asks for it
   */
  private record Pass(
      Tape tape,
      List<VariantLosses> losses,
      List<SaeStatistics> statistics,
      Optional<Evaluation.Detail> detail) {

    void reset() {
      losses.forEach(VariantLosses::reset);
      statistics.forEach(SaeStatistics::reset);
      detail.ifPresent(Evaluation.Detail::reset);
    }

    List<SharedBatches.Measure> measures() {
      List<SharedBatches.Measure> measures = new ArrayList<>(losses);
      measures.addAll(statistics);
      detail.ifPresent(d -> measures.addAll(List.of(d.tokens(), d.distance())));
      return measures;
    }
  }

  /** Measures what {@link MetricSet#BASIC} names, for evaluations during training. */
  Evaluator(
      Device device,
      Ranks ranks,
      LanguageModel model,
      SortedMap<Integer, Sae> saes,
      Adapters adapters,
      TokenRows rows) {
    this(device, ranks, model, saes, adapted(saes, adapters), rows, MetricSet.BASIC);
  }

  /** The model with its SAEs and frozen adapters; empty without any. */
  static Optional<Streams.Variant> adapted(SortedMap<Integer, Sae> saes, Adapters adapters) {
    return adapters.byPath().isEmpty()
        ? Optional.empty()
        : Optional.of(new Streams.Variant(saes, adapters.frozen()));
  }

  /**
   * @param ranks all of which evaluate at the same time
   * @param student the adapted model with nothing to train; empty to measure the SAEs alone
   */
  Evaluator(
      Device device,
      Ranks ranks,
      LanguageModel model,
      SortedMap<Integer, Sae> saes,
      Optional<Streams.Variant> student,
      TokenRows rows,
      MetricSet metrics) {
    this.device = device;
    this.ranks = ranks;
    this.model = model;
    this.saes = saes;
    this.rows = rows;
    this.metrics = metrics;
    inOrder = new BatchSource(rows, RowOrder.sequential(rows.count()));
    batch = new TokenBatch(device, batchSize(rows), rows.context(), model.config().specialIds());
    unadapted = record(unadapted(), true);
    adapted = student.map(variant -> record(List.of(variant), false)).orElse(null);
  }

  /** Memory that {@link #bind} needs. */
  long bytes() {
    return Math.max(unadapted.tape.bytes(), adapted == null ? 0 : adapted.tape.bytes());
  }

  /** Gives the evaluation its memory, which others may use between evaluations. */
  Evaluator bind(MemorySegment memory) {
    unadapted.tape.bind(memory);
    if (adapted != null) {
      adapted.tape.bind(memory);
    }
    return this;
  }

  /**
   * From now on evaluations ask this between batches, and end with a {@link StoppedException} on
   * all ranks once it is true on one.
   */
  Evaluator stopWhen(BooleanSupplier asked) {
    stop = asked;
    return this;
  }

  /**
   * @param progress told after each batch how many rows all ranks together have done
   */
  Evaluation evaluate(Consumer<Integer> progress) {
    int doneBefore = 0;
    if (isFirst()) {
      doneBefore = rows.count();
      run(unadapted, 0, progress);
      before = withoutAdapters();
    }
    if (adapted == null) {
      return before;
    }
    run(adapted, doneBefore, progress);
    return before.withAdapters(adapted.losses.getFirst().everywhere(), adapted.detail);
  }

  private Evaluation withoutAdapters() {
    List<VariantLosses> losses = unadapted.losses;
    VariantLosses.Means spliced = losses.getFirst().everywhere();
    SortedMap<Integer, SaeStatistics.Summary> summaries = new TreeMap<>();
    statistics.forEach((layer, s) -> summaries.put(layer, s.summary()));
    SortedMap<Integer, SpliceScore> scores = new TreeMap<>();
    if (scores()) {
      int at = saes.size() == 1 ? 0 : 2;
      for (int layer : saes.keySet()) {
        scores.put(
            layer,
            SpliceScore.of(losses.get(at).whereApplied(), losses.get(at + 1).whereApplied()));
        at += 2;
      }
    }
    return new Evaluation(
        spliced.ceBase(),
        saes.isEmpty() ? OptionalDouble.empty() : OptionalDouble.of(spliced.ce()),
        OptionalDouble.empty(),
        saes.isEmpty() ? OptionalDouble.empty() : OptionalDouble.of(spliced.kl()),
        OptionalDouble.empty(),
        scores()
            ? Optional.of(SpliceScore.of(spliced, losses.get(1).everywhere()))
            : Optional.empty(),
        summaries,
        scores,
        unadapted.detail,
        Optional.empty());
  }

  /** Whether the SAEs alone have not been measured yet. */
  boolean isFirst() {
    return before == null;
  }

  /** As {@link #evaluate}, for a model whose own weights have changed since. */
  Evaluation again(Consumer<Integer> progress) {
    before = null;
    return evaluate(progress);
  }

  /** What each SAE's latents did in the last full evaluation, by layer. */
  SortedMap<Integer, SaeStatistics> statistics() {
    return statistics;
  }

  /** Rows that the next evaluation passes over, counting each pass. */
  int work() {
    return rows.count() * ((isFirst() ? 1 : 0) + (adapted == null ? 0 : 1));
  }

  private boolean scores() {
    return metrics.includes(MetricSet.CORE) && !saes.isEmpty();
  }

  /**
   * The model with all SAEs; where scores are wanted, also with all their sites ablated, and with
   * several SAEs also with each SAE alone and with its site alone ablated.
   */
  private List<Streams.Variant> unadapted() {
    List<Streams.Variant> variants = new ArrayList<>();
    variants.add(new Streams.Variant(saes, Adapters.NONE));
    if (scores()) {
      variants.add(Streams.Variant.ablated(saes));
      if (saes.size() > 1) {
        saes.forEach(
            (layer, sae) -> {
              SortedMap<Integer, Sae> alone = new TreeMap<>(Map.of(layer, sae));
              variants.add(new Streams.Variant(alone, Adapters.NONE));
              variants.add(Streams.Variant.ablated(alone));
            });
      }
    }
    return variants;
  }

  /**
   * @param withStatistics whether the first variant's SAEs are measured
   */
  private Pass record(List<Streams.Variant> variants, boolean withStatistics) {
    Tape tape = new Tape(device);
    Optional<ActivationDistance> distance =
        metrics.includes(MetricSet.ALL) && !saes.isEmpty()
            ? Optional.of(new ActivationDistance(device, batch))
            : Optional.empty();
    List<Streams.Variant> all = new ArrayList<>(List.of(Streams.Variant.ORIGINAL));
    all.addAll(variants);
    List<Streams.Pass> passes =
        Streams.record(
            tape,
            model,
            batch,
            all,
            (layer, outputs, splices) -> {
              distance.ifPresent(d -> d.record(tape, outputs.get(0), outputs.get(1)));
              Splice splice = splices.get(1).get(layer);
              if (withStatistics && splice != null) {
                SaeStatistics s = new SaeStatistics(device, splice.sae());
                s.record(tape, splice);
                statistics.put(layer, s);
              }
            });
    List<LanguageModelHead.Divergence> divergences = new ArrayList<>();
    for (Streams.Pass pass : passes.subList(1, passes.size())) {
      divergences.add(
          LanguageModelHead.kl(
              tape,
              pass.hidden(),
              passes.getFirst().hidden(),
              model.head(),
              model.finalSoftcap(),
              batch.targets(),
              1));
    }
    return new Pass(
        tape,
        divergences.stream().map(d -> new VariantLosses(device, d, batch, scores())).toList(),
        withStatistics ? List.copyOf(statistics.values()) : List.of(),
        distance.map(
            d -> new Evaluation.Detail(new TokenDifferences(divergences.getFirst(), batch), d)));
  }

  private void run(Pass pass, int done, Consumer<Integer> progress) {
    pass.reset();
    boolean complete =
        SharedBatches.run(
            ranks,
            rows.count() / batch.batch(),
            pass.measures(),
            i -> {
              inOrder.load(i, batch);
              pass.tape.forward();
              progress.accept(done + (i + 1) * batch.batch());
            },
            pass.tape::join,
            stop);
    if (!complete) {
      throw new StoppedException();
    }
  }

  /** The most rows at a time that divide the data evenly: every row counts once. */
  private static int batchSize(TokenRows rows) {
    int size = Math.max(1, TOKENS_AT_ONCE / rows.context());
    while (rows.count() % size != 0) {
      size--;
    }
    return size;
  }
}
