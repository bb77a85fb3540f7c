package espalier.recipe;

import espalier.autograd.LanguageModelHead;
import espalier.autograd.Tape;
import espalier.data.RowOrder;
import espalier.data.TokenRows;
import espalier.device.Device;
import espalier.model.LanguageModel;
import espalier.model.TokenBatch;
import espalier.nn.Adapters;
import espalier.sae.Sae;
import espalier.sae.SaeStatistics;
import java.lang.foreign.MemorySegment;
import java.util.List;
import java.util.OptionalDouble;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.function.Consumer;

/**
 * Measures a model, with SAEs and with adapters, on all rows of a data set.
 *
 * <p>What does not change while adapters are trained (the original model, the SAEs alone) is
 * measured once.
 */
final class Evaluator {

  /** Enough tokens for efficient products; more would only take memory. */
  private static final int TOKENS_AT_ONCE = 1024;

  private final Device device;
  private final LanguageModel model;
  private final SortedMap<Integer, Sae> saes;
  private final TokenRows rows;
  private final BatchSource inOrder;
  private final TokenBatch batch;
  private final Sum sum;
  private final SortedMap<Integer, SaeStatistics> statistics = new TreeMap<>();
  private Pass unadapted;
  private Pass adapted;
  private Evaluation before;

  /** A recorded comparison of the original with a variant. */
  private record Pass(Tape tape, LanguageModelHead.Divergence divergence) {}

  private record Means(double kl, double ce, double ceBase) {}

  /**
   * @param adapters {@link Adapters#NONE} to measure the SAEs alone
   */
  Evaluator(
      Device device,
      LanguageModel model,
      SortedMap<Integer, Sae> saes,
      Adapters adapters,
      TokenRows rows) {
    this.device = device;
    this.model = model;
    this.saes = saes;
    this.rows = rows;
    inOrder = new BatchSource(rows, RowOrder.sequential(rows.count()));
    batch = new TokenBatch(device, batchSize(rows), rows.context(), model.config().specialIds());
    sum = new Sum(device);
    unadapted = record(Adapters.NONE, true);
    adapted = adapters.byPath().isEmpty() ? null : record(adapters.frozen(), false);
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
   * @param progress told of each batch with the number of rows done
   */
  Evaluation evaluate(Consumer<Integer> progress) {
    int doneBefore = 0;
    if (before == null) {
      doneBefore = rows.count();
      statistics.values().forEach(SaeStatistics::reset);
      Means means = run(unadapted, 0, progress);
      SortedMap<Integer, SaeStatistics.Summary> summaries = new TreeMap<>();
      statistics.forEach((layer, s) -> summaries.put(layer, s.summary()));
      before =
          new Evaluation(
              means.ceBase,
              saes.isEmpty() ? OptionalDouble.empty() : OptionalDouble.of(means.ce),
              OptionalDouble.empty(),
              saes.isEmpty() ? OptionalDouble.empty() : OptionalDouble.of(means.kl),
              OptionalDouble.empty(),
              summaries);
    }
    if (adapted == null) {
      return before;
    }
    Means means = run(adapted, doneBefore, progress);
    return new Evaluation(
        before.ceBase(),
        before.ceSae(),
        OptionalDouble.of(means.ce),
        before.klSae(),
        OptionalDouble.of(means.kl),
        before.saes());
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
    return rows.count() * ((before == null ? 1 : 0) + (adapted == null ? 0 : 1));
  }

  private Pass record(Adapters with, boolean withStatistics) {
    Tape tape = new Tape(device);
    List<Streams.Pass> passes =
        Streams.record(
            tape, model, batch, List.of(Streams.Variant.ORIGINAL, new Streams.Variant(saes, with)));
    if (withStatistics) {
      passes
          .get(1)
          .splices()
          .forEach(
              (layer, splice) -> {
                SaeStatistics s = new SaeStatistics(device, splice.sae());
                s.record(tape, splice);
                statistics.put(layer, s);
              });
    }
    return new Pass(
        tape,
        LanguageModelHead.kl(
            tape,
            passes.get(1).hidden(),
            passes.get(0).hidden(),
            model.head(),
            model.finalSoftcap(),
            batch.targets(),
            1));
  }

  private Means run(Pass pass, int done, Consumer<Integer> progress) {
    double kl = 0;
    double ce = 0;
    double ceBase = 0;
    int passesOverData = rows.count() / batch.batch();
    for (int i = 0; i < passesOverData; i++) {
      inOrder.load(i, batch);
      pass.tape.forward();
      kl += sum.of(pass.divergence.kl());
      ce += sum.of(pass.divergence.ceStudent());
      ceBase += sum.of(pass.divergence.ceTeacher());
      progress.accept(done + (i + 1) * batch.batch());
    }
    double predictions = (double) passesOverData * batch.predictions();
    double tokens = (double) passesOverData * batch.tokens();
    return new Means(kl / tokens, ce / predictions, ceBase / predictions);
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
