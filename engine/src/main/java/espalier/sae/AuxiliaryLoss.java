package espalier.sae;

import espalier.autograd.Tape;
import espalier.autograd.Var;
import espalier.device.Kernels;
import espalier.tensor.Tensor;
import java.lang.foreign.MemorySegment;
import java.util.EnumSet;

/**
 * AuxK (Gao et al. 2024, A.2): the k largest of the SAE's dead latents reconstruct what it leaves
 * out, e = x - y. Their loss |e - eHat|^2 brings them back to life; the gradient treats e as a
 * constant.
 *
 * <p>Nothing behind this loss changes its gradients. So they are computed in the forward pass
 * already, and none of its values need to live until the backward pass.
 */
public final class AuxiliaryLoss {

  private final TrainedSplice splice;
  private final Sae sae;
  private final Latents latents;
  private final Tensor noBias;
  private final MemorySegment bPre;
  private final float scale;
  private final int k;
  private final long tokens;
  private final long d;
  private final long m;
  private final Var residual;
  private final Var reconstruction;
  private final Var gradient; // of the reconstruction, then of what is encoded
  private final Var scratch;
  private final Var offsets;
  private final Var loss;

  private AuxiliaryLoss(Tape tape, TrainedSplice splice, int k, float scale) {
    this.splice = splice;
    this.scale = scale;
    this.k = k;
    sae = splice.trainable().sae();
    tokens = splice.input().rows();
    d = sae.inputs();
    m = sae.latents();
    bPre = sae.bPreData();
    latents =
        new Latents(
            tape.device(), tokens, m, k, EnumSet.of(Latents.Need.GRADIENT, Latents.Need.BY_LATENT));
    noBias = Tensor.allocate(tape.device(), 1, d);
    tape.kernels().fill(noBias.data(), 0, d);
    residual = tape.value(tokens, d, false);
    reconstruction = tape.value(tokens, d, false);
    gradient = tape.value(tokens, d, false);
    scratch = tape.value(1, tape.kernels().saeEncodeScratch(d, m));
    offsets = tape.value(1, m + 1);
    loss = tape.output(tape.value(1, tokens));
  }

  /**
   * The loss of each token, {@code [1, tokens]}; {@code scale} times their sum is added to the
   * whole loss.
   *
   * @param k dead latents of a token at most
   */
  public static Var record(Tape tape, TrainedSplice splice, int k, float scale) {
    if (splice.course() == null) {
      throw new IllegalArgumentException("nobody knows which latents are dead");
    }
    if (splice.input().needsGradient()) {
      throw new IllegalArgumentException("the auxiliary loss has no gradient for its input");
    }
    AuxiliaryLoss auxiliary = new AuxiliaryLoss(tape, splice, k, scale);
    tape.op("saeAuxiliary")
        .reads(splice.input(), splice.output())
        .writes(
            auxiliary.residual,
            auxiliary.reconstruction,
            auxiliary.gradient,
            auxiliary.scratch,
            auxiliary.offsets,
            auxiliary.loss)
        .forward(auxiliary::run);
    return auxiliary.loss;
  }

  private void run(Kernels kernels) {
    Var x = splice.input();
    kernels.copy(x.data(), residual.data(), x.size());
    kernels.axpy(-1, splice.output().data(), residual.data(), x.size());
    kernels.saeEncodeSilent(
        x.data(),
        sae.wEnc().matrix().data(),
        sae.bEnc().data(),
        bPre,
        splice.course().silent(),
        splice.trainable().design().deadAfter(),
        k,
        splice.keep(),
        latents.index(),
        latents.value(),
        latents.count(),
        latents.capacity(),
        scratch.data(),
        tokens,
        d,
        m);
    kernels.saeDecode(
        latents.index(),
        latents.value(),
        latents.count(),
        latents.capacity(),
        sae.wDec().matrix().data(),
        noBias.data(),
        MemorySegment.NULL,
        MemorySegment.NULL,
        reconstruction.data(),
        tokens,
        d);
    kernels.saeMse(
        residual.data(),
        reconstruction.data(),
        splice.keep(),
        loss.data(),
        gradient.data(),
        scale,
        tokens,
        d);
    gradients(kernels);
  }

  private void gradients(Kernels kernels) {
    kernels.saeDecodeBackward(
        gradient.data(),
        latents.index(),
        latents.count(),
        latents.capacity(),
        sae.wDec().matrix().data(),
        latents.gradient(),
        tokens,
        d);
    kernels.saeByLatent(
        latents.index(),
        latents.count(),
        latents.capacity(),
        offsets.data(),
        latents.byLatent(),
        tokens,
        m);
    kernels.saeWeightBackward(
        splice.input().data(),
        bPre,
        gradient.data(),
        latents.value(),
        latents.gradient(),
        offsets.data(),
        latents.byLatent(),
        latents.capacity(),
        sae.wEnc().gradientData(),
        sae.bEnc().gradientData(),
        sae.wDec().gradientData(),
        d,
        m);
    if (sae.bPre() != null) {
      kernels.saeEncodeBackward(
          latents.gradient(),
          latents.index(),
          latents.count(),
          latents.capacity(),
          sae.wEnc().matrix().data(),
          MemorySegment.NULL,
          MemorySegment.NULL,
          gradient.data(),
          false,
          tokens,
          d);
      kernels.columnSum(
          gradient.data(), d, splice.keep(), -1, sae.bPre().gradientData(), tokens, d);
    }
  }
}
