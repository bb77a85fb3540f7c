package espalier.model;

import static espalier.Golden.assertClose;
import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;

import espalier.autograd.Elementwise;
import espalier.autograd.Tape;
import espalier.autograd.Var;
import espalier.data.TokenRows;
import espalier.device.Device;
import espalier.format.ModelFolder;
import espalier.nn.Adapters;
import espalier.nn.Taps;
import espalier.sae.ZeroAblation;
import java.lang.foreign.MemorySegment;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.function.UnaryOperator;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/** The places inside a block: after Gemma's own norms, in sequential and in parallel blocks. */
class TapsTest {

  private record Run(float[] in, List<float[]> tapped, float[] out) {}

  @ParameterizedTest
  @ValueSource(strings = {"llama", "gemma2", "gpt_neox"})
  void outputsAreWhatTheBlockAdds(String family) {
    List<Var> seen = new ArrayList<>();
    Run run =
        run(
            family,
            seen,
            tape ->
                new Taps() {
                  @Override
                  public Var attentionOut(Var x) {
                    seen.add(tape.output(x));
                    return x;
                  }

                  @Override
                  public Var mlpOut(Var x) {
                    seen.add(tape.output(x));
                    return x;
                  }
                });
    assertEquals(2, run.tapped.size());
    float[] sum = run.in.clone();
    for (float[] part : run.tapped) {
      for (int i = 0; i < sum.length; i++) {
        sum[i] += part[i];
      }
    }
    assertClose(family, run.out, sum, 1e-6);
  }

  /** Twice what a module gives is the same to the norm behind it, and twice the same to others. */
  @ParameterizedTest
  @CsvSource({"llama, 2", "gemma2, 1", "gpt_neox, 2"})
  void modulesEndBeforeTheirNorm(String family, float gain) {
    List<Var> once = new ArrayList<>();
    List<Var> twice = new ArrayList<>();
    Run plain = run(family, once, tape -> mlp(once, tape, x -> x));
    Run doubled = run(family, twice, tape -> mlp(twice, tape, x -> Elementwise.scale(tape, x, 2)));
    assertArrayEquals(plain.tapped.getFirst(), doubled.tapped.getFirst());
    float[] expected = plain.tapped.getLast().clone();
    for (int i = 0; i < expected.length; i++) {
      expected[i] *= gain;
    }
    // The norm adds eps to the mean square, by which twice as much is less than the same.
    assertClose(family, doubled.tapped.getLast(), expected, 1e-4);
  }

  /** Taps of what an MLP gives and what is added of it. */
  private static Taps mlp(List<Var> seen, Tape tape, UnaryOperator<Var> change) {
    return new Taps() {
      @Override
      public Var mlpModuleOut(Var x) {
        seen.add(tape.output(x));
        return change.apply(x);
      }

      @Override
      public Var mlpOut(Var x) {
        seen.add(tape.output(x));
        return x;
      }
    };
  }

  @ParameterizedTest
  @ValueSource(strings = {"llama", "gemma2"}) // no biases: nothing comes from nothing
  void whatIsReplacedIsGone(String family) {
    List<Var> seen = new ArrayList<>();
    Run run =
        run(
            family,
            seen,
            tape ->
                new Taps() {
                  @Override
                  public Var attentionHeads(Var x) {
                    return ZeroAblation.into(tape, x, MemorySegment.NULL);
                  }

                  @Override
                  public Var attentionOut(Var x) {
                    seen.add(tape.output(x));
                    return x;
                  }

                  @Override
                  public Var mlpOut(Var x) {
                    return ZeroAblation.into(tape, x, MemorySegment.NULL);
                  }
                });
    assertArrayEquals(new float[run.in.length], run.tapped.getFirst());
    assertArrayEquals(run.in, run.out);
  }

  private interface Tapping {
    Taps on(Tape tape);
  }

  private static Run run(String family, List<Var> seen, Tapping tapping) {
    Path root = Path.of("src/test/resources/families", family);
    try (Device device = Device.open();
        ModelFolder folder = ModelFolder.open(root.resolve("model"))) {
      LanguageModel model = LanguageModel.load(device, folder);
      TokenRows rows =
          TokenRows.read(List.of(root.resolve("tokens.npy")), folder.config(), root, 0);
      TokenBatch batch = new TokenBatch(device, 1, rows.context(), folder.config().specialIds());
      int[] row = new int[rows.context()];
      rows.copyRow(0, row);
      batch.set(0, row);
      Tape tape = new Tape(device);
      Var in = tape.output(model.embed(tape, batch));
      Var out = tape.output(model.block(tape, 0, in, batch, Adapters.NONE, tapping.on(tape)));
      tape.bind(device);
      tape.forward();
      return new Run(
          in.value().toArray(),
          seen.stream().map(v -> v.value().toArray()).toList(),
          out.value().toArray());
    }
  }
}
