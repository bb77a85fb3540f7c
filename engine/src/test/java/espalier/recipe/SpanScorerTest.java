package espalier.recipe;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import espalier.Golden;
import espalier.data.TokenRows;
import espalier.device.Device;
import espalier.device.Transfer;
import espalier.format.ModelFolder;
import espalier.model.LanguageModel;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Optional;
import org.junit.jupiter.api.Test;

class SpanScorerTest {

  /**
   * Whole rows, summed, are the cross-entropy that an evaluation gives; and a row cut in two at any
   * place gives the same as the row, whatever it is padded to and batched with.
   */
  @Test
  void spansAddUpToTheCrossEntropy() {
    Path folder = Golden.folder("llama");
    Path tokens = Golden.folder("tokens.npy");
    double ce =
        new EvaluateRecipe(
                new EvaluateSettings(
                    folder,
                    List.of(),
                    Optional.empty(),
                    List.of(tokens),
                    24,
                    MetricSet.BASIC,
                    Optional.empty()),
                Console.standard())
            .run()
            .ceBase();
    try (Device device = Device.open();
        ModelFolder files = ModelFolder.open(folder)) {
      TokenRows rows = TokenRows.read(List.of(tokens), files.config(), folder, 24);
      SpanScorer scorer = scorer(device, LanguageModel.load(device, files, 64));
      List<SpanScorer.Span> spans = new ArrayList<>();
      int[] row = new int[24];
      for (int r = 0; r < rows.count(); r++) {
        rows.copyRow(r, row);
        int[] longer = Arrays.copyOf(row, 40); // so that another length is there, too
        spans.add(new SpanScorer.Span(row.clone(), 1));
        spans.add(new SpanScorer.Span(row.clone(), 15));
        spans.add(new SpanScorer.Span(Arrays.copyOf(row, 15), 1));
        spans.add(new SpanScorer.Span(longer, 1));
        spans.add(new SpanScorer.Span(longer, 24));
      }
      double[] sums = scorer.score(spans, done -> {})[0];
      double all = 0;
      for (int r = 0; r < rows.count(); r++) {
        double whole = sums[5 * r];
        all += whole;
        // Sums of 23 float32 losses of about 4 nats.
        assertEquals(whole, sums[5 * r + 1] + sums[5 * r + 2], 1e-4);
        assertEquals(whole, sums[5 * r + 3] - sums[5 * r + 4], 1e-4);
      }
      assertEquals(-ce, all / (rows.count() * 23), 1e-5);
    }
  }

  /** Of two choices NaN would make the first the better one, or the second the worse. */
  @Test
  void aLikelihoodThatIsNoNumberIsRefused() {
    Path folder = Golden.folder("llama");
    try (Device device = Device.open();
        ModelFolder files = ModelFolder.open(folder)) {
      LanguageModel model = LanguageModel.load(device, files, 64);
      Transfer.write(model.head().matrix().data(), new byte[] {-1, -1, -1, -1}); // NaN of any type
      SpanScorer scorer = scorer(device, model);
      List<SpanScorer.Span> spans = List.of(new SpanScorer.Span(new int[] {1, 5, 6}, 1));
      ArithmeticException stop =
          assertThrows(ArithmeticException.class, () -> scorer.score(spans, done -> {}));
      assertEquals(
          "the log-likelihood of text 1 is NaN: weights or activations are not finite",
          stop.getMessage());
    }
  }

  private static SpanScorer scorer(Device device, LanguageModel model) {
    return new SpanScorer(
        device, model, List.of(Streams.Variant.ORIGINAL), 64, new SpanScorer.Workspace(device));
  }

  @Test
  void nothingIsPredictedFromNothing() {
    assertThrows(IllegalArgumentException.class, () -> new SpanScorer.Span(new int[] {1, 2}, 0));
  }
}
