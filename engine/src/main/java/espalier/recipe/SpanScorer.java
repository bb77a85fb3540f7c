package espalier.recipe;

import espalier.autograd.LanguageModelHead;
import espalier.autograd.Tape;
import espalier.autograd.Var;
import espalier.device.Device;
import espalier.model.LanguageModel;
import espalier.model.TokenBatch;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.function.IntConsumer;

/**
 * Log-likelihoods of parts of texts under variants of a model: the sum of log p(token | those
 * before it) over the tokens of a span.
 *
 * <p>Texts are padded at their end to few lengths, so that few tapes are recorded; attention is
 * causal, so padding changes nothing that counts.
 */
final class SpanScorer {

  /**
   * @param ids the whole text
   * @param start index of the span's first token, at least 1; the span goes to the end of the text
   */
  record Span(int[] ids, int start) {
    Span {
      if (start < 1 || start > ids.length) {
        throw new IllegalArgumentException("nothing comes before token " + start);
      }
    }

    int tokens() {
      return ids.length - start;
    }
  }

  /** Lengths are rounded up to a multiple of it. */
  private static final int GRAIN = 32;

  private static final int TOKENS_AT_ONCE = 1024;

  private final Device device;
  private final LanguageModel model;
  private final List<Streams.Variant> variants;
  private final int longest;
  private final Workspace workspace;

  /** Memory that tapes use in turn. */
  static final class Workspace {
    private final Device device;
    private MemorySegment memory = MemorySegment.NULL;

    Workspace(Device device) {
      this.device = device;
    }

    MemorySegment of(long bytes) {
      if (memory.byteSize() < bytes) {
        memory = device.allocate(bytes);
      }
      return memory;
    }
  }

  private record Recorded(Tape tape, TokenBatch batch, List<Var> losses) {}

  /**
   * @param longest text that the model was loaded for
   */
  SpanScorer(
      Device device,
      LanguageModel model,
      List<Streams.Variant> variants,
      int longest,
      Workspace workspace) {
    this.device = device;
    this.model = model;
    this.variants = variants;
    this.longest = longest;
    this.workspace = workspace;
  }

  /**
   * @param done told how many spans are done
   * @return {@code [variant][span]}, in nats
   * @throws ArithmeticException if one is not finite
   */
  double[][] score(List<Span> spans, IntConsumer done) {
    SortedMap<Integer, List<Integer>> byLength = new TreeMap<>();
    for (int i = 0; i < spans.size(); i++) {
      int length = Math.ceilDiv(spans.get(i).ids.length, GRAIN) * GRAIN;
      length = Math.min(length, longest);
      byLength.computeIfAbsent(length, l -> new ArrayList<>()).add(i);
    }
    double[][] sums = new double[variants.size()][spans.size()];
    int count = 0;
    for (int length : byLength.reversed().keySet()) {
      List<Integer> members = byLength.get(length);
      Recorded recorded = record(length, members.size());
      int batch = recorded.batch.batch();
      for (int from = 0; from < members.size(); from += batch) {
        List<Integer> some = members.subList(from, Math.min(from + batch, members.size()));
        run(recorded, spans, some, sums);
        count += some.size();
        done.accept(count);
      }
    }
    return sums;
  }

  private Recorded record(int length, int spans) {
    int rows = Math.clamp(TOKENS_AT_ONCE / length, 1, spans);
    TokenBatch batch = new TokenBatch(device, rows, length, model.config().specialIds());
    Tape tape = new Tape(device);
    List<Var> losses = new ArrayList<>();
    for (Streams.Pass pass : Streams.record(tape, model, batch, variants)) {
      losses.add(
          LanguageModelHead.crossEntropy(
              tape, pass.hidden(), model.head(), model.finalSoftcap(), batch.targets(), 1));
    }
    tape.bind(workspace.of(tape.bytes()));
    return new Recorded(tape, batch, losses);
  }

  private void run(Recorded recorded, List<Span> spans, List<Integer> some, double[][] sums) {
    int length = recorded.batch.seqLen();
    for (int row = 0; row < recorded.batch.batch(); row++) {
      // Rows that are left over repeat the last text, and nobody looks at them.
      Span span = spans.get(some.get(Math.min(row, some.size() - 1)));
      recorded.batch.set(row, Arrays.copyOf(span.ids, length));
    }
    recorded.tape.forward();
    for (int v = 0; v < variants.size(); v++) {
      float[] losses = recorded.losses.get(v).value().toArray();
      for (int row = 0; row < some.size(); row++) {
        Span span = spans.get(some.get(row));
        double sum = 0;
        for (int t = span.start; t < span.ids.length; t++) {
          sum -= losses[row * length + t - 1]; // of the next token, so one before it
        }
        String what = "the log-likelihood of text %d is".formatted(some.get(row) + 1);
        sums[v][some.get(row)] = Finite.require(sum, what);
      }
    }
  }
}
