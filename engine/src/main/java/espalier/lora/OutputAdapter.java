package espalier.lora;

import espalier.autograd.Activation;
import espalier.autograd.Elementwise;
import espalier.autograd.LinearMap;
import espalier.autograd.Parameter;
import espalier.autograd.ParameterSet;
import espalier.autograd.Tape;
import espalier.autograd.Var;
import java.lang.foreign.MemorySegment;
import java.util.List;
import java.util.random.RandomGenerator;

/**
 * An alternative to LoRA, for comparison: a small map behind an SAE's output, y + up down y, or y +
 * up gelu(down y) (Karvonen 2025, arXiv 2503.17272). Kept positions pass unchanged.
 *
 * @param down {@code [rank, d]}
 * @param up {@code [d, rank]}
 */
public record OutputAdapter(Parameter down, Parameter up, Kind kind) {

  /** Whether a nonlinearity stands between the two maps. */
  public enum Kind {
    LINEAR,
    MLP
  }

  public OutputAdapter {
    if (up.rows() != down.cols() || up.cols() != down.rows()) {
      throw new IllegalArgumentException("up and down of an output adapter do not match");
    }
  }

  /**
   * Its parameters, to be laid out with those of others.
   *
   * @param prefix of their names
   */
  public static List<ParameterSet.Shape> shapes(String prefix, long rank, long d) {
    return List.of(
        new ParameterSet.Shape(prefix + "down", rank, d),
        new ParameterSet.Shape(prefix + "up", d, rank));
  }

  /** Over parameters of {@link #shapes}. */
  public static OutputAdapter of(ParameterSet parameters, String prefix, Kind kind) {
    return new OutputAdapter(parameters.get(prefix + "down"), parameters.get(prefix + "up"), kind);
  }

  /** Changes nothing yet: down uniform in +-1/sqrt(d), as torch.nn.Linear draws it, up zero. */
  public void initialise(RandomGenerator random) {
    float[] values = new float[Math.toIntExact(down.value().size())];
    double bound = 1 / Math.sqrt(down.cols());
    for (int i = 0; i < values.length; i++) {
      values[i] = (float) ((2 * random.nextDouble() - 1) * bound);
    }
    down.value().copyFrom(values);
    up.value().copyFrom(new float[Math.toIntExact(up.value().size())]);
  }

  /** The same, for passes that do not train it. */
  public OutputAdapter frozen() {
    return new OutputAdapter(down.frozen(), up.frozen(), kind);
  }

  /**
   * @param y {@code [tokens, d]}
   * @param keep bytes {@code [tokens]} in device memory, 1 where y passes unchanged; NULL: nowhere
   */
  public Var apply(Tape tape, Var y, MemorySegment keep) {
    Var hidden = linear(tape, y, down);
    if (kind == Kind.MLP) {
      hidden = Activation.apply(tape, hidden, Activation.Kind.GELU_ERF);
    }
    return Elementwise.addUnless(tape, y, linear(tape, hidden, up), keep);
  }

  private static Var linear(Tape tape, Var x, Parameter weight) {
    return LinearMap.apply(tape, x, weight, null, List.of(), MemorySegment.NULL);
  }
}
