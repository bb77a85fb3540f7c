package espalier.sae;

import espalier.device.Device;
import espalier.device.ElementType;
import espalier.device.Kernels;
import espalier.distributed.Ranks;
import espalier.tensor.Tensor;
import java.lang.foreign.MemorySegment;

/**
 * The state of an SAE in training beside its parameters, and how a step's batches change it: for
 * how long each latent has been silent, and the running threshold of a batchwide SAE.
 *
 * <p>A batch sees the state that the step began with, and itself, but no other batch of the step:
 * those may be on other ranks. After the step all batches are applied in their order, whichever
 * rank computed them ({@link #exchange}, then {@link #follow}). So N ranks leave the same state as
 * one rank with N times as many batches.
 */
public final class Course {

  /**
   * Weight of the newest batch in the running threshold. SAELens has 0.01. But the smallest value
   * that a batch of thousands of latents keeps varies little, and in a run of a few hundred steps
   * it falls faster than such an average follows: after 100 steps of the demo only a third of the
   * latents were left.
   */
  private static final float THRESHOLD_RATE = 0.1f;

  /** A rank's batches of a step must have fewer rows than this: see esp_sae_follow. */
  public static final int MOST_ROWS = 1 << 24;

  private final Device device;
  private final Kernels floats; // float32, whatever the type of activations
  private final TrainableSae sae;
  private final int batches;
  private final Ranks ranks;
  private final long m;
  private final Tensor silent; // [1, m], as the batch sees it
  private final Tensor later; // [ranks, m + batches], see esp_sae_follow
  private int batch;

  /**
   * @param batches how many each rank has in a step
   */
  public Course(Device device, TrainableSae sae, int batches, Ranks ranks) {
    this.device = device;
    this.sae = sae;
    this.batches = batches;
    this.ranks = ranks;
    floats = device.kernels(ElementType.F32);
    m = sae.design().latents();
    silent = Tensor.allocate(device, 1, m);
    later = Tensor.allocate(device, ranks.size(), m + batches);
  }

  /** Queued before a batch of the step, counted from 0 on this rank. */
  public void begin(int batch) {
    this.batch = batch;
    Tensor own = own();
    if (batch == 0) {
      floats.fill(own.data(), -MOST_ROWS, m);
      floats.fill(own.columns(m, batches).data(), -1, batches);
    }
    floats.copy(sae.silent().data(), silent.data(), m);
  }

  /** Queued between the halves of a step: tells the other ranks of this one's batches. */
  public void exchange() {
    ranks.collect(later.data(), later.size(), later.cols());
  }

  /** Queued at the end of a step: brings the SAE's state forward by all its batches. */
  public void follow() {
    for (int r = 0; r < ranks.size(); r++) {
      floats.saeFollow(
          sae.silent().data(),
          sae.batchThreshold().data(),
          THRESHOLD_RATE,
          later.rows(r, 1).data(),
          batches,
          device.control().overflowData(),
          m);
    }
  }

  private Tensor own() {
    return later.rows(ranks.rank(), 1);
  }

  /** {@code [1, m]}: tokens since each latent was active, for the current batch. */
  MemorySegment silent() {
    return silent.data();
  }

  /**
   * {@code [1, m]}: the same for this rank's batches of the step alone; it begins below zero at the
   * first of them.
   */
  MemorySegment silentWithinStep() {
    return own().columns(0, m).data();
  }

  /** {@code [1]}: the smallest value that the current batch keeps. */
  MemorySegment smallest() {
    return own().columns(m + batch, 1).data();
  }
}
