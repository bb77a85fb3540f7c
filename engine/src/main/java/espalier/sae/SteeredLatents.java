package espalier.sae;

import espalier.autograd.Tape;
import espalier.autograd.Var;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;

/** Holds one latent of a splice at a value, wherever the SAE is applied. */
public final class SteeredLatents {

  private SteeredLatents() {}

  /**
   * output + (value - current value) * wDec[latent], at every position but the kept ones.
   *
   * @return {@code [tokens, d]}, without a gradient
   */
  public static Var hold(Tape tape, Splice splice, Var output, int latent, double value) {
    Splice.Latents latents = splice.latents();
    MemorySegment direction = splice.sae().wDec().value().rows(latent, 1).data();
    Var steered = tape.value(output.rows(), output.cols());
    long d = output.cols();
    tape.op("steer")
        .reads(output, latents.index(), latents.value(), latents.count())
        .writes(steered)
        .forward(
            k -> {
              k.copy(output.data(), steered.data(), output.size());
              for (long t = 0; t < output.rows(); t++) {
                if (splice.keep().get(ValueLayout.JAVA_BYTE, t) == 0) {
                  float change = (float) (value - current(latents, t, latent));
                  k.axpy(change, direction, steered.value().rows(t, 1).data(), d);
                }
              }
            });
    return steered;
  }

  private static double current(Splice.Latents latents, long token, int latent) {
    int count = latents.count().data().getAtIndex(ValueLayout.JAVA_INT, token);
    for (int j = 0; j < count; j++) {
      long at = token * latents.capacity() + j;
      if (latents.index().data().getAtIndex(ValueLayout.JAVA_INT, at) == latent) {
        return latents.value().data().getAtIndex(ValueLayout.JAVA_FLOAT, at);
      }
    }
    return 0;
  }
}
