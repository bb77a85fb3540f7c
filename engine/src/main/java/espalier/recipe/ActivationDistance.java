package espalier.recipe;

import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.autograd.Tape;
import espalier.autograd.Var;
import espalier.device.Device;
import espalier.device.Transfer;
import espalier.distributed.SharedBatches;
import espalier.model.TokenBatch;
import java.lang.foreign.MemorySegment;
import java.nio.DoubleBuffer;
import java.util.ArrayList;
import java.util.List;

/**
 * How far a variant's residual stream is from the original's after each block, as the next block
 * reads it: an SAE's reconstruction included.
 *
 * <p>|x - y| and cos(x, y) are averaged over the positions of each sequence, BOS and EOS left out.
 * The result is the mean of these averages over the sequences, with its 90 % confidence interval:
 * 1.645 standard errors either way (Chen, Engels and Tegmark 2025).
 */
final class ActivationDistance implements SharedBatches.Measure {

  private static final double Z90 = 1.645;

  private final Device device;
  private final TokenBatch batch;
  private final List<Layer> layers = new ArrayList<>();

  /**
   * Sums of one layer of the batch, float64 [sequences, 3], and means over the sequences so far.
   */
  private record Layer(MemorySegment sums, Mean distance, Mean cosine) {}

  ActivationDistance(Device device, TokenBatch batch) {
    this.device = device;
    this.batch = batch;
  }

  /**
   * From now on each forward pass of the tape compares the next block's outputs.
   *
   * @param original {@code [tokens, hidden]}
   * @param variant likewise
   */
  void record(Tape tape, Var original, Var variant) {
    MemorySegment sums = device.allocate(3L * batch.batch() * Double.BYTES);
    layers.add(new Layer(sums, new Mean(), new Mean()));
    tape.op("activationDistance")
        .reads(original, variant)
        .forward(
            k ->
                k.sequenceDistance(
                    original.data(),
                    variant.data(),
                    batch.keep(),
                    sums,
                    batch.batch(),
                    batch.seqLen(),
                    original.cols()));
  }

  void reset() {
    layers.forEach(
        layer -> {
          layer.distance.reset();
          layer.cosine.reset();
        });
  }

  @Override
  public int numbers() {
    return layers.size() * 3 * batch.batch();
  }

  @Override
  public void measure(DoubleBuffer numbers) {
    layers.forEach(layer -> numbers.put(Transfer.doubles(layer.sums)));
  }

  /** Sequences without any such position are not counted. */
  @Override
  public void add(DoubleBuffer numbers) {
    for (Layer layer : layers) {
      for (int s = 0; s < batch.batch(); s++) {
        double positions = numbers.get();
        double distance = numbers.get();
        double cosine = numbers.get();
        if (positions > 0) {
          layer.distance.add(distance / positions);
          layer.cosine.add(cosine / positions);
        }
      }
    }
  }

  /** A line a layer. */
  ArrayNode toJson() {
    ArrayNode json = JsonNodeFactory.instance.arrayNode();
    for (int i = 0; i < layers.size(); i++) {
      ObjectNode layer = json.addObject().put("layer", i);
      Evaluation.put(layer, "l2", layers.get(i).distance.mean());
      Evaluation.put(layer, "l2_ci90", layers.get(i).distance.interval());
      Evaluation.put(layer, "cosine", layers.get(i).cosine.mean());
      Evaluation.put(layer, "cosine_ci90", layers.get(i).cosine.interval());
    }
    return json;
  }

  /** Mean and spread of a stream of numbers (Welford 1962). */
  static final class Mean {
    private long count;
    private double mean;
    private double squares; // sum of squared deviations from the mean

    void add(double x) {
      count++;
      double before = x - mean;
      mean += before / count;
      squares += before * (x - mean);
    }

    void reset() {
      count = 0;
      mean = squares = 0;
    }

    /** NaN without numbers. */
    double mean() {
      return count == 0 ? Double.NaN : mean;
    }

    /** Half the width of the 90 % confidence interval; NaN for less than two numbers. */
    double interval() {
      return Z90 * Math.sqrt(squares / (count - 1) / count);
    }
  }
}
