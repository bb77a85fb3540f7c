package espalier.sae;

import espalier.autograd.Op;
import espalier.autograd.Parameter;
import espalier.autograd.Tape;
import espalier.autograd.Var;
import espalier.device.Device;
import espalier.device.Kernels;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.List;

/**
 * An SAE in training, spliced into a stream of activations as {@link Splice} does, with the losses
 * that need no language model: the squared error of its reconstruction (of each prefix, where it
 * has several), that of its gates, and sparsity. The rest of the model, behind the output, may add
 * a gradient of its own.
 *
 * <p>The backward pass uses lists only. With D the gradient of a reconstruction, the gradient of an
 * active latent i is D . wDec[i]. A latent of several nested reconstructions gets the sum of their
 * gradients: so D is added up from the longest prefix to the shortest, and each prefix overwrites
 * the gradients of its own latents. The gradients of the weights are computed from the inverted
 * lists: latent by latent, over the tokens on which it is active.
 */
public final class TrainedSplice {

  /**
   * Coefficients, in the whole loss, of squared errors summed over tokens and width.
   *
   * @param reconstruction of the SAE's output; 0 for none
   * @param gates of what the gates alone reconstruct, where there are gates
   */
  public record Losses(float reconstruction, float gates) {}

  private final Device device;
  private final TrainableSae trainable;
  private final Sae sae;
  private final MemorySegment keep;
  private final Sparsity sparsity;
  private final Losses losses;
  private final Course course; // null where the SAE has no state to be kept
  private final Latents latents;
  private final Activity activity;
  private final long tokens;
  private final long d;
  private final long m;
  private final MemorySegment bPre;
  private final Var input;
  private final Var output;
  private final Var error;
  private final Var scratch;
  private final Var offsets;
  private final Var dEncoded; // null where nothing trained is taken off the input
  private final List<Level> levels = new ArrayList<>();
  private final Var gateOutput; // null without gates
  private final Var dGateOutput;
  private Var kl; // null where nothing is balanced
  private float balance;

  /**
   * A nested reconstruction.
   *
   * @param from the first latent that the shorter ones do not have
   * @param to the first latent that it does not have
   * @param count entries of each token that belong to it; the lists' own count for the last
   * @param reconstruction the output itself for the last
   */
  private record Level(int from, int to, Var count, Var reconstruction) {}

  private TrainedSplice(
      Tape tape,
      Var x,
      TrainableSae trainable,
      MemorySegment keep,
      Sparsity sparsity,
      Losses losses,
      Course course) {
    if (course == null && trainable.design().architecture().isBatchwide()) {
      throw new IllegalArgumentException("a batchwide SAE has a running threshold");
    }
    this.trainable = trainable;
    this.keep = keep;
    this.sparsity = sparsity;
    this.losses = losses;
    this.course = course;
    sae = trainable.sae();
    input = x;
    tokens = x.rows();
    d = sae.inputs();
    m = sae.latents();
    bPre = sae.bPreData();
    device = tape.device();
    latents = tape.growing(Latents.of(device, trainable.design(), tokens));
    activity = new Activity(device);
    output = tape.value(tokens, d, true);
    error = tape.output(tape.value(1, tokens));
    scratch = tape.value(1, tape.kernels().saeEncodeScratch(d, m));
    offsets = tape.value(1, m + 1);
    dEncoded = sae.bPre() == null ? null : tape.value(tokens, d, false);
    int from = 0;
    for (int to : trainable.design().prefixes()) {
      boolean all = to == m;
      levels.add(
          new Level(
              from,
              to,
              all ? null : tape.value(1, tokens),
              all ? output : tape.value(tokens, d, false)));
      from = to;
    }
    boolean gated = trainable.gates() != null;
    gateOutput = gated ? tape.value(tokens, d, false) : null;
    dGateOutput = gated ? tape.value(tokens, d, false) : null;
  }

  /**
   * @param x {@code [tokens, d]}, in the SAE's own scale
   * @param keep bytes {@code [tokens]} in device memory, 1 where x passes unchanged (BOS, EOS);
   *     NULL for nowhere
   * @param course the SAE's state, which counts silent latents and has the running threshold; null
   *     where neither is needed
   */
  public static TrainedSplice into(
      Tape tape,
      Var x,
      TrainableSae trainable,
      MemorySegment keep,
      Sparsity sparsity,
      Losses losses,
      Course course) {
    TrainedSplice splice = new TrainedSplice(tape, x, trainable, keep, sparsity, losses, course);
    splice.record(tape);
    return splice;
  }

  private void record(Tape tape) {
    Op op = tape.op("saeTraining").reads(input).writes(output, error, scratch);
    List<Var> keeps = new ArrayList<>(List.of(input, output, error));
    for (Level level : levels) {
      if (level.count != null) {
        op.writes(level.count, level.reconstruction);
        keeps.addAll(List.of(level.count, level.reconstruction));
      }
    }
    if (gateOutput != null) {
      op.writes(gateOutput);
      keeps.add(gateOutput);
      op.backwardScratch(dGateOutput);
    }
    op.forward(this::forward).backward(keeps, List.of(input), this::backward);
    op.backwardScratch(offsets);
    if (dEncoded != null) {
      op.backwardScratch(dEncoded);
    }
  }

  /**
   * Weighs the gradient that comes from behind by {@code factor * sum(error) / sum(kl)}, treated as
   * a constant.
   *
   * @param divergence per token, on the same tape
   */
  public void balance(Var divergence, float factor) {
    kl = divergence;
    balance = factor;
  }

  public Var input() {
    return input;
  }

  /** {@code [tokens, d]}, in the SAE's own scale; x at kept positions. */
  public Var output() {
    return output;
  }

  /** {@code |x - y|^2} of each token, {@code [1, tokens]}; 0 at kept positions. */
  public Var error() {
    return error;
  }

  public Latents latents() {
    return latents;
  }

  /** Of the last batch. */
  public Activity activity() {
    return activity;
  }

  MemorySegment keep() {
    return keep;
  }

  TrainableSae trainable() {
    return trainable;
  }

  Course course() {
    return course;
  }

  private void forward(Kernels k) {
    list(k);
    MemorySegment gateValues = latents.pre();
    if (trainable.gates() != null) {
      k.saeGatedForward(
          latents.index(),
          latents.pre(),
          latents.count(),
          latents.capacity(),
          sae.bEnc().data(),
          trainable.gates().rMag().data(),
          trainable.gates().bMag().data(),
          latents.value(),
          tokens,
          m);
      decode(k, gateValues, latents.count(), gateOutput);
    }
    for (int i = 0; i < levels.size(); i++) {
      Level level = levels.get(i);
      if (level.count != null) {
        k.saePrefix(
            latents.index(),
            latents.count(),
            latents.capacity(),
            level.to,
            level.count.data(),
            tokens);
      }
      decode(k, latents.value(), count(level), level.reconstruction);
    }
    k.saeMse(input.data(), output.data(), keep, error.data(), MemorySegment.NULL, 0, tokens, d);
    if (course != null) {
      count(k, course.silentWithinStep());
    }
    count(k, course == null ? MemorySegment.NULL : course.silent());
    if (trainsThreshold() && trainable.design().k() > 0) {
      k.saeL0Pull(activity.data(), trainable.design().k(), sparsity.data());
    }
  }

  private void count(Kernels k, MemorySegment silent) {
    k.saeActivity(
        latents.index(),
        latents.value(),
        latents.count(),
        latents.capacity(),
        keep,
        silent,
        trainable.design().deadAfter(),
        activity.data(),
        tokens,
        m);
  }

  private MemorySegment count(Level level) {
    return level.count == null ? latents.count() : level.count.data();
  }

  /** Encodes into the lists; as long as they are too short, again with longer ones. */
  private void list(Kernels k) {
    boolean batchwide = trainable.design().architecture().isBatchwide();
    while (true) {
      if (!encode(k, batchwide)) {
        latents.grow();
      } else if (batchwide && !choose(k)) {
        latents.grow(Math.toIntExact(latents.capacity() + 1));
      } else {
        int needed = device.takeOverflow();
        if (needed == 0) {
          return;
        }
        latents.grow(needed);
      }
    }
  }

  private boolean encode(Kernels k, boolean batchwide) {
    return k.saeEncode(
        input.data(),
        sae.wEnc().matrix().data(),
        sae.bEnc().data(),
        bPre,
        sae.activation().ordinal(),
        sae.thresholdData(),
        sae.threshold() == null ? 0 : trainable.design().bandwidth() / 2,
        batchwide ? latents.capacity() : sae.k(),
        keep,
        latents.index(),
        latents.value(),
        latents.pre(),
        latents.count(),
        latents.capacity(),
        device.control().overflowData(),
        scratch.data(),
        tokens,
        d,
        m);
  }

  /**
   * Keeps the largest of the batch's candidates; false if a list may have been too short for them.
   */
  private boolean choose(Kernels k) {
    return k.saeBatchTopk(
        latents.index(),
        latents.value(),
        latents.count(),
        latents.capacity(),
        trainable.design().k(),
        keep,
        course.smallest(),
        device.control().overflowData(),
        tokens,
        m);
  }

  private boolean trainsThreshold() {
    return sae.threshold() != null && sae.threshold().isTrainable();
  }

  private void decode(Kernels k, MemorySegment values, MemorySegment count, Var to) {
    k.saeDecode(
        latents.index(),
        values,
        count,
        latents.capacity(),
        sae.wDec().matrix().data(),
        sae.bDec().data(),
        keep,
        input.data(),
        to.data(),
        tokens,
        d);
  }

  private void backward(Kernels k) {
    MemorySegment dY = output.gradientData();
    k.saeByLatent(
        latents.index(),
        latents.count(),
        latents.capacity(),
        offsets.data(),
        latents.byLatent(),
        tokens,
        m);
    for (int i = levels.size() - 1; i >= 0; i--) {
      Level level = levels.get(i);
      errorGradient(k, level, dY);
      latentGradient(k, dY, count(level), latents.gradient());
      activationGradient(k);
      weightGradient(k, level, dY);
    }
    k.columnSum(dY, d, keep, 1, sae.bDec().gradientData(), tokens, d);
    if (dEncoded != null) {
      inputGradient(k, MemorySegment.NULL, dEncoded.data(), false);
      k.columnSum(dEncoded.data(), d, keep, -1, sae.bPre().gradientData(), tokens, d);
    }
    if (input.needsGradient()) {
      inputGradient(k, keep, input.gradientData(), input.accumulates());
    }
  }

  /**
   * Adds the gradient of this reconstruction's error to that of all reconstructions that contain
   * it.
   */
  private void errorGradient(Kernels k, Level level, MemorySegment dY) {
    boolean balanced = level.reconstruction == output && kl != null;
    boolean accumulate = output.accumulates();
    if (accumulate && losses.reconstruction == 0) {
      return;
    }
    k.saeMseBackward(
        input.data(),
        level.reconstruction.data(),
        keep,
        balanced ? error.data() : MemorySegment.NULL,
        balanced ? kl.data() : MemorySegment.NULL,
        balance,
        dY,
        accumulate,
        losses.reconstruction,
        tokens,
        d);
  }

  private void latentGradient(
      Kernels k, MemorySegment dY, MemorySegment count, MemorySegment gradient) {
    k.saeDecodeBackward(
        dY,
        latents.index(),
        count,
        latents.capacity(),
        sae.wDec().matrix().data(),
        gradient,
        tokens,
        d);
  }

  /** Turns the gradient of the values into that of z. For the k largest both are the same. */
  private void activationGradient(Kernels k) {
    switch (trainable.design().architecture()) {
      case TOPK, BATCHTOPK, MATRYOSHKA -> {}
      case GATED -> gateGradient(k);
      case STANDARD, JUMPRELU ->
          k.saeActivationBackward(
              latents.gradient(),
              latents.pre(),
              latents.value(),
              latents.index(),
              latents.count(),
              latents.capacity(),
              sae.activation().ordinal(),
              sae.thresholdData(),
              sparsity.data(),
              trainable.design().bandwidth(),
              trainsThreshold() ? sae.threshold().gradientData() : MemorySegment.NULL,
              offsets.data(),
              latents.byLatent(),
              tokens,
              m);
    }
  }

  /**
   * The gates learn from the error of what they alone reconstruct; the decoder does not learn from
   * that error.
   */
  private void gateGradient(Kernels k) {
    k.saeMseBackward(
        input.data(),
        gateOutput.data(),
        keep,
        MemorySegment.NULL,
        MemorySegment.NULL,
        1,
        dGateOutput.data(),
        false,
        losses.gates,
        tokens,
        d);
    latentGradient(k, dGateOutput.data(), latents.count(), latents.gateGradient());
    TrainableSae.Gates gates = trainable.gates();
    k.saeGatedBackward(
        latents.gradient(),
        latents.gateGradient(),
        latents.pre(),
        latents.value(),
        offsets.data(),
        latents.byLatent(),
        sparsity.data(),
        sae.bEnc().data(),
        gates.rMag().data(),
        sae.bEnc().gradientData(),
        gates.rMag().gradientData(),
        gates.bMag().gradientData(),
        m);
  }

  /** Adds the gradients of the weights of those latents that the shorter prefixes do not have. */
  private void weightGradient(Kernels k, Level level, MemorySegment dY) {
    int n = level.to - level.from;
    k.saeWeightBackward(
        input.data(),
        bPre,
        dY,
        latents.value(),
        latents.gradient(),
        offsets.data().asSlice((long) level.from * Integer.BYTES),
        latents.byLatent(),
        latents.capacity(),
        rows(sae.wEnc(), level.from, n),
        sae.bEnc().gradient().columns(level.from, n).data(),
        rows(sae.wDec(), level.from, n),
        d,
        n);
  }

  private static MemorySegment rows(Parameter matrix, int from, int count) {
    return matrix.gradient().rows(from, count).data();
  }

  private void inputGradient(Kernels k, MemorySegment kept, MemorySegment dX, boolean accumulate) {
    k.saeEncodeBackward(
        latents.gradient(),
        latents.index(),
        latents.count(),
        latents.capacity(),
        sae.wEnc().matrix().data(),
        kept,
        output.gradientData(),
        dX,
        accumulate,
        tokens,
        d);
  }
}
