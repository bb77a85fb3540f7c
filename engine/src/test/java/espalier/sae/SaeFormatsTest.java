package espalier.sae;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import espalier.autograd.Tape;
import espalier.autograd.Var;
import espalier.device.Device;
import espalier.format.SaeFile;
import espalier.format.SaeSite;
import espalier.format.SaeWeights;
import espalier.format.Safetensors;
import espalier.format.StrictJson;
import espalier.format.TensorEntry;
import espalier.tensor.Tensor;
import java.io.IOException;
import java.lang.foreign.MemorySegment;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import java.util.stream.Stream;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** SAEs in their libraries' files compute what their libraries compute. */
class SaeFormatsTest {

  private static final Path CASES = Path.of("src/test/resources/sae");

  /** Of the largest value of a row, or of 1: float32 over 24 inputs and 96 latents. */
  private static final double TOLERANCE = 1e-5;

  static List<String> cases() throws IOException {
    try (Stream<Path> folders = Files.list(CASES)) {
      return folders
          .filter(Files::isDirectory)
          .map(f -> f.getFileName().toString())
          .sorted()
          .toList();
    }
  }

  @ParameterizedTest
  @MethodSource("cases")
  void agreesWithItsLibrary(String name) {
    Path folder = CASES.resolve(name);
    StrictJson facts = StrictJson.read(folder.resolve("case.json"));
    try (Device device = Device.open();
        SaeFile file = SaeFile.open(folder.resolve(facts.text("path")));
        Safetensors expected = Safetensors.open(folder.resolve("expected.safetensors"))) {
      SaeWeights weights = file.weights();
      assertEquals(facts.positive("d_in"), weights.dIn());
      assertEquals(facts.positive("d_out"), weights.dOut());
      assertEquals(facts.positive("d_sae"), weights.dSae());
      SaeSite expectedSite = SaeSite.parse(facts.text("site")).orElseThrow();
      weights
          .site()
          .ifPresent(
              site -> {
                assertEquals(expectedSite.layer(), site.layer());
                if (site.kind() != SaeSite.Kind.UNNAMED) {
                  assertEquals(expectedSite.kind().label(), site.kind().label());
                }
              });
      Sae sae = SaeLoader.load(device, weights, warning -> {});
      TensorEntry inputs = expected.tensor("x");
      Tensor x = Tensor.allocate(device, inputs.shape()[0], inputs.shape()[1]);
      inputs.copyTo(device, x);
      Tape tape = new Tape(device);
      Splice splice = Splice.into(tape, tape.constant(x), sae, MemorySegment.NULL);
      Var output = tape.output(splice.output());
      tape.bind(device);
      tape.forward();

      long n = x.rows();
      String as = variant(expected);
      // Where a library gives NaN: zeros, rescaled to a constant norm.
      Set<Integer> skip = new HashSet<>();
      facts.raw("nan_rows").forEach(row -> skip.add(row.intValue()));
      assertRowsClose("f", expected.tensor("f" + as, n, sae.latents()), dense(splice), skip);
      assertRowsClose(
          "y", expected.tensor("y" + as, n, weights.dOut()), output.value().toArray(), skip);
    }
  }

  /**
   * The library's rule where others read its files differently; float32 where it computes in less.
   */
  private static String variant(Safetensors expected) {
    return Stream.of("_openmoss", "_f32", "")
        .filter(suffix -> expected.tensors().containsKey("f" + suffix))
        .findFirst()
        .orElseThrow();
  }

  private static float[] dense(Splice splice) {
    int m = (int) splice.sae().latents();
    float[] dense = new float[Math.toIntExact(splice.input().rows() * m)];
    for (int t = 0; t < splice.input().rows(); t++) {
      System.arraycopy(splice.latents().read().dense(t), 0, dense, t * m, m);
    }
    return dense;
  }

  private static void assertRowsClose(
      String what, TensorEntry expected, float[] actual, Set<Integer> skip) {
    int cols = (int) expected.shape()[1];
    assertEquals(expected.size(), actual.length);
    for (int row = 0; row < actual.length / cols; row++) {
      if (skip.contains(row)) {
        continue;
      }
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
