package espalier.sae;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import espalier.autograd.Tape;
import espalier.autograd.Var;
import espalier.device.Device;
import espalier.format.SaeFile;
import espalier.format.SaeWeights;
import espalier.format.Safetensors;
import espalier.format.StrictJson;
import espalier.format.TensorEntry;
import espalier.tensor.Tensor;
import java.lang.foreign.MemorySegment;
import java.nio.file.Path;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** SAEs in their libraries' files compute what their libraries compute. */
class SaeFormatsTest {

  private static final Path CASES = Path.of("src/test/resources/sae");

  /** Of the largest value of a row, or of 1: float32 over 24 inputs and 96 latents. */
  private static final double TOLERANCE = 1e-5;

  @ParameterizedTest
  @ValueSource(
      strings = {
        "saelens_standard",
        "saelens_jumprelu",
        "saelens_topk",
        "saelens_topk_rescale",
        "saelens_old_topk",
        "saelens_oldest_hook_point",
        "sparsify_topk"
      })
  void agreesWithItsLibrary(String name) {
    Path folder = CASES.resolve(name);
    StrictJson facts = StrictJson.read(folder.resolve("case.json"));
    try (Device device = Device.openCpu();
        SaeFile file = SaeFile.open(folder.resolve(facts.text("path")));
        Safetensors expected = Safetensors.open(folder.resolve("expected.safetensors"))) {
      SaeWeights weights = file.weights();
      assertEquals(facts.text("architecture"), weights.architecture());
      assertEquals(facts.positive("d_in"), weights.dIn());
      assertEquals(facts.positive("d_sae"), weights.dSae());
      // "hook_resid_pre" of a block is the output of the one before it.
      int layer = facts.text("site").equals("blocks.3.hook_resid_pre") ? 2 : 3;
      assertEquals(layer, weights.site().orElseThrow().layer());

      Sae sae = SaeLoader.load(device, weights, warning -> assertEquals("", warning));
      TensorEntry inputs = expected.tensor("x");
      Tensor x = Tensor.allocate(device, inputs.shape()[0], inputs.shape()[1]);
      inputs.copyTo(device, x);
      Tape tape = new Tape(device);
      Splice splice = Splice.into(tape, tape.constant(x), sae, MemorySegment.NULL);
      Var output = tape.output(splice.output());
      tape.bind(device);
      tape.forward();

      long n = x.rows();
      assertRowsClose("f", expected.tensor("f", n, sae.latents()), dense(splice));
      assertRowsClose("y", expected.tensor("y", n, x.cols()), output.value().toArray());
    }
  }

  private static float[] dense(Splice splice) {
    int m = (int) splice.sae().latents();
    float[] dense = new float[Math.toIntExact(splice.input().rows() * m)];
    for (int t = 0; t < splice.input().rows(); t++) {
      System.arraycopy(splice.latents().dense(t), 0, dense, t * m, m);
    }
    return dense;
  }

  private static void assertRowsClose(String what, TensorEntry expected, float[] actual) {
    int cols = (int) expected.shape()[1];
    assertEquals(expected.size(), actual.length);
    for (int row = 0; row < actual.length / cols; row++) {
      double scale = 1;
      double error = 0;
      for (int i = row * cols; i < (row + 1) * cols; i++) {
        assertTrue(Float.isFinite(actual[i]));
        assertEquals(
            expected.value(i) != 0, actual[i] != 0, what + ": active in one only, at " + i);
        scale = Math.max(scale, Math.abs(expected.value(i)));
        error = Math.max(error, Math.abs(expected.value(i) - actual[i]));
      }
      assertTrue(error <= TOLERANCE * scale, what + " row " + row + ": " + error + " of " + scale);
    }
  }
}
