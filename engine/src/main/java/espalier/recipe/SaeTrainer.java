package espalier.recipe;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.autograd.Elementwise;
import espalier.autograd.LanguageModelHead;
import espalier.autograd.SquaredError;
import espalier.autograd.Tape;
import espalier.autograd.Var;
import espalier.device.Device;
import espalier.device.ElementType;
import espalier.device.Kernels;
import espalier.distributed.Ranks;
import espalier.model.LanguageModel;
import espalier.model.TokenBatch;
import espalier.nn.Adapters;
import espalier.sae.AuxiliaryLoss;
import espalier.sae.Course;
import espalier.sae.Sparsity;
import espalier.sae.TrainableSae;
import espalier.sae.TrainedSplice;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.List;

/**
 * Records one SAE's losses on a tape, and describes them for the metrics.
 *
 * <p>All losses are means over the tokens of a batch. FVU is the reconstruction error divided by
 * the width and by the variance of what the SAE reads (the fraction of variance unexplained); that
 * of a Matryoshka SAE is summed over its prefixes. The whole loss is
 *
 * <pre>
 *   mse          FVU + auxiliary AuxK + sparsity
 *   e2e          KL + sparsity
 *   e2e+ds       kl KL + downstream (mean over the later streams of their squared error) + sparsity
 *   kl-finetune  (FVU + auxiliary AuxK + a KL) / 2 + sparsity, a = FVU / KL taken for a constant
 * </pre>
 *
 * Sparsity is l1 times the sum of latents (standard; gated: of gates, which also reconstruct by
 * themselves), or l0 ((L0 / k) - 1)^2 (jumprelu).
 */
final class SaeTrainer {

  /** Numbers of a batch that are added up over a step. */
  static final int SUMS = 7;

  private static final int ERROR = 0;
  private static final int AUXILIARY = 1;
  private static final int KL = 2;
  private static final int DOWNSTREAM = 3;
  private static final int ACTIVE = 4;
  private static final int APPLIED = 5;
  private static final int DEAD = 6;

  private final int layer;
  private final TrainableSae sae;
  private final Device device;
  private final Kernels floats; // float32, whatever the type of activations
  private final SaeLoss loss;
  private final SaeLossWeights weights;
  private final TokenBatch batch;
  private final Tape tape;
  private final double perToken;
  private final Sparsity sparsity;
  private final Course course;
  private final TrainedSplice splice;
  private final Var auxiliary; // null without
  private final List<Var> downstream = new ArrayList<>();
  private Var kl; // null without

  /**
   * @param x the residual stream after the SAE's block
   * @param accumulate batches an update, of each rank
   */
  SaeTrainer(
      Device device,
      Tape tape,
      int layer,
      Var x,
      TrainableSae sae,
      SaeLoss loss,
      SaeLossWeights weights,
      TokenBatch batch,
      int accumulate,
      Ranks ranks) {
    this.tape = tape;
    this.layer = layer;
    this.sae = sae;
    this.loss = loss;
    this.weights = weights;
    this.batch = batch;
    perToken = 1.0 / ((double) batch.tokens() * accumulate * ranks.size());
    this.device = device;
    floats = device.kernels(ElementType.F32);
    sparsity = new Sparsity(device, accumulate);
    course = new Course(device, sae, accumulate, ranks);
    double perElement = perToken / tokenVariance();
    double half = loss == SaeLoss.KL_FINETUNE ? 0.5 : 1;
    Var scaled = sae.scale() == 1 ? x : Elementwise.scale(tape, x, 1 / sae.scale());
    splice =
        TrainedSplice.into(
            tape,
            scaled,
            sae,
            batch.keep(),
            sparsity,
            new TrainedSplice.Losses(
                (float) (loss.hasReconstruction() ? half * perElement : 0),
                (float) (half * perElement)),
            course);
    auxiliary =
        weights.auxiliary() > 0 && loss.hasReconstruction()
            ? AuxiliaryLoss.record(
                tape, splice, auxiliaryLatents(), (float) (half * weights.auxiliary() * perElement))
            : null;
  }

  /** d s^2: a token's squared error, in the SAE's own scale, is divided by it. */
  private double tokenVariance() {
    return sae.sae().inputs() * sae.variance();
  }

  private int auxiliaryLatents() {
    long half = Math.max(1, sae.sae().inputs() / 2);
    long wanted = weights.auxiliaryLatents() > 0 ? weights.auxiliaryLatents() : half;
    return (int) Math.min(wanted, sae.sae().latents());
  }

  /** Each later residual stream of the original, and the one that the final norm reads. */
  record Teacher(List<Var> streams, Var hidden) {}

  /** Records the rest of the model behind the SAE. */
  void throughModel(LanguageModel model, Teacher teacher) {
    Var student =
        sae.scale() == 1 ? splice.output() : Elementwise.scale(tape, splice.output(), sae.scale());
    int last = model.layers() - 1;
    for (int i = layer + 1; i <= last; i++) {
      student = model.block(tape, i, student, batch, Adapters.NONE);
      if (loss == SaeLoss.E2E_DOWNSTREAM && i < last) {
        double streams = last - 1.0 - layer;
        double coefficient = weights.downstream() * perToken / (streams * streamVariance());
        downstream.add(SquaredError.of(tape, student, teacher.streams.get(i), (float) coefficient));
      }
    }
    double coefficient = loss == SaeLoss.E2E_DOWNSTREAM ? weights.kl() : 1;
    kl =
        LanguageModelHead.kl(
                tape,
                model.finalNorm(tape, student),
                teacher.hidden,
                model.head(),
                model.finalSoftcap(),
                MemorySegment.NULL,
                (float) (coefficient * perToken))
            .kl();
    if (loss == SaeLoss.KL_FINETUNE) {
      splice.balance(kl, (float) (0.5 / tokenVariance()));
    }
  }

  /** {@link #tokenVariance} in the model's scale, which the streams behind the SAE have. */
  private double streamVariance() {
    return tokenVariance() * sae.scale() * sae.scale();
  }

  int layer() {
    return layer;
  }

  TrainableSae sae() {
    return sae;
  }

  /** Prepares one batch on the host. */
  void prepare(long step, int slot) {
    double warmth =
        weights.sparsityWarmup() == 0 ? 1 : Math.min(1, (step + 1.0) / weights.sparsityWarmup());
    double l1 = sae.design().architecture().hasL1() ? weights.l1() : 0;
    // The pull is of means over the tokens already; accumulated batches share it.
    double share = perToken * batch.tokens();
    sparsity.prepare(
        slot, (float) (warmth * l1 * perToken), 0, (float) (warmth * weights.l0() * share));
  }

  /** Queued before the batch goes through the tape. */
  void begin(int slot) {
    sparsity.upload(slot);
    course.begin(slot);
  }

  /** How the step's batches change the SAE's state. */
  Course course() {
    return course;
  }

  /**
   * Queued after the batch has been through the tape: writes what it adds to a step's sums.
   *
   * @param total float64: the sum of all losses, added to
   * @param own float64 {@code [SUMS]}, overwritten
   */
  void count(MemorySegment total, MemorySegment own) {
    add(splice.error(), ERROR, total, own, false);
    if (auxiliary != null) {
      add(auxiliary, AUXILIARY, total, own, false);
    }
    if (kl != null) {
      add(kl, KL, total, own, false);
    }
    for (int i = 0; i < downstream.size(); i++) {
      add(downstream.get(i), DOWNSTREAM, total, own, i > 0);
    }
    // Three float64, moved as they are: entries, tokens, dead latents.
    floats.copy(splice.activity().data(), number(own, ACTIVE), 3 * Double.BYTES / Float.BYTES);
  }

  private void add(
      Var losses, int number, MemorySegment total, MemorySegment own, boolean accumulate) {
    device.kernels().sum(losses.data(), losses.size(), number(own, number), accumulate);
    device.kernels().sum(losses.data(), losses.size(), total, true);
    device.kernels().sum(losses.data(), losses.size(), device.control().lossData(), true);
  }

  private static MemorySegment number(MemorySegment numbers, int at) {
    return numbers.asSlice((long) at * Double.BYTES);
  }

  /** Means over a step, from what {@link #count} wrote of its batches. */
  ObjectNode describe(double[] sums, int at, long microBatches) {
    ObjectNode line = JsonNodeFactory.instance.objectNode();
    double tokens = (double) microBatches * batch.tokens();
    double total = sums[at + APPLIED] * tokenVariance();
    line.put("fvu", sums[at + ERROR] / total);
    if (kl != null) {
      line.put("kl", sums[at + KL] / tokens);
    }
    if (!downstream.isEmpty()) {
      double scale = downstream.size() * tokens * streamVariance();
      line.put("downstream", sums[at + DOWNSTREAM] / scale);
    }
    if (auxiliary != null) {
      line.put("auxiliary", sums[at + AUXILIARY] / total);
    }
    line.put("l0", sums[at + ACTIVE] / sums[at + APPLIED]);
    line.put("dead", sums[at + DEAD] / (microBatches * sae.design().latents()));
    return line;
  }
}
