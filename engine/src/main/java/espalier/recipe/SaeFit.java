package espalier.recipe;

import espalier.autograd.Tape;
import espalier.data.TokenRows;
import espalier.device.Device;
import espalier.model.LanguageModel;
import espalier.model.TokenBatch;
import espalier.nn.Adapters;
import espalier.sae.SaeStatistics;
import espalier.sae.SaeStatistics.Summary;
import espalier.sae.Splice;
import java.lang.foreign.MemorySegment;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.SortedMap;
import java.util.TreeMap;

/**
 * Whether SAEs fit the activations that they are applied to, on a sample of the user's own text. A
 * file that was made for another layer, another model or with another convention loads like any
 * other; only what it computes shows the fault.
 */
final class SaeFit {

  private static final int SAMPLE_TOKENS = 1024;

  /** A variance of fewer positions means nothing. */
  private static final int ENOUGH_POSITIONS = 16;

  /** The factor by which active latents may be more or fewer than expected before that is odd. */
  private static final double L0_FACTOR = 3;

  private final Tape tape;
  private final SortedMap<Integer, SaeStatistics> statistics = new TreeMap<>();

  /**
   * @param rows the first of these are the sample
   */
  SaeFit(Device device, LanguageModel model, Saes saes, TokenRows rows) {
    int length = Math.min(rows.context(), SAMPLE_TOKENS);
    int count = Math.clamp(SAMPLE_TOKENS / length, 1, rows.count());
    TokenBatch batch = new TokenBatch(device, count, length, model.config().specialIds());
    int[] row = new int[rows.context()];
    for (int i = 0; i < count; i++) {
      rows.copyRow(i, row);
      batch.set(i, Arrays.copyOf(row, length));
    }
    tape = new Tape(device);
    Streams.record(
        tape,
        model,
        batch,
        List.of(new Streams.Variant(saes.byLayer(), Adapters.NONE)),
        (layer, outputs, splices) -> {
          Splice splice = splices.getFirst().get(layer);
          if (splice != null) {
            SaeStatistics s = new SaeStatistics(device, splice.sae());
            s.record(tape, splice);
            statistics.put(layer, s);
          }
        });
  }

  /** Memory that {@link #measure} needs. */
  long bytes() {
    return tape.bytes();
  }

  /** Runs one forward pass over the sample. */
  SortedMap<Integer, Summary> measure(MemorySegment memory) {
    tape.bind(memory).forward();
    SortedMap<Integer, Summary> summaries = new TreeMap<>();
    statistics.forEach(
        (layer, s) -> {
          s.addBatch();
          summaries.put(layer, s.summary());
        });
    return summaries;
  }

  /** Warns of each SAE that does not fit. */
  static void check(Saes saes, SortedMap<Integer, Summary> measured, Console console) {
    measured.forEach(
        (layer, summary) -> {
          if (summary.tokens() < ENOUGH_POSITIONS) {
            return;
          }
          if (!(summary.fvu() <= 1)) {
            console.warn(
                String.format(
                    Locale.ROOT,
                    "SAE at layer %d: FVU %.3g on your text: it probably does not belong here",
                    layer,
                    summary.fvu()));
          }
          Double expected = saes.expectedL0().get(layer);
          if (expected != null
              && !(summary.l0() <= L0_FACTOR * expected && summary.l0() * L0_FACTOR >= expected)) {
            console.warn(
                String.format(
                    Locale.ROOT,
                    "SAE at layer %d: L0 %.3g on your text, but its files say %.3g: it may not belong here",
                    layer,
                    summary.l0(),
                    expected));
          }
        });
  }
}
