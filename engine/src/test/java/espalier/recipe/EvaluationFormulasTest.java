package espalier.recipe;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.autograd.LanguageModelHead.Divergence;
import espalier.autograd.Tape;
import espalier.autograd.Var;
import espalier.device.Device;
import espalier.model.TokenBatch;
import espalier.tensor.Tensor;
import java.io.ByteArrayOutputStream;
import java.io.PrintStream;
import java.util.Arrays;
import java.util.List;
import java.util.Optional;
import java.util.OptionalDouble;
import java.util.Random;
import java.util.Set;
import java.util.TreeMap;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;

/** The formulas of an evaluation, on numbers small enough to be worked out by hand. */
class EvaluationFormulasTest {

  private static final int BOS = 1;
  private static final int EOS = 2;

  private final Device device = Device.open();
  private final Tape tape = new Tape(device);

  @AfterEach
  void close() {
    device.close();
  }

  private Var floats(int rows, int cols, float... values) {
    Tensor tensor = Tensor.allocate(device, rows, cols);
    tensor.copyFrom(values);
    return tape.constant(tensor);
  }

  /** Two sequences; the second has EOS inside. */
  private TokenBatch batch() {
    TokenBatch batch = new TokenBatch(device, 2, 4, Set.of(BOS, EOS));
    batch.set(0, new int[] {BOS, 5, 6, 7});
    batch.set(1, new int[] {8, EOS, 9, 5});
    return batch;
  }

  /** JSON and the table leave out what is no number, and nobody would learn why. */
  @Test
  void lossesThatAreNoNumbersAreWarnedOf() {
    OptionalDouble nan = OptionalDouble.of(Double.NaN);
    Evaluation evaluation =
        new Evaluation(
            3,
            OptionalDouble.of(4),
            nan,
            OptionalDouble.of(1),
            nan,
            Optional.empty(),
            new TreeMap<>(),
            new TreeMap<>(),
            Optional.empty(),
            Optional.empty());
    ByteArrayOutputStream said = new ByteArrayOutputStream();
    evaluation.warn(Console.to(new PrintStream(said)));
    assertEquals(
        List.of("WARNING: the cross-entropy with adapters is NaN"),
        said.toString().lines().toList());
  }

  @Test
  void scoresLieBetweenZerosAndTheOriginal() {
    SpliceScore score = new SpliceScore(2, 3, 7, 0.5, 4);
    assertEquals(0.8, score.ceLossScore());
    assertEquals(0.875, score.klDivScore());
    assertEquals(1, new SpliceScore(2, 2, 7, 0, 4).ceLossScore());
    assertEquals(1, new SpliceScore(2, 2, 7, 0, 4).klDivScore());
    assertEquals(0, new SpliceScore(2, 7, 7, 4, 4).ceLossScore());
    ObjectNode json = JsonNodeFactory.instance.objectNode();
    new SpliceScore(2, 2, 2, 0, 0).addTo(json); // a site that does nothing: 0 / 0
    assertFalse(json.has("ce_loss_score"));
    assertFalse(json.has("kl_div_score"));
    assertEquals(2, json.get("ce_abl").doubleValue());
  }

  @Test
  void whichPositionsCount() {
    TokenBatch batch = batch();
    // Positions: BOS, 5, 6, 7 (without a next token); 8, EOS, 9, 5 (without a next token).
    Divergence divergence =
        new Divergence(
            floats(1, 8, 1, 2, 4, 8, 16, 32, 64, 128),
            floats(1, 8, 1, 2, 4, 0, 16, 32, 64, 0),
            floats(1, 8, 3, 5, 7, 0, 11, 13, 17, 0));
    VariantLosses losses = new VariantLosses(device, divergence, batch, true);
    for (int batches = 1; batches <= 2; batches++) {
      losses.addBatch();
      assertEquals(255 / 8.0, losses.everywhere().kl());
      assertEquals(119 / 6.0, losses.everywhere().ce());
      assertEquals(56 / 6.0, losses.everywhere().ceBase());
      assertEquals((2 + 4 + 8 + 16 + 64 + 128) / 6.0, losses.whereApplied().kl());
      assertEquals((2 + 4 + 16 + 64) / 4.0, losses.whereApplied().ce());
      assertEquals((5 + 7 + 11 + 17) / 4.0, losses.whereApplied().ceBase());
    }
    losses.reset();
    losses.addBatch();
    assertEquals(255 / 8.0, losses.everywhere().kl());

    TokenDifferences tokens = new TokenDifferences(divergence, batch);
    tokens.addBatch();
    JsonNode json = tokens.toJson(); // 5, 6 and 9: -3, -3 and 47
    assertEquals(3, json.get("tokens").intValue());
    assertEquals(41 / 3.0, json.get("mean").doubleValue());
    assertEquals(53 / 3.0, json.get("mean_absolute").doubleValue());
    assertEquals(3, json.at("/quantiles_absolute/0.5").doubleValue(), 3.0 / 4096);
    assertEquals(2, json.at("/histogram_absolute/counts/54").intValue()); // log10 3 = 0.477
    assertEquals(1, json.at("/histogram_absolute/above").intValue());
  }

  @Test
  void binsAreTenthsOfDecades() {
    TokenDifferences tokens = new TokenDifferences(null, null);
    for (double d : new double[] {0, 9.9e-6, -9.9e-6, 1.01e-5, -1.3e-5, 9.9, 10.1}) {
      tokens.count(d);
    }
    JsonNode histogram = tokens.toJson().get("histogram_absolute");
    assertEquals(3, histogram.get("below").intValue());
    assertEquals(1, histogram.get("above").intValue());
    assertEquals(1, histogram.at("/counts/0").intValue());
    assertEquals(1, histogram.at("/counts/1").intValue());
    assertEquals(1, histogram.at("/counts/59").intValue());
    assertEquals(60, histogram.get("counts").size());
    assertEquals(61, histogram.get("log10_edges").size());
    assertEquals(-5, histogram.at("/log10_edges/0").doubleValue());
    assertEquals(1, histogram.at("/log10_edges/60").doubleValue());
    tokens.reset();
    assertEquals("{\"tokens\":0}", tokens.toJson().toString());
  }

  /** Against sorting, whose memory would grow with the data. */
  @Test
  void quantilesAreNearTheExactOnes() {
    Random random = new Random(5);
    TokenDifferences tokens = new TokenDifferences(null, null);
    double[] sizes = new double[4000];
    for (int i = 0; i < sizes.length; i++) {
      double d = Math.exp(3 * random.nextGaussian()) * (random.nextBoolean() ? 1 : -1);
      sizes[i] = Math.abs(d);
      tokens.count(d);
    }
    Arrays.sort(sizes);
    for (double q : new double[] {0, 0.05, 0.3333, 0.5, 0.95, 1}) {
      double rank = q * (sizes.length - 1);
      int low = (int) rank;
      double exact =
          sizes[low] + (rank - low) * (sizes[Math.min(low + 1, sizes.length - 1)] - sizes[low]);
      assertEquals(exact, tokens.quantile(q), exact / 4096 * 1.001, "quantile " + q);
    }
  }

  @Test
  void distancesAreMeansOverSequences() {
    TokenBatch batch = batch();
    // Width 2. Of the first sequence positions 1 to 3 count, of the second 0, 2 and 3.
    Var x = floats(8, 2, 9, 9, 1, 0, 1, 0, 1, 0, 1, 0, 9, 9, 0, 1, 0, 2);
    Var y = floats(8, 2, 0, 0, 1, 0, 0, 1, 4, 4, 1, 0, 0, 0, 0, 4, 0, 2);
    ActivationDistance distance = new ActivationDistance(device, batch);
    distance.record(tape, x, x);
    distance.record(tape, x, y);
    tape.bind(device).forward();
    distance.addBatch();
    JsonNode same = distance.toJson().get(0);
    assertEquals(0, same.get("l2").doubleValue());
    assertEquals(1, same.get("cosine").doubleValue(), 1e-15);
    assertEquals(0, same.get("cosine_ci90").doubleValue(), 1e-15);
    JsonNode layer = distance.toJson().get(1);
    double a = (0 + Math.sqrt(2) + 5) / 3; // of the first sequence
    double b = (0 + 3 + 0) / 3.0;
    assertEquals(1, layer.get("layer").intValue());
    assertEquals((a + b) / 2, layer.get("l2").doubleValue(), 1e-15);
    // Two numbers: the standard deviation is |a - b| / sqrt 2, the standard error |a - b| / 2.
    assertEquals(1.645 * (a - b) / 2, layer.get("l2_ci90").doubleValue(), 1e-15);
    double cosine = (1 + 0 + Math.sqrt(0.5)) / 3;
    assertEquals((cosine + 1) / 2, layer.get("cosine").doubleValue(), 1e-15);
    assertEquals(1.645 * (1 - cosine) / 2, layer.get("cosine_ci90").doubleValue(), 1e-15);
  }

  @Test
  void noSequenceHasNoMean() {
    ActivationDistance.Mean mean = new ActivationDistance.Mean();
    assertTrue(Double.isNaN(mean.mean()));
    mean.add(3);
    mean.reset();
    assertTrue(Double.isNaN(mean.mean()));
  }

  @Test
  void oneSequenceHasNoInterval() {
    ActivationDistance.Mean mean = new ActivationDistance.Mean();
    mean.add(3);
    assertEquals(3, mean.mean());
    assertTrue(Double.isNaN(mean.interval()));
    mean.add(5);
    mean.add(10);
    assertEquals(6, mean.mean(), 1e-15);
    assertEquals(1.645 * Math.sqrt(13.0 / 3), mean.interval(), 1e-14); // variance (9+1+16)/2
  }
}
