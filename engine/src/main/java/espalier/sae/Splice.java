package espalier.sae;

import espalier.autograd.Op;
import espalier.autograd.Tape;
import espalier.autograd.Var;
import espalier.device.Kernels;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Objects;

/**
 * An SAE spliced into a stream of activations: x becomes the reconstruction of x, except at kept
 * positions.
 *
 * <p>Latents exist as (index, value) lists only, and every gradient is computed from the lists:
 * with dY the gradient of the reconstruction, a latent's is dY . wDec[i] where it is active, and dX
 * is the sum of those times wEnc[i]. Weights get theirs from the lists turned round, a latent's
 * tokens at a time.
 *
 * @param output {@code [tokens, d]}
 * @param latents the lists
 */
public record Splice(Sae sae, Var input, Var output, Latents latents, MemorySegment keep) {

  /**
   * Latents of each token as lists, indices ascending.
   *
   * @param index int32 {@code [tokens, capacity]}
   * @param value {@code [tokens, capacity]}
   * @param count int32 {@code [tokens, 1]}: how many entries of each row are used
   */
  public record Latents(Var index, Var value, Var count) {
    public long capacity() {
      return index.cols();
    }
  }

  /** Splices without a sparsity loss. */
  public static Splice into(Tape tape, Var x, Sae sae, MemorySegment keep) {
    return into(tape, x, sae, keep, Sparsity.none());
  }

  /**
   * @param x {@code [tokens, d]}
   * @param keep bytes {@code [tokens]} in device memory, 1 where x passes unchanged (BOS, EOS);
   *     NULL for nowhere
   */
  public static Splice into(Tape tape, Var x, Sae sae, MemorySegment keep, Sparsity sparsity) {
    if (x.cols() != sae.inputs()) {
      throw new IllegalArgumentException("an SAE of " + sae.inputs() + " inputs for " + x);
    }
    return new Recorder(tape, x, sae, keep, sparsity).record();
  }

  /** The one operation, its parts named. */
  private static final class Recorder {
    private final Tape tape;
    private final Var x;
    private final Sae sae;
    private final MemorySegment keep;
    private final Sparsity sparsity;
    private final long tokens;
    private final long d;
    private final long m;
    private final long capacity;
    private final MemorySegment bPre;
    private final Var out;
    private final Var index;
    private final Var value;
    private final Var count;
    private final Var pre; // where the backward pass needs to know z
    private final Var scratch;
    private final Var dValue;
    private final Var offsets;
    private final Var byLatent;
    private final Var dInput; // where the subtracted bias is trained

    Recorder(Tape tape, Var x, Sae sae, MemorySegment keep, Sparsity sparsity) {
      this.tape = tape;
      this.x = x;
      this.sae = sae;
      this.keep = keep;
      this.sparsity = sparsity;
      tokens = x.rows();
      d = sae.inputs();
      m = sae.latents();
      capacity = sae.capacity();
      bPre = sae.subtractDecoderBias() ? sae.bDec().data() : MemorySegment.NULL;
      boolean backward = x.needsGradient() || sae.isTrainable();
      out = tape.value(tokens, d, backward);
      index = tape.value(tokens, capacity);
      value = tape.value(tokens, capacity);
      count = tape.value(tokens, 1);
      pre = backward && sae.kind() == Sae.Kind.JUMPRELU ? tape.value(tokens, capacity) : null;
      scratch = tape.value(1, tape.kernels().saeEncodeScratch(d, m));
      dValue = tape.value(tokens, capacity);
      offsets = sae.isTrainable() ? tape.value(1, m + 1) : null;
      byLatent = sae.isTrainable() ? tape.value(tokens, capacity) : null;
      dInput = sae.isTrainable() && sae.subtractDecoderBias() ? tape.value(tokens, d) : null;
    }

    Splice record() {
      Op op = tape.op("saeSplice").reads(x).writes(present(out, index, value, count, pre, scratch));
      op.forward(this::forward);
      List<Var> keeps = new ArrayList<>(List.of(present(index, value, count, pre)));
      if (sae.isTrainable()) {
        keeps.add(x);
      }
      op.backward(keeps, List.of(x), this::backward);
      op.backwardScratch(present(dValue, offsets, byLatent, dInput));
      return new Splice(sae, x, out, new Latents(index, value, count), keep);
    }

    private void forward(Kernels k) {
      k.saeEncode(
          x.data(),
          sae.wEnc().data(),
          sae.bEnc().data(),
          bPre,
          sae.kind().ordinal(),
          sae.threshold() == null ? MemorySegment.NULL : sae.threshold().data(),
          sae.isTrainable() && pre != null ? sparsity.bandwidth() / 2 : 0,
          sae.k(),
          keep,
          index.data(),
          value.data(),
          orNull(pre),
          count.data(),
          capacity,
          scratch.data(),
          tokens,
          d,
          m);
      k.saeDecode(
          index.data(),
          value.data(),
          count.data(),
          capacity,
          sae.wDec().data(),
          sae.bDec().data(),
          keep,
          x.data(),
          out.data(),
          tokens,
          d);
    }

    private void backward(Kernels k) {
      k.saeDecodeBackward(
          out.gradientData(),
          index.data(),
          count.data(),
          capacity,
          sae.wDec().data(),
          dValue.data(),
          tokens,
          d);
      if (sae.isTrainable()) {
        k.saeByLatent(
            index.data(), count.data(), capacity, offsets.data(), byLatent.data(), tokens, m);
      }
      boolean trainsThreshold = pre != null && sae.threshold().isTrainable();
      k.saeActivationBackward(
          dValue.data(),
          orNull(pre),
          value.data(),
          index.data(),
          count.data(),
          capacity,
          sae.kind().ordinal(),
          sae.threshold() == null ? MemorySegment.NULL : sae.threshold().data(),
          sparsity.l1(),
          sparsity.l0(),
          sparsity.bandwidth(),
          trainsThreshold ? sae.threshold().gradientData() : MemorySegment.NULL,
          trainsThreshold ? offsets.data() : MemorySegment.NULL,
          trainsThreshold ? byLatent.data() : MemorySegment.NULL,
          tokens,
          m);
      if (sae.isTrainable()) {
        weights(k);
      }
      if (x.needsGradient()) {
        inputGradient(k, keep, x.gradientData(), x.accumulates());
      }
    }

    private void weights(Kernels k) {
      k.saeWeightBackward(
          x.data(),
          bPre,
          out.gradientData(),
          value.data(),
          dValue.data(),
          offsets.data(),
          byLatent.data(),
          capacity,
          sae.wEnc().gradientData(),
          sae.bEnc().gradientData(),
          sae.wDec().gradientData(),
          d,
          m);
      MemorySegment dBias = sae.bDec().gradientData();
      k.columnSum(out.gradientData(), d, keep, 1, dBias, tokens, d);
      if (dInput != null) { // bDec is subtracted from the input, too
        inputGradient(k, MemorySegment.NULL, dInput.data(), false);
        k.columnSum(dInput.data(), d, keep, -1, dBias, tokens, d);
      }
    }

    private void inputGradient(
        Kernels k, MemorySegment kept, MemorySegment dX, boolean accumulate) {
      k.saeEncodeBackward(
          dValue.data(),
          index.data(),
          count.data(),
          capacity,
          sae.wEnc().data(),
          kept,
          out.gradientData(),
          dX,
          accumulate,
          tokens,
          d);
    }

    private static MemorySegment orNull(Var var) {
      return var == null ? MemorySegment.NULL : var.data();
    }

    private static Var[] present(Var... vars) {
      return Arrays.stream(vars).filter(Objects::nonNull).toArray(Var[]::new);
    }
  }
}
