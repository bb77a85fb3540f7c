package espalier.recipe;

import espalier.device.Kernels;
import espalier.format.ModelConfig;
import espalier.model.LanguageModel;
import espalier.model.LanguageModel.LinearLayer;
import espalier.nn.Linear.Projection;
import java.util.List;
import java.util.SortedSet;

/**
 * Floating-point operations that a step of {@code adapt} needs, from shapes alone. What teacher and
 * student share counts once; the SAE's decoder and gradients count active latents only; gradients
 * of frozen weights do not count. A product of [m, k] and [k, n] counts 2 m k n; norms, activations
 * and the optimizer are left out, as they are bound by memory.
 *
 * @param saeLayer layer of the one SAE, which is on the residual stream
 * @param adapted blocks; every linear layer of these has an update
 */
record StepFlops(
    LanguageModel model,
    int batch,
    int context,
    int saeLayer,
    long saeWidth,
    double l0,
    SortedSet<Integer> adapted,
    int rank) {

  double total() {
    double flops = head() + sae();
    for (int layer = 0; layer < model.layers(); layer++) {
      flops += block(layer);
    }
    return flops;
  }

  private double tokens() {
    return (double) batch * context;
  }

  /** Logits of teacher and student, and the gradient of the student's hidden states. */
  private double head() {
    ModelConfig c = model.config();
    return 3 * 2 * tokens() * c.hiddenSize() * c.vocabSize();
  }

  /** Dense encoding, decoding of active latents; both backward where gradients go below the SAE. */
  private double sae() {
    double d = model.config().hiddenSize();
    double encode = 2 * tokens() * d * saeWidth;
    double sparse = 2 * tokens() * d * l0;
    return encode + sparse + (adapted.first() <= saeLayer ? 2 * sparse : 0);
  }

  private double block(int layer) {
    int first = adapted.first();
    boolean shared = layer < first && layer <= saeLayer;
    boolean learns = layer >= first;
    double forward = dense(layer, false) + attention(layer);
    double flops = shared ? forward : 2 * forward;
    if (adapted.contains(layer)) {
      flops += lowRank(layer);
    }
    if (learns) { // nothing below the first block's queries, keys and values needs a gradient
      flops += dense(layer, layer == first) + 2.5 * attention(layer);
    }
    return flops;
  }

  /** The products with frozen weights. */
  private double dense(int layer, boolean withoutFirst) {
    double flops = 0;
    List<LinearLayer> linear = model.linearLayers(layer).toList();
    for (LinearLayer l : withoutFirst ? linear.subList(1, linear.size()) : linear) {
      flops += 2 * tokens() * l.inputs() * outputs(l);
    }
    return flops;
  }

  /** Each product with A and B once forward and twice backward. */
  private double lowRank(int layer) {
    double flops = 0;
    List<LinearLayer> linear = model.linearLayers(layer).toList();
    for (LinearLayer l : linear) {
      double a = 2 * tokens() * rank * l.inputs() * l.projections().size();
      double b = 2 * tokens() * rank * outputs(l);
      boolean bottom = layer == adapted.first() && l == linear.getFirst();
      flops += 3 * b + (bottom ? 2 : 3) * a;
    }
    return flops;
  }

  private static double outputs(LinearLayer layer) {
    return layer.projections().stream().mapToLong(Projection::outputs).sum();
  }

  /** Scores and their product with the values, of the keys that a query sees. */
  private double attention(int layer) {
    ModelConfig c = model.config();
    int window = c.layers().get(layer).window();
    return 4 * batch * Kernels.visiblePairs(context, window) * c.numHeads() * c.headDim();
  }
}
