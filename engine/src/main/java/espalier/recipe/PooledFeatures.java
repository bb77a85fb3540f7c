package espalier.recipe;

import espalier.autograd.Tape;
import espalier.autograd.Var;
import espalier.device.Device;
import espalier.model.TokenBatch;
import espalier.sae.Latents;
import espalier.sae.Splice;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.SequencedMap;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.function.IntConsumer;

/**
 * The features that probes look at, as means over a text's tokens (BOS and EOS left out): each
 * SAE's latents, with all SAEs and no adapter in the model, and the residual stream after one block
 * in every variant.
 */
final class PooledFeatures {

  private static final int TOKENS_AT_ONCE = 1024;

  private final Variants variants;
  private final TokenBatch batch;
  private final Tape tape;
  private final List<Var> activations = new ArrayList<>();
  private final SortedMap<Integer, Latents> latents = new TreeMap<>();

  /**
   * @param layer whose output is taken
   */
  PooledFeatures(Device device, Variants variants, int layer) {
    this.variants = variants;
    int length = variants.longest();
    batch =
        new TokenBatch(
            device,
            Math.max(1, TOKENS_AT_ONCE / length),
            length,
            variants.model().config().specialIds());
    tape = new Tape(device);
    List<Streams.Variant> all = List.copyOf(variants.byName().values());
    int spliced = variants.names().indexOf("sae");
    Streams.record(
        tape,
        variants.model(),
        batch,
        all,
        (block, outputs, splices) -> {
          if (block == layer) {
            outputs.forEach(x -> activations.add(tape.output(x)));
          }
          Splice splice = spliced < 0 ? null : splices.get(spliced).get(block);
          if (splice != null) {
            latents.put(block, splice.latents());
          }
        });
    tape.bind(device);
  }

  /**
   * @param texts each no longer than the model was loaded for
   * @return a row a text, by name: {@code latents.LAYER} and {@code activations.VARIANT}
   * @throws ArithmeticException if one of them is not finite
   */
  SequencedMap<String, float[][]> of(List<int[]> texts, IntConsumer done) {
    SequencedMap<String, float[][]> features = new LinkedHashMap<>();
    latents.keySet().forEach(layer -> features.put("latents." + layer, new float[texts.size()][]));
    variants.names().forEach(n -> features.put("activations." + n, new float[texts.size()][]));
    int length = batch.seqLen();
    for (int from = 0; from < texts.size(); from += batch.batch()) {
      int rows = Math.min(batch.batch(), texts.size() - from);
      for (int row = 0; row < batch.batch(); row++) {
        batch.set(row, Arrays.copyOf(texts.get(from + Math.min(row, rows - 1)), length));
      }
      tape.forward();
      for (Map.Entry<Integer, Latents> sae : latents.entrySet()) {
        Latents.Lists lists = sae.getValue().read();
        for (int row = 0; row < rows; row++) {
          double[] sum = new double[(int) lists.width()];
          int tokens = 0;
          for (int t = row * length; t < row * length + texts.get(from + row).length; t++) {
            if (!batch.isSpecial(t)) {
              tokens++;
              int start = Math.toIntExact(t * lists.capacity());
              for (int j = start; j < start + lists.count()[t]; j++) {
                sum[lists.index()[j]] += lists.value()[j];
              }
            }
          }
          features.get("latents." + sae.getKey())[from + row] = mean(sum, tokens);
        }
      }
      for (int v = 0; v < activations.size(); v++) {
        float[] x = activations.get(v).value().toArray();
        int width = (int) activations.get(v).cols();
        for (int row = 0; row < rows; row++) {
          double[] sum = new double[width];
          int tokens = 0;
          for (int t = row * length; t < row * length + texts.get(from + row).length; t++) {
            if (!batch.isSpecial(t)) {
              tokens++;
              for (int j = 0; j < width; j++) {
                sum[j] += x[t * width + j];
              }
            }
          }
          features.get("activations." + variants.names().get(v))[from + row] = mean(sum, tokens);
        }
      }
      done.accept(from + rows);
    }
    return features;
  }

  private static float[] mean(double[] sum, int tokens) {
    float[] mean = new float[sum.length];
    for (int j = 0; j < sum.length; j++) {
      mean[j] = (float) Finite.require(sum[j] / Math.max(1, tokens), "the mean of a feature is");
    }
    return mean;
  }
}
