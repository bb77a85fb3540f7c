package espalier.device;

import static espalier.bindings.kernels.Kernels.*;
import static espalier.device.Arguments.*;

import java.lang.foreign.MemorySegment;

/** The kernels that only the training of sparse autoencoders needs; a part of {@link Kernels}. */
abstract sealed class SaeTrainingKernels extends SaeKernels permits Kernels {

  SaeTrainingKernels(ElementType type) {
    super(type);
  }

  /**
   * {@code dY = a dY + gradScale 2 (y - x)}: a reconstruction's error brought into the gradient
   * that came from behind, which a balances against it.
   */
  public void saeMseBackward(
      MemorySegment x,
      MemorySegment y,
      MemorySegment keep,
      MemorySegment error,
      MemorySegment kl,
      float balance,
      MemorySegment dY,
      boolean accumulate,
      float gradScale,
      long tokens,
      long d) {
    String kernel = "esp_sae_mse_backward";
    size(kernel, "tokens", tokens);
    positive(kernel, "d", d);
    elements(kernel, "x", x, tokens, d);
    elements(kernel, "y", y, tokens, d);
    flagsOrNull(kernel, "keep", keep, tokens);
    together(kernel, "error and kl", error, kl);
    floatsOrNull(kernel, "error", error, tokens);
    floatsOrNull(kernel, "kl", kl, tokens);
    elements(kernel, "d_y", dY, tokens, d);
    begin(3.0 * tokens * d, 4.0 * elementBytes * tokens * d);
    check(
        kernel,
        esp_sae_mse_backward(
            x, y, keep, error, kl, balance, dY, flag(accumulate), gradScale, tokens, d, dtype));
  }

  /**
   * Counts a batch's active entries and rows, and for how long each latent has been silent.
   *
   * @param silent {@code [m]} or NULL
   * @param activity float64 {@code [3]}: active entries, rows without keep, silent latents
   */
  public void saeActivity(
      MemorySegment index,
      MemorySegment value,
      MemorySegment count,
      long capacity,
      MemorySegment keep,
      MemorySegment silent,
      float limit,
      MemorySegment activity,
      long tokens,
      long m) {
    String kernel = "esp_sae_activity";
    latentSizes(kernel, capacity, tokens, m);
    lists(kernel, index, count, capacity, tokens);
    floats(kernel, "value", value, tokens, capacity);
    flagsOrNull(kernel, "keep", keep, tokens);
    floatsOrNull(kernel, "silent", silent, m);
    bytes(kernel, "activity", activity, 3, Double.BYTES);
    begin(Double.NaN, Double.NaN);
    check(
        kernel,
        esp_sae_activity(index, value, count, capacity, keep, silent, limit, activity, tokens, m));
  }

  /** {@code sparsity[1]} becomes the pull towards {@code target} active latents a token. */
  public void saeL0Pull(MemorySegment activity, float target, MemorySegment sparsity) {
    bytes("esp_sae_l0_pull", "activity", activity, 3, Double.BYTES);
    floats("esp_sae_l0_pull", "sparsity", sparsity, 3);
    begin(0, 0);
    check("esp_sae_l0_pull", esp_sae_l0_pull(activity, target, sparsity));
  }

  /** The k largest positive pre-activations of latents that have been silent for long. */
  public void saeEncodeSilent(
      MemorySegment x,
      MemorySegment wEnc,
      MemorySegment bEnc,
      MemorySegment bPre,
      MemorySegment silent,
      float limit,
      long k,
      MemorySegment keep,
      MemorySegment index,
      MemorySegment value,
      MemorySegment count,
      long capacity,
      MemorySegment scratch,
      long tokens,
      long d,
      long m) {
    String kernel = "esp_sae_encode_silent";
    latentSizes(kernel, capacity, tokens, d);
    positive(kernel, "m", m);
    elements(kernel, "x", x, tokens, d);
    elements(kernel, "w_enc", wEnc, m, d);
    floats(kernel, "b_enc", bEnc, m);
    floatsOrNull(kernel, "b_pre", bPre, d);
    floats(kernel, "silent", silent, m);
    flagsOrNull(kernel, "keep", keep, tokens);
    lists(kernel, index, count, capacity, tokens);
    floats(kernel, "value", value, tokens, capacity);
    floats(kernel, "scratch", scratch, saeEncodeScratch(d, m));
    begin(2.0 * tokens * d * m, elementBytes * ((double) tokens * d + (double) m * d));
    check(
        kernel,
        esp_sae_encode_silent(
            x, wEnc, bEnc, bPre, silent, limit, k, keep, index, value, count, capacity, scratch,
            tokens, d, m, dtype));
  }

  /**
   * Keeps the largest entries of all rows together, k a row on average.
   *
   * @param smallest {@code [1]}: the smallest value kept, negative for none
   * @param overflow int32 {@code [1]}, or NULL: as of {@link #saeEncode}
   * @return false if a list may have been too short; nothing is changed then
   */
  public boolean saeBatchTopk(
      MemorySegment index,
      MemorySegment value,
      MemorySegment count,
      long capacity,
      long k,
      MemorySegment keep,
      MemorySegment smallest,
      MemorySegment overflow,
      long tokens,
      long m) {
    String kernel = "esp_sae_batch_topk";
    latentSizes(kernel, capacity, tokens, m);
    lists(kernel, index, count, capacity, tokens);
    floats(kernel, "value", value, tokens, capacity);
    flagsOrNull(kernel, "keep", keep, tokens);
    floats(kernel, "smallest", smallest, 1);
    if (isGiven(overflow)) ints(kernel, "overflow", overflow, 1);
    begin(Double.NaN, Double.NaN);
    int status =
        esp_sae_batch_topk(index, value, count, capacity, k, keep, smallest, overflow, tokens, m);
    if (status == ESP_CAPACITY()) return false;
    check(kernel, status);
    return true;
  }

  /**
   * Brings an SAE's state to where batches left it that were computed apart.
   *
   * @param silent {@code [m]}
   * @param threshold {@code [1]}, follows the batches' smallest values
   * @param later {@code [m + batches]}: the silence of latents that began at -2^24, and smallest
   *     values
   * @param overflow int32 {@code [1]}, or NULL: nothing is changed where it is not 0
   */
  public void saeFollow(
      MemorySegment silent,
      MemorySegment threshold,
      float rate,
      MemorySegment later,
      long batches,
      MemorySegment overflow,
      long m) {
    String kernel = "esp_sae_follow";
    positive(kernel, "m", m);
    size(kernel, "batches", batches);
    floats(kernel, "silent", silent, m);
    floats(kernel, "threshold", threshold, 1);
    floats(kernel, "later", later, m + batches);
    if (isGiven(overflow)) ints(kernel, "overflow", overflow, 1);
    begin(Double.NaN, Double.NaN);
    check(kernel, esp_sae_follow(silent, threshold, rate, later, batches, overflow, m));
  }

  /** How many entries of each row are of the first {@code limit} latents. */
  public void saePrefix(
      MemorySegment index,
      MemorySegment count,
      long capacity,
      long limit,
      MemorySegment prefix,
      long tokens) {
    String kernel = "esp_sae_prefix";
    size(kernel, "tokens", tokens);
    positive(kernel, "capacity", capacity);
    lists(kernel, index, count, capacity, tokens);
    ints(kernel, "prefix", prefix, tokens);
    begin(Double.NaN, Double.NaN);
    check(kernel, esp_sae_prefix(index, count, capacity, limit, prefix, tokens));
  }

  /** Magnitudes of the latents whose gates are open. */
  public void saeGatedForward(
      MemorySegment index,
      MemorySegment pre,
      MemorySegment count,
      long capacity,
      MemorySegment bGate,
      MemorySegment rMag,
      MemorySegment bMag,
      MemorySegment value,
      long tokens,
      long m) {
    String kernel = "esp_sae_gated_forward";
    latentSizes(kernel, capacity, tokens, m);
    lists(kernel, index, count, capacity, tokens);
    floats(kernel, "pre", pre, tokens, capacity);
    floats(kernel, "b_gate", bGate, m);
    floats(kernel, "r_mag", rMag, m);
    floats(kernel, "b_mag", bMag, m);
    floats(kernel, "value", value, tokens, capacity);
    begin(Double.NaN, Double.NaN);
    check(
        kernel,
        esp_sae_gated_forward(index, pre, count, capacity, bGate, rMag, bMag, value, tokens, m));
  }

  /** From the gradients of magnitudes and of gates to dPre, in place, and of the biases. */
  public void saeGatedBackward(
      MemorySegment dValue,
      MemorySegment dGate,
      MemorySegment pre,
      MemorySegment value,
      MemorySegment offsets,
      MemorySegment byLatent,
      MemorySegment sparsity,
      MemorySegment bGate,
      MemorySegment rMag,
      MemorySegment dBGate,
      MemorySegment dRMag,
      MemorySegment dBMag,
      long m) {
    String kernel = "esp_sae_gated_backward";
    positive(kernel, "m", m);
    byLatentLists(kernel, offsets, byLatent, m);
    floats(kernel, "d_value", dValue, 0);
    floats(kernel, "d_gate", dGate, 0);
    floats(kernel, "pre", pre, 0);
    floats(kernel, "value", value, 0);
    floatsOrNull(kernel, "sparsity", sparsity, 1);
    floats(kernel, "b_gate", bGate, m);
    floats(kernel, "r_mag", rMag, m);
    floats(kernel, "d_b_gate", dBGate, m);
    floats(kernel, "d_r_mag", dRMag, m);
    floats(kernel, "d_b_mag", dBMag, m);
    begin(Double.NaN, Double.NaN);
    check(
        kernel,
        esp_sae_gated_backward(
            dValue, dGate, pre, value, offsets, byLatent, sparsity, bGate, rMag, dBGate, dRMag,
            dBMag, m));
  }
}
