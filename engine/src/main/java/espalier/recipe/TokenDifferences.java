package espalier.recipe;

import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.autograd.LanguageModelHead.Divergence;
import espalier.distributed.SharedBatches;
import espalier.model.TokenBatch;
import java.nio.DoubleBuffer;
import java.nio.LongBuffer;
import java.util.Arrays;

/**
 * How a variant changes the loss of single tokens: D = CE of the variant - CE of the original, in
 * nats, at every position that has a next token and is neither the first of its sequence nor
 * special (BOS, EOS). Chen, Engels and Tegmark 2025 plot |D| in this way, by powers of ten from
 * 1e-5 to 10.
 *
 * <p>Memory does not grow with the data: quantiles come from counts of |D| by the upper 19 bits of
 * its float32, so they are exact to a relative 2^-12.
 */
final class TokenDifferences implements SharedBatches.Measure {

  static final double[] QUANTILES = {0.05, 0.25, 0.5, 0.75, 0.95, 0.99};

  /** Of the histogram: tenths of a decade. */
  static final int BINS_PER_DECADE = 10;

  static final int LOWEST_DECADE = -5;
  static final int DECADES = 6;

  private static final int DROPPED_BITS = 12; // of a float32's 23 bits of mantissa

  private final Divergence divergence;
  private final TokenBatch batch;
  private final long[] bySize = new long[1 << (31 - DROPPED_BITS)];
  private final long[] histogram = new long[BINS_PER_DECADE * DECADES];
  private long below;
  private long above;
  private long count;
  private double sum;
  private double absolute;
  private double sumOfBatch;
  private double absoluteOfBatch;

  /**
   * @param divergence per-token losses of original and variant, with targets
   */
  TokenDifferences(Divergence divergence, TokenBatch batch) {
    this.divergence = divergence;
    this.batch = batch;
  }

  void reset() {
    Arrays.fill(bySize, 0);
    Arrays.fill(histogram, 0);
    below = above = count = 0;
    sum = absolute = sumOfBatch = absoluteOfBatch = 0;
  }

  @Override
  public int numbers() {
    return 2;
  }

  @Override
  public void measure(DoubleBuffer numbers) {
    float[] variant = divergence.ceStudent().value().toArray();
    float[] original = divergence.ceTeacher().value().toArray();
    for (int t = 0; t < batch.tokens(); t++) {
      if (t % batch.seqLen() != 0 && batch.predicts(t) && !batch.isSpecial(t)) {
        count((double) variant[t] - original[t]);
      }
    }
    numbers.put(sumOfBatch).put(absoluteOfBatch);
    sumOfBatch = absoluteOfBatch = 0;
  }

  @Override
  public void add(DoubleBuffer numbers) {
    sum += numbers.get();
    absolute += numbers.get();
  }

  @Override
  public long[] counts() {
    LongBuffer counts = LongBuffer.allocate(bySize.length + histogram.length + 3);
    return counts.put(bySize).put(histogram).put(below).put(above).put(count).array();
  }

  @Override
  public void counted(long[] all) {
    LongBuffer counts = LongBuffer.wrap(all);
    counts.get(bySize).get(histogram);
    below = counts.get();
    above = counts.get();
    count = counts.get();
  }

  void count(double difference) {
    double size = Math.abs(difference);
    count++;
    sumOfBatch += difference;
    absoluteOfBatch += size;
    bySize[Float.floatToIntBits((float) size) >>> DROPPED_BITS]++;
    double bin = Math.floor((Math.log10(size) - LOWEST_DECADE) * BINS_PER_DECADE);
    if (bin < 0) {
      below++;
    } else if (bin >= histogram.length) {
      above++;
    } else {
      histogram[(int) bin]++;
    }
  }

  /** Of |D|, interpolated linearly between the two nearest, as NumPy does. */
  double quantile(double q) {
    double rank = q * (count - 1);
    long lower = (long) Math.floor(rank);
    double low = ordered(lower);
    return low + (rank - lower) * (ordered(Math.min(lower + 1, count - 1)) - low);
  }

  /** The |D| at a place in ascending order, counted from 0, up to rounding. */
  private double ordered(long rank) {
    long passed = 0;
    int bucket = 0;
    while ((passed += bySize[bucket]) <= rank) {
      bucket++;
    }
    int middle = 1 << (DROPPED_BITS - 1);
    return bucket == 0 ? 0 : Float.intBitsToFloat((bucket << DROPPED_BITS) | middle);
  }

  ObjectNode toJson() {
    ObjectNode json = JsonNodeFactory.instance.objectNode();
    json.put("tokens", count);
    if (count == 0) {
      return json;
    }
    Evaluation.put(json, "mean", sum / count);
    Evaluation.put(json, "mean_absolute", absolute / count);
    ObjectNode quantiles = json.putObject("quantiles_absolute");
    for (double q : QUANTILES) {
      Evaluation.put(quantiles, String.valueOf(q), quantile(q));
    }
    ObjectNode bins = json.putObject("histogram_absolute");
    bins.put("below", below);
    bins.put("above", above);
    ArrayNode edges = bins.putArray("log10_edges");
    for (int i = 0; i <= histogram.length; i++) {
      edges.add(LOWEST_DECADE + i / (double) BINS_PER_DECADE);
    }
    ArrayNode counts = bins.putArray("counts");
    for (long tokens : histogram) {
      counts.add(tokens);
    }
    return json;
  }
}
