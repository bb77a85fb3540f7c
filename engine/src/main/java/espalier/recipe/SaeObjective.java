package espalier.recipe;

import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.autograd.Elementwise;
import espalier.autograd.LanguageModelHead;
import espalier.autograd.Tape;
import espalier.autograd.Var;
import espalier.device.Device;
import espalier.device.Kernels;
import espalier.format.SaeWeights.Activation;
import espalier.model.LanguageModel;
import espalier.model.TokenBatch;
import espalier.nn.Adapters;
import espalier.sae.Latents;
import espalier.sae.ReconstructionLoss;
import espalier.sae.Sparsity;
import espalier.sae.Splice;
import espalier.sae.TrainableSae;
import espalier.train.Objective;
import java.lang.foreign.MemorySegment;

/**
 * Trains one SAE on the activations of a frozen model, streamed batch by batch: on its
 * reconstruction error, or end to end on KL(original || spliced) through the rest of the model
 * (Braun et al. 2024).
 *
 * <p>The reconstruction error is that of scaled activations, whose variance is 1, so the loss of a
 * token is d times its fraction of variance unexplained; it is divided by d. A JumpReLU SAE is also
 * pulled towards its target L0 by ((L0 / target) - 1)^2 through the straight-through gradient of
 * its thresholds (Rajamanoharan et al. 2024; the quadratic form as in Gemma Scope 2). A standard
 * SAE pays l1 times the sum of its latents.
 */
final class SaeObjective implements Objective {

  /** What the SAE is trained for. */
  enum Loss {
    MSE,
    E2E
  }

  /**
   * @param l0 target of a JumpReLU SAE
   * @param l1 coefficient of a standard SAE
   * @param bandwidth of the straight-through gradient, in units of scaled pre-activations
   */
  record Settings(Loss loss, double l0, double l1, double bandwidth) {}

  private final Device device;
  private final TrainableSae trainable;
  private final Settings settings;
  private final BatchSource source;
  private final TokenBatch batch;
  private final Tape tape;
  private final Splice splice;
  private final Var loss;
  private final Sparsity sparsity;
  private final int accumulate;

  SaeObjective(
      Device device,
      LanguageModel model,
      int layer,
      TrainableSae trainable,
      Settings settings,
      BatchSource source,
      TokenBatch batch,
      int accumulate) {
    this.device = device;
    this.trainable = trainable;
    this.settings = settings;
    this.source = source;
    this.batch = batch;
    this.accumulate = accumulate;
    sparsity = new Sparsity(device, (float) settings.bandwidth);
    tape = new Tape(device);
    Var x = model.embed(tape, batch);
    for (int i = 0; i <= layer; i++) {
      x = model.block(tape, i, x, batch, Adapters.NONE);
    }
    Var scaled = Elementwise.scale(tape, x, 1 / trainable.scale());
    splice = Splice.into(tape, scaled, trainable.sae(), batch.keep(), sparsity);
    loss = settings.loss == Loss.MSE ? reconstruction() : endToEnd(model, layer, x);
    double perToken = 1.0 / (batch.tokens() * accumulate);
    double l1 = trainable.sae().activation() == Activation.RELU ? settings.l1 : 0;
    sparsity.set((float) (l1 * perToken), 0, 1f / accumulate);
  }

  private Var reconstruction() {
    double perToken = 1.0 / (batch.tokens() * trainable.sae().inputs() * accumulate);
    return ReconstructionLoss.record(tape, splice, (float) perToken);
  }

  private Var endToEnd(LanguageModel model, int layer, Var x) {
    Var teacher = x;
    Var student = Elementwise.scale(tape, splice.output(), trainable.scale());
    for (int i = layer + 1; i < model.layers(); i++) {
      teacher = model.block(tape, i, teacher, batch, Adapters.NONE);
      student = model.block(tape, i, student, batch, Adapters.NONE);
    }
    return LanguageModelHead.kl(
            tape,
            model.finalNorm(tape, student),
            model.finalNorm(tape, teacher),
            model.head(),
            model.finalSoftcap(),
            MemorySegment.NULL,
            1f / (batch.tokens() * accumulate))
        .kl();
  }

  Tape tape() {
    return tape;
  }

  @Override
  public long tokens() {
    return batch.tokens();
  }

  /** The loss and the three of esp_sae_activity. */
  @Override
  public int numbers() {
    return 4;
  }

  @Override
  public void prepare(long index, int slot) {
    source.prepare(index, batch, slot);
  }

  @Override
  public void accumulate(int slot, MemorySegment numbers) {
    MemorySegment activity = numbers.asSlice(Double.BYTES);
    batch.upload(slot);
    tape.forward();
    Kernels kernels = device.kernels();
    Latents latents = splice.latents();
    kernels.saeActivity(
        latents.index(),
        latents.value(),
        latents.count(),
        latents.capacity(),
        batch.keep(),
        MemorySegment.NULL,
        0,
        activity,
        batch.tokens(),
        latents.width());
    if (trainable.sae().activation() == Activation.JUMPRELU) {
      kernels.saeL0Pull(activity, (float) settings.l0, sparsity.data());
    }
    tape.backward();
    kernels.sum(loss.data(), loss.size(), numbers);
    kernels.sum(loss.data(), loss.size(), device.control().lossData(), true);
  }

  @Override
  public void grow(int entries) {
    tape.grow(entries);
  }

  @Override
  public void beforeUpdate() {
    trainable.projectDecoderGradient(device);
  }

  @Override
  public void afterUpdate() {
    trainable.normalizeDecoder(device);
  }

  @Override
  public void describe(ObjectNode line, double[] sums, long microBatches) {
    long tokens = microBatches * batch.tokens();
    if (settings.loss == Loss.MSE) {
      line.put("fvu", sums[0] / (tokens * trainable.sae().inputs()));
    } else {
      line.put("kl", sums[0] / tokens);
    }
    line.put("l0", sums[1] / sums[2]);
  }
}
