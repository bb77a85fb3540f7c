package espalier.model;

import static espalier.Golden.assertClose;
import static org.junit.jupiter.api.Assertions.assertEquals;

import espalier.Golden;
import espalier.autograd.Tape;
import espalier.autograd.Var;
import espalier.device.Device;
import espalier.nn.Adapters;
import espalier.sae.Sae;
import espalier.sae.Splice;
import espalier.tensor.Tensor;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/**
 * Activations, latents and logits against PyTorch in float64. PyTorch's own float32 errs by up to
 * 8e-7.
 */
class ForwardGoldenTest {

  private static final double TOLERANCE = 3e-6;

  private Device device;

  @BeforeEach
  void open() {
    device = Device.open();
  }

  @AfterEach
  void close() {
    device.close();
  }

  @ParameterizedTest
  @ValueSource(strings = {"llama", "llama-untied"})
  void logitsOfTheOriginalModel(String name) {
    LanguageModel model = Golden.model(device, name);
    TokenBatch batch = Golden.batch(device, model.config());
    Tape tape = new Tape(device);
    Var x = model.embed(tape, batch);
    for (int layer = 0; layer < model.layers(); layer++) {
      x = model.block(tape, layer, x, batch, Adapters.NONE);
    }
    Var hidden = tape.output(model.finalNorm(tape, x));
    tape.bind(device);
    tape.forward();
    String expected = name.equals("llama") ? "logits_base" : "logits_untied";
    assertClose(expected, golden(expected), logits(model, hidden), TOLERANCE);
  }

  @ParameterizedTest
  @ValueSource(strings = {"topk", "jumprelu", "standard"})
  void whatAnSaeDoesToTheStream(String kind) {
    LanguageModel model = Golden.model(device, "llama");
    Sae sae = Golden.sae(device, kind);
    TokenBatch batch = Golden.batch(device, model.config());
    Tape tape = new Tape(device);
    Var x = model.embed(tape, batch);
    for (int layer = 0; layer <= Golden.LAYER; layer++) {
      x = model.block(tape, layer, x, batch, Adapters.NONE);
    }
    Var hidden = tape.output(x);
    Splice splice = Splice.into(tape, x, sae, batch.keep());
    x = tape.output(splice.output());
    for (int layer = Golden.LAYER + 1; layer < model.layers(); layer++) {
      x = model.block(tape, layer, x, batch, Adapters.NONE);
    }
    Var last = tape.output(model.finalNorm(tape, x));
    tape.bind(device);
    tape.forward();
    assertClose("hidden", golden("hidden"), hidden.value().toArray(), TOLERANCE);
    assertLatents(kind, splice, batch);
    assertClose("spliced", golden("spliced_" + kind), splice.output().value().toArray(), TOLERANCE);
    String logits = "logits_sae_" + kind;
    assertClose(logits, golden(logits), logits(model, last), TOLERANCE);
  }

  /** The lists, spread out, are the dense latents; kept positions have none here. */
  private void assertLatents(String kind, Splice splice, TokenBatch batch) {
    float[] expected = golden("latents_" + kind);
    int m = (int) splice.sae().latents();
    float[] dense = new float[expected.length];
    for (int t = 0; t < batch.tokens(); t++) {
      System.arraycopy(splice.latents().read().dense(t), 0, dense, t * m, m);
      int count = splice.latents().read().count()[t];
      if (batch.isSpecial(t)) {
        assertEquals(0, count, "latents of a kept position");
        System.arraycopy(dense, t * m, expected, t * m, m);
      }
    }
    assertClose("latents", expected, dense, TOLERANCE);
    for (int i = 0; i < dense.length; i++) {
      assertEquals(expected[i] != 0, dense[i] != 0, "latent " + i + " active");
    }
  }

  private float[] golden(String name) {
    return Golden.values(device, "forward", name);
  }

  private float[] logits(LanguageModel model, Var hidden) {
    long rows = hidden.rows();
    long vocab = model.head().rows();
    Tensor logits = Tensor.allocate(device, rows, vocab);
    device
        .kernels()
        .gemm(
            false,
            true,
            rows,
            vocab,
            hidden.cols(),
            1,
            hidden.data(),
            hidden.cols(),
            model.head().data(),
            hidden.cols(),
            0,
            logits.data(),
            vocab);
    return logits.toArray();
  }

  @Test
  void specialPositionsAreKept() {
    LanguageModel model = Golden.model(device, "llama");
    TokenBatch batch = Golden.batch(device, model.config());
    int kept = 0;
    for (int t = 0; t < batch.tokens(); t++) {
      kept += batch.isSpecial(t) ? 1 : 0;
    }
    assertEquals(6, kept, "BOS and EOS of three rows");
  }
}
