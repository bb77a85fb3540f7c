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
 * <p>Latents exist only as (index, value) lists, and every gradient is computed from these lists.
 * With dY the gradient of what is decoded, the gradient of an active latent i is dY . wDec[i], and
 * dX is the sum over the active latents of that times wEnc[i]. Where the input is normalised,
 * gradients go through its statistics, too. The SAE itself is frozen; one in training is a {@link
 * TrainedSplice}.
 *
 * @param input {@code [tokens, dIn]}
 * @param output {@code [tokens, dOut]}
 * @param keep bytes {@code [tokens]} in device memory, 1 at positions that pass unchanged
 * @param spread {@code [tokens, 1]}: the factor on what is decoded, where the scale of the input is
 *     restored; else null
 */
public record Splice(
    Sae sae, Var input, Var output, Latents latents, MemorySegment keep, Var spread) {

  /**
   * @param x {@code [tokens, dIn]}
   * @param keep bytes {@code [tokens]} in device memory, 1 where x passes unchanged (BOS, EOS);
   *     NULL for nowhere
   */
  public static Splice into(Tape tape, Var x, Sae sae, MemorySegment keep) {
    if (sae.isTrainable()) {
      throw new IllegalArgumentException("an SAE in training has an operation of its own");
    }
    if (x.cols() != sae.inputs()) {
      throw new IllegalArgumentException("an SAE of " + sae.inputs() + " inputs for " + x);
    }
    if (sae.outputs() != sae.inputs() && !keep.equals(MemorySegment.NULL)) {
      throw new IllegalArgumentException("nothing passes a transcoder unchanged");
    }
    return new Recorder(tape, x, sae, keep).record();
  }

  /** Records the one operation of a splice. Values that this SAE does not need are null. */
  private static final class Recorder {
    private final Tape tape;
    private final Var x;
    private final Sae sae;
    private final MemorySegment keep;
    private final long tokens;
    private final long dIn;
    private final long dOut;
    private final long m;
    private final MemorySegment bPre;
    private final MemorySegment threshold;
    private final Latents latents;
    private final Var out;
    private final ShardedSplice sharded; // where ranks hold the SAE together
    private final Var scratch;
    private final Var normalised; // what is encoded, if not x
    private final Var mean;
    private final Var spread;
    private final Var decoded; // what becomes out once scale and skip connection are added
    private final Var skipped;
    private final Var dDecoded;
    private final Var dSkipped;
    private final Var dMean;
    private final Var dSpread;
    private final Var dEncoded; // the gradient of what is encoded, if it is not x's

    Recorder(Tape tape, Var x, Sae sae, MemorySegment keep) {
      this.tape = tape;
      this.x = x;
      this.sae = sae;
      this.keep = keep;
      tokens = x.rows();
      dIn = sae.inputs();
      dOut = sae.outputs();
      m = sae.latents();
      bPre = sae.bPreData();
      threshold = sae.thresholdData();
      boolean backward = x.needsGradient();
      latents = tape.growing(Latents.of(tape.device(), sae, tokens, backward));
      out = tape.value(tokens, dOut, backward);
      boolean isSharded = sae.shard() != null;
      sharded = isSharded ? new ShardedSplice(tape, sae, tokens, latents, backward) : null;
      scratch = valueIf(!isSharded, 1, tape.kernels().saeEncodeScratch(dIn, m));
      boolean restores = sae.isNormalised() && sae.restoresScale();
      boolean skips = sae.skip() != null;
      normalised = activationsIf(sae.isNormalised(), tokens, dIn);
      mean = valueIf(sae.isNormalised(), tokens, 1);
      spread = valueIf(sae.isNormalised(), tokens, 1);
      decoded = activationsIf(restores || skips, tokens, dOut);
      skipped = activationsIf(skips, tokens, dOut);
      dDecoded = activationsIf(restores || skips, tokens, dOut);
      dSkipped = activationsIf(restores && skips, tokens, dOut);
      dMean = valueIf(restores, tokens, 1);
      dSpread = valueIf(restores, tokens, 1);
      dEncoded = activationsIf(sae.isNormalised(), tokens, dIn);
    }

    private Var activationsIf(boolean needed, long rows, long cols) {
      return needed ? tape.value(rows, cols, false) : null;
    }

    private Var valueIf(boolean needed, long rows, long cols) {
      return needed ? tape.value(rows, cols) : null;
    }

    private boolean restores() {
      return dSpread != null;
    }

    Splice record() {
      Op op = tape.op("saeSplice").reads(x);
      op.writes(present(out, scratch, normalised, mean, spread, decoded, skipped));
      op.forward(this::forward);
      List<Var> keeps = new ArrayList<>(List.of(present(mean, spread)));
      if (sae.isNormalised()) {
        keeps.add(x);
      }
      if (restores()) {
        keeps.add(decoded);
      }
      op.backward(keeps, List.of(x), this::backward);
      op.backwardScratch(present(dDecoded, dSkipped, dMean, dSpread, dEncoded));
      if (sharded != null) {
        op.writes(sharded.forwardScratch().toArray(Var[]::new));
        op.join(sharded::join);
        if (x.needsGradient()) {
          op.backwardScratch(sharded.backwardScratch().toArray(Var[]::new));
        }
      }
      return new Splice(sae, x, out, latents, keep, restores() ? spread : null);
    }

    private void forward(Kernels k) {
      Var encoded = x;
      if (normalised != null) {
        k.saeNormalize(
            x.data(),
            sae.normalisation().ordinal(),
            normalised.data(),
            mean.data(),
            spread.data(),
            tokens,
            dIn);
        encoded = normalised;
      }
      list(k, encoded);
      if (decoded == null) {
        decode(k, keep, out);
        return;
      }
      decode(k, MemorySegment.NULL, decoded);
      if (skipped != null) { // x skip^T
        MemorySegment w = sae.skip().matrix().data();
        k.gemm(false, true, tokens, dOut, dIn, 1, x.data(), dIn, w, dIn, 0, skipped.data(), dOut);
      }
      k.saeRestore(
          decoded.data(),
          restores() ? mean.data() : MemorySegment.NULL,
          restores() ? spread.data() : MemorySegment.NULL,
          orNull(skipped),
          keep,
          x.data(),
          out.data(),
          tokens,
          dOut);
    }

    private void list(Kernels k, Var encoded) {
      if (sharded != null) {
        sharded.encode(k, encoded.data(), keep);
        return;
      }
      while (!encode(k, encoded)) {
        latents.grow();
      }
      int needed;
      while ((needed = tape.device().takeOverflow()) > 0) {
        latents.grow(needed);
        encode(k, encoded);
      }
    }

    /** Whether the lists were long enough. */
    private boolean encode(Kernels k, Var encoded) {
      return k.saeEncode(
          encoded.data(),
          sae.wEnc().matrix().data(),
          sae.bEnc().data(),
          bPre,
          sae.activation().ordinal(),
          threshold,
          0,
          sae.k(),
          keep,
          latents.index(),
          latents.value(),
          latents.pre(),
          latents.count(),
          latents.capacity(),
          tape.device().control().overflowData(),
          scratch.data(),
          tokens,
          dIn,
          m);
    }

    private void decode(Kernels k, MemorySegment kept, Var to) {
      if (sharded != null) {
        sharded.decode(k, kept, x.data(), to.data());
        return;
      }
      k.saeDecode(
          latents.index(),
          latents.value(),
          latents.count(),
          latents.capacity(),
          sae.wDec().matrix().data(),
          sae.bDec().data(),
          kept,
          x.data(),
          to.data(),
          tokens,
          dOut);
    }

    private void backward(Kernels k) {
      MemorySegment dY = out.gradientData();
      if (dDecoded != null) {
        k.saeRestoreBackward(
            out.gradientData(),
            restores() ? decoded.data() : MemorySegment.NULL,
            restores() ? spread.data() : MemorySegment.NULL,
            keep,
            dDecoded.data(),
            orNull(dSkipped),
            orNull(dMean),
            orNull(dSpread),
            tokens,
            dOut);
        dY = dDecoded.data();
      }
      latentGradient(k, dY);
      inputGradient(k);
    }

    /** Computes the gradient of each entry's z. */
    private void latentGradient(Kernels k, MemorySegment dY) {
      if (sharded != null) {
        sharded.decodeBackward(k, dY);
      } else {
        k.saeDecodeBackward(
            dY,
            latents.index(),
            latents.count(),
            latents.capacity(),
            sae.wDec().matrix().data(),
            latents.gradient(),
            tokens,
            dOut);
      }
      k.saeActivationBackward(
          latents.gradient(),
          latents.pre(),
          latents.value(),
          latents.index(),
          latents.count(),
          latents.capacity(),
          sae.activation().ordinal(),
          threshold,
          MemorySegment.NULL,
          1,
          MemorySegment.NULL,
          MemorySegment.NULL,
          MemorySegment.NULL,
          tokens,
          m);
    }

    private void inputGradient(Kernels k) {
      boolean accumulate = x.accumulates();
      if (normalised == null) {
        encodedGradient(k, keep, x.gradientData(), accumulate);
      } else {
        encodedGradient(k, MemorySegment.NULL, dEncoded.data(), false);
        k.saeNormalizeBackward(
            x.data(),
            mean.data(),
            spread.data(),
            sae.normalisation().ordinal(),
            dEncoded.data(),
            orNull(dMean),
            orNull(dSpread),
            keep,
            out.gradientData(),
            x.gradientData(),
            accumulate,
            tokens,
            dIn);
      }
      if (skipped != null) { // of kept rows there is nothing
        MemorySegment d = dSkipped == null ? dDecoded.data() : dSkipped.data();
        MemorySegment w = sae.skip().matrix().data();
        k.gemm(false, false, tokens, dIn, dOut, 1, d, dOut, w, dIn, 1, x.gradientData(), dIn);
      }
    }

    private void encodedGradient(
        Kernels k, MemorySegment kept, MemorySegment dX, boolean accumulate) {
      if (sharded != null) {
        if (accumulate) {
          throw new IllegalStateException("what else reads a sharded SAE's input has no gradient");
        }
        sharded.encodeBackward(k, kept, out.gradientData(), dX);
        return;
      }
      k.saeEncodeBackward(
          latents.gradient(),
          latents.index(),
          latents.count(),
          latents.capacity(),
          sae.wEnc().matrix().data(),
          kept,
          out.gradientData(),
          dX,
          accumulate,
          tokens,
          dIn);
    }

    private static MemorySegment orNull(Var var) {
      return var == null ? MemorySegment.NULL : var.data();
    }

    private static Var[] present(Var... vars) {
      return Arrays.stream(vars).filter(Objects::nonNull).toArray(Var[]::new);
    }
  }
}
