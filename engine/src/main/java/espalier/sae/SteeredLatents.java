package espalier.sae;

import espalier.autograd.Op;
import espalier.autograd.Tape;
import espalier.autograd.Var;
import espalier.device.Transfer;
import java.lang.foreign.MemorySegment;

/** Holds one latent of a splice at a value, wherever the SAE is applied. */
public final class SteeredLatents {

  private SteeredLatents() {}

  /**
   * output + (value - current value) * wDec[latent], at every position but the kept ones. Where the
   * SAE restores the scale of its input, the change is scaled likewise.
   *
   * @return {@code [tokens, d]}, without a gradient
   */
  public static Var hold(Tape tape, Splice splice, Var output, int latent, double value) {
    MemorySegment direction = splice.sae().wDec().matrix().rows(latent, 1).data();
    Var spread = splice.spread();
    Var steered = tape.value(output.rows(), output.cols(), false);
    long d = output.cols();
    Op op = tape.op("steer").reads(output).writes(steered);
    if (spread != null) {
      op.reads(spread);
    }
    op.forward(
        k -> {
          k.copy(output.data(), steered.data(), output.size());
          Latents.Lists lists = splice.latents().read();
          byte[] keep = Transfer.bytes(splice.keep());
          for (int t = 0; t < output.rows(); t++) {
            if (keep[t] == 0) {
              double scale = spread == null ? 1 : spread.value().get(t, 0);
              double change = scale * (value - lists.value(t, latent));
              k.axpy((float) change, direction, steered.value().rows(t, 1).data(), d);
            }
          }
        });
    return steered;
  }
}
