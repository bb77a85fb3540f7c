package espalier.autograd;

import java.util.List;

/** act(gate) * up, the middle of a gated MLP (Shazeer 2020). */
public final class GatedActivation {

  /** The function on the gate; the values are those of esp_activation. */
  public enum Kind {
    SILU,
    GELU_TANH,
    GELU_ERF
  }

  private GatedActivation() {}

  /**
   * @param gateUp {@code [tokens, 2 d]}: gate in the first half of a row, up in the second
   * @return {@code [tokens, d]}
   */
  public static Var apply(Tape tape, Var gateUp, Kind kind) {
    long rows = gateUp.rows();
    long d = gateUp.cols() / 2;
    Var out = tape.valueWithRoom(rows, d, gateUp.needsGradient());
    tape.op("gatedActivation")
        .reads(gateUp)
        .writes(out)
        .forward(
            k ->
                k.gatedForward(
                    gateUp.data(),
                    kind.ordinal(),
                    out.value().data(),
                    out.value().stride(),
                    rows,
                    d))
        .backward(
            List.of(gateUp),
            List.of(gateUp),
            k -> {
              if (gateUp.accumulates()) {
                throw new IllegalStateException("gate and up are read by one operation only");
              }
              k.gatedBackward(
                  gateUp.data(),
                  kind.ordinal(),
                  out.gradientData(),
                  gateUp.gradientData(),
                  rows,
                  d);
            });
    return out;
  }
}
