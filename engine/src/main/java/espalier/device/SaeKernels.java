package espalier.device;

import static espalier.bindings.kernels.Kernels.*;
import static espalier.device.Arguments.*;

import espalier.bindings.NativeException;
import java.lang.foreign.MemorySegment;

/**
 * The kernels of sparse autoencoders; a part of {@link Kernels}. After encoding, latents are lists:
 * token t has count[t] entries (index, value) in matrices {@code [tokens, capacity]}, indices
 * ascending.
 */
abstract sealed class SaeKernels permits SaeTrainingKernels {

  /** The type of activations and of matrices of weights. */
  final ElementType type;

  /** The number of {@link #type} in esp_dtype. */
  final int dtype;

  final int elementBytes;

  private Profile profile; // null: nobody asks

  SaeKernels(ElementType type) {
    this.type = type;
    dtype = type.code();
    elementBytes = type.bytes();
  }

  /** Notes the calls that follow in this profile; null to stop. */
  final void profile(Profile asked) {
    profile = asked;
  }

  final Profile profile() {
    return profile;
  }

  /** Names the operation that the calls that follow belong to, for a profile. */
  public final void within(String operation, String pass) {
    if (profile != null) profile.within(operation, pass);
  }

  /**
   * Begins a call whose arguments have been checked.
   *
   * @param flops that its result needs by its shape beside its {@link #products}, NaN where the
   *     data decide
   * @param bytes of what it reads and writes, each counted once; NaN likewise
   */
  final void begin(double flops, double bytes) {
    if (profile != null) profile.begin(flops, bytes);
  }

  /** The call that has begun computes {@code times} products of this shape. */
  final void products(long times, boolean transA, boolean transB, long m, long n, long k) {
    if (profile == null) return;
    for (long i = 0; i < times; i++) {
      profile.product(new Profile.Product(transA, transB, m, n, k));
    }
  }

  /** The call that has {@link #begin begun} has returned. */
  final void check(String kernel, int status) {
    NativeException.check(kernel, status);
    if (profile != null) profile.end(kernel);
  }

  /** Elements of {@link #type}. */
  final void elements(String kernel, String argument, MemorySegment given, long count) {
    bytes(kernel, argument, given, count, type.bytes());
  }

  final void elements(String kernel, String argument, MemorySegment given, long rows, long cols) {
    bytes(kernel, argument, given, Math.multiplyExact(rows, cols), type.bytes());
  }

  final void elementsOrNull(
      String kernel, String argument, MemorySegment given, long rows, long cols) {
    if (isGiven(given)) elements(kernel, argument, given, rows, cols);
  }

  /** Rows of {@link #type}, {@code ld} elements apart. */
  final void rows(
      String kernel, String argument, MemorySegment given, long rows, long cols, long ld) {
    matrix(kernel, argument, given, rows, cols, ld, type.bytes());
  }

  static int flag(boolean value) {
    return value ? 1 : 0;
  }

  /**
   * Latents whose products are of one piece: of a slice of latents that begins and ends at a
   * multiple, z has the bits that it has where all latents are encoded, as far as the library that
   * computes products promises any.
   *
   * @param group latents that are never in two pieces: of a group of GroupMax, else 1
   */
  public long saeEncodePanel(long group) {
    positive("esp_sae_encode_panel", "group", group);
    return esp_sae_encode_panel(group);
  }

  /** Floats of scratch that {@link #saeEncode} needs. */
  public long saeEncodeScratch(long d, long m) {
    positive("esp_sae_encode_scratch", "d", d);
    positive("esp_sae_encode_scratch", "m", m);
    return esp_sae_encode_scratch(d, m);
  }

  /**
   * The active latents of {@code wEnc (x - bPre) + bEnc}.
   *
   * @param kind one of {@code esp_sae_kind}: 0 ReLU, 1 JumpReLU, 2 TopK, 3 GroupMax
   * @param overflow int32 {@code [1]}, or NULL: what the longest list needed, where a device cannot
   *     wait to say so
   * @return false if a row has more entries than capacity: count then holds what each row needs,
   *     and the lists are not to be used
   */
  public boolean saeEncode(
      MemorySegment x,
      MemorySegment wEnc,
      MemorySegment bEnc,
      MemorySegment bPre,
      int kind,
      MemorySegment threshold,
      float margin,
      long k,
      MemorySegment keep,
      MemorySegment index,
      MemorySegment value,
      MemorySegment pre,
      MemorySegment count,
      long capacity,
      MemorySegment overflow,
      MemorySegment scratch,
      long tokens,
      long d,
      long m) {
    String kernel = "esp_sae_encode";
    latentSizes(kernel, capacity, tokens, d);
    positive(kernel, "m", m);
    elements(kernel, "x", x, tokens, d);
    elements(kernel, "w_enc", wEnc, m, d);
    floats(kernel, "b_enc", bEnc, m);
    floatsOrNull(kernel, "b_pre", bPre, d);
    floatsOrNull(kernel, "threshold", threshold, m);
    flagsOrNull(kernel, "keep", keep, tokens);
    ints(kernel, "index", index, tokens, capacity);
    floats(kernel, "value", value, tokens, capacity);
    floatsOrNull(kernel, "pre", pre, tokens, capacity);
    ints(kernel, "count", count, tokens);
    if (isGiven(overflow)) ints(kernel, "overflow", overflow, 1);
    floats(kernel, "scratch", scratch, saeEncodeScratch(d, m));
    begin(0, elementBytes * ((double) tokens * d + (double) m * d));
    products(1, false, true, tokens, m, d);
    int status =
        esp_sae_encode(
            x, wEnc, bEnc, bPre, kind, threshold, margin, k, keep, index, value, pre, count,
            capacity, overflow, scratch, tokens, d, m, dtype);
    if (status == ESP_CAPACITY()) return false;
    check(kernel, status);
    return true;
  }

  /**
   * {@code bias = bEnc - wEnc bPre}, for encoding x where x - bPre was to be; it may be {@code
   * bEnc}.
   */
  public void saeFoldBias(
      MemorySegment wEnc,
      MemorySegment bEnc,
      MemorySegment bPre,
      MemorySegment bias,
      long d,
      long m) {
    String kernel = "esp_sae_fold_bias";
    positive(kernel, "d", d);
    positive(kernel, "m", m);
    elements(kernel, "w_enc", wEnc, m, d);
    floats(kernel, "b_enc", bEnc, m);
    floats(kernel, "b_pre", bPre, d);
    floats(kernel, "bias", bias, m);
    begin(2.0 * m * d, elementBytes * (double) m * d);
    check(kernel, esp_sae_fold_bias(wEnc, bEnc, bPre, bias, d, m, dtype));
  }

  /** {@code out[t] = sum of value * wDec[index] + bDec}, or x[t] where keep[t]. */
  public void saeDecode(
      MemorySegment index,
      MemorySegment value,
      MemorySegment count,
      long capacity,
      MemorySegment wDec,
      MemorySegment bDec,
      MemorySegment keep,
      MemorySegment x,
      MemorySegment out,
      long tokens,
      long d) {
    String kernel = "esp_sae_decode";
    latentSizes(kernel, capacity, tokens, d);
    lists(kernel, index, count, capacity, tokens);
    floats(kernel, "value", value, tokens, capacity);
    elements(kernel, "w_dec", wDec, d);
    floats(kernel, "b_dec", bDec, d);
    keepWith(kernel, keep, "x", x, tokens, d);
    elements(kernel, "out", out, tokens, d);
    begin(Double.NaN, Double.NaN);
    check(
        kernel,
        esp_sae_decode(index, value, count, capacity, wDec, bDec, keep, x, out, tokens, d, dtype));
  }

  /** {@code dValue = <dOut[t], wDec[index]>} */
  public void saeDecodeBackward(
      MemorySegment dOut,
      MemorySegment index,
      MemorySegment count,
      long capacity,
      MemorySegment wDec,
      MemorySegment dValue,
      long tokens,
      long d) {
    String kernel = "esp_sae_decode_backward";
    latentSizes(kernel, capacity, tokens, d);
    lists(kernel, index, count, capacity, tokens);
    elements(kernel, "d_out", dOut, tokens, d);
    elements(kernel, "w_dec", wDec, d);
    floats(kernel, "d_value", dValue, tokens, capacity);
    begin(Double.NaN, Double.NaN);
    check(
        kernel,
        esp_sae_decode_backward(dOut, index, count, capacity, wDec, dValue, tokens, d, dtype));
  }

  /** {@code dX[t] (+)= sum of dPre * wEnc[index]}, or dOut[t] where keep[t]. */
  public void saeEncodeBackward(
      MemorySegment dPre,
      MemorySegment index,
      MemorySegment count,
      long capacity,
      MemorySegment wEnc,
      MemorySegment keep,
      MemorySegment dOut,
      MemorySegment dX,
      boolean accumulate,
      long tokens,
      long d) {
    String kernel = "esp_sae_encode_backward";
    latentSizes(kernel, capacity, tokens, d);
    lists(kernel, index, count, capacity, tokens);
    floats(kernel, "d_pre", dPre, tokens, capacity);
    elements(kernel, "w_enc", wEnc, d);
    keepWith(kernel, keep, "d_out", dOut, tokens, d);
    elements(kernel, "d_x", dX, tokens, d);
    begin(Double.NaN, Double.NaN);
    check(
        kernel,
        esp_sae_encode_backward(
            dPre,
            index,
            count,
            capacity,
            wEnc,
            keep,
            dOut,
            dX,
            flag(accumulate),
            tokens,
            d,
            dtype));
  }

  /** From dValue to dPre, in place, and the straight-through gradient of thresholds. */
  public void saeActivationBackward(
      MemorySegment dValue,
      MemorySegment pre,
      MemorySegment value,
      MemorySegment index,
      MemorySegment count,
      long capacity,
      int kind,
      MemorySegment threshold,
      MemorySegment sparsity,
      float bandwidth,
      MemorySegment dThreshold,
      MemorySegment offsets,
      MemorySegment byLatent,
      long tokens,
      long m) {
    String kernel = "esp_sae_activation_backward";
    latentSizes(kernel, capacity, tokens, m);
    lists(kernel, index, count, capacity, tokens);
    floats(kernel, "d_value", dValue, tokens, capacity);
    floatsOrNull(kernel, "pre", pre, tokens, capacity);
    floats(kernel, "value", value, tokens, capacity);
    floatsOrNull(kernel, "threshold", threshold, m);
    floatsOrNull(kernel, "sparsity", sparsity, 2);
    floatsOrNull(kernel, "d_threshold", dThreshold, m);
    if (isGiven(dThreshold)) byLatentLists(kernel, offsets, byLatent, m);
    begin(Double.NaN, Double.NaN);
    check(
        kernel,
        esp_sae_activation_backward(
            dValue,
            pre,
            value,
            index,
            count,
            capacity,
            kind,
            threshold,
            sparsity,
            bandwidth,
            dThreshold,
            offsets,
            byLatent,
            tokens,
            m));
  }

  /** The reverse index: the entries of each latent. */
  public void saeByLatent(
      MemorySegment index,
      MemorySegment count,
      long capacity,
      MemorySegment offsets,
      MemorySegment byLatent,
      long tokens,
      long m) {
    String kernel = "esp_sae_by_latent";
    latentSizes(kernel, capacity, tokens, m);
    lists(kernel, index, count, capacity, tokens);
    ints(kernel, "offsets", offsets, m + 1);
    ints(kernel, "by_latent", byLatent, tokens, capacity);
    begin(Double.NaN, Double.NaN);
    check(kernel, esp_sae_by_latent(index, count, capacity, offsets, byLatent, tokens, m));
  }

  /** Adds to the gradients of wEnc, bEnc and wDec, over the entries of each latent. */
  public void saeWeightBackward(
      MemorySegment x,
      MemorySegment bPre,
      MemorySegment dOut,
      MemorySegment value,
      MemorySegment dPre,
      MemorySegment offsets,
      MemorySegment byLatent,
      long capacity,
      MemorySegment dWEnc,
      MemorySegment dBEnc,
      MemorySegment dWDec,
      long d,
      long m) {
    String kernel = "esp_sae_weight_backward";
    positive(kernel, "capacity", capacity);
    positive(kernel, "d", d);
    positive(kernel, "m", m);
    byLatentLists(kernel, offsets, byLatent, m);
    elements(kernel, "x", x, d);
    floatsOrNull(kernel, "b_pre", bPre, d);
    elements(kernel, "d_out", dOut, d);
    floats(kernel, "value", value, capacity);
    floats(kernel, "d_pre", dPre, capacity);
    floats(kernel, "d_w_enc", dWEnc, m, d);
    floats(kernel, "d_b_enc", dBEnc, m);
    floats(kernel, "d_w_dec", dWDec, m, d);
    begin(Double.NaN, Double.NaN);
    check(
        kernel,
        esp_sae_weight_backward(
            x, bPre, dOut, value, dPre, offsets, byLatent, capacity, dWEnc, dBEnc, dWDec, d, m,
            dtype));
  }

  /**
   * The lists of a whole SAE from those of its slices.
   *
   * @param packed {@code [parts]} times count, index and value, one after another
   * @param first int32 {@code [parts]}: where the slices begin
   * @param k how many of a token stay, the largest; 0 for all
   * @param overflow int32 {@code [1]}, raised to what the longest list needs if it has too little
   *     room
   */
  public void saeMerge(
      MemorySegment packed,
      MemorySegment first,
      long parts,
      long k,
      MemorySegment index,
      MemorySegment value,
      MemorySegment pre,
      MemorySegment count,
      long capacity,
      MemorySegment overflow,
      long tokens) {
    String kernel = "esp_sae_merge";
    positive(kernel, "parts", parts);
    latentSizes(kernel, capacity, tokens, 1);
    ints(kernel, "packed", packed, Math.multiplyExact(parts, tokens), 1 + 2 * capacity);
    ints(kernel, "first", first, parts);
    lists(kernel, index, count, capacity, tokens);
    floats(kernel, "value", value, tokens, capacity);
    floatsOrNull(kernel, "pre", pre, tokens, capacity);
    ints(kernel, "overflow", overflow, 1);
    begin(Double.NaN, Double.NaN);
    check(
        kernel,
        esp_sae_merge(
            packed, first, parts, k, index, value, pre, count, capacity, overflow, tokens));
  }

  /** Of lists of a whole SAE the entries of the latents {@code [first, first + latents)}. */
  public void saePart(
      MemorySegment index,
      MemorySegment count,
      long capacity,
      long first,
      long latents,
      MemorySegment partIndex,
      MemorySegment partCount,
      long tokens) {
    String kernel = "esp_sae_part";
    latentSizes(kernel, capacity, tokens, 1);
    lists(kernel, index, count, capacity, tokens);
    lists(kernel, partIndex, partCount, capacity, tokens);
    begin(Double.NaN, Double.NaN);
    check(
        kernel, esp_sae_part(index, count, capacity, first, latents, partIndex, partCount, tokens));
  }

  /**
   * Values of whole lists from those that each part has of its own entries.
   *
   * @param partValue {@code [parts, tokens, capacity]}
   */
  public void saeJoin(
      MemorySegment partValue,
      MemorySegment first,
      long parts,
      MemorySegment index,
      MemorySegment count,
      long capacity,
      MemorySegment value,
      long tokens) {
    String kernel = "esp_sae_join";
    positive(kernel, "parts", parts);
    latentSizes(kernel, capacity, tokens, 1);
    floats(kernel, "part_value", partValue, Math.multiplyExact(parts, tokens), capacity);
    ints(kernel, "first", first, parts);
    lists(kernel, index, count, capacity, tokens);
    floats(kernel, "value", value, tokens, capacity);
    begin(Double.NaN, Double.NaN);
    check(kernel, esp_sae_join(partValue, first, parts, index, count, capacity, value, tokens));
  }

  /**
   * A matrix from parts of its columns, or kept[r] where keep[r].
   *
   * @param parts {@code [parts, rows, width]}
   */
  public void joinColumns(
      MemorySegment parts,
      long width,
      MemorySegment keep,
      MemorySegment kept,
      MemorySegment out,
      long rows,
      long cols) {
    String kernel = "esp_join_columns";
    size(kernel, "rows", rows);
    positive(kernel, "cols", cols);
    positive(kernel, "width", width);
    elements(kernel, "parts", parts, Math.multiplyExact((cols + width - 1) / width, rows), width);
    keepWith(kernel, keep, "kept", kept, rows, cols);
    elements(kernel, "out", out, rows, cols);
    begin(0, 2.0 * elementBytes * rows * cols);
    check(kernel, esp_join_columns(parts, width, keep, kept, out, rows, cols, dtype));
  }

  /** {@code loss[t] = |y[t] - x[t]|^2} and its gradient. */
  public void saeMse(
      MemorySegment x,
      MemorySegment y,
      MemorySegment keep,
      MemorySegment loss,
      MemorySegment dY,
      float gradScale,
      long tokens,
      long d) {
    size("esp_sae_mse", "tokens", tokens);
    positive("esp_sae_mse", "d", d);
    elements("esp_sae_mse", "x", x, tokens, d);
    elements("esp_sae_mse", "y", y, tokens, d);
    flagsOrNull("esp_sae_mse", "keep", keep, tokens);
    floats("esp_sae_mse", "loss", loss, tokens);
    elementsOrNull("esp_sae_mse", "d_y", dY, tokens, d);
    begin(3.0 * tokens * d, 3.0 * elementBytes * tokens * d);
    check("esp_sae_mse", esp_sae_mse(x, y, keep, loss, dY, gradScale, tokens, d, dtype));
  }

  /**
   * Adds to running statistics of a reconstruction.
   *
   * @param stats float64 {@code [11 + d]}
   * @param fired int64 {@code [m]}
   */
  public void saeStats(
      MemorySegment x,
      MemorySegment y,
      MemorySegment index,
      MemorySegment value,
      MemorySegment count,
      long capacity,
      MemorySegment keep,
      MemorySegment stats,
      MemorySegment fired,
      long tokens,
      long d,
      long m) {
    String kernel = "esp_sae_stats";
    latentSizes(kernel, capacity, tokens, d);
    positive(kernel, "m", m);
    elements(kernel, "x", x, tokens, d);
    elements(kernel, "y", y, tokens, d);
    lists(kernel, index, count, capacity, tokens);
    floats(kernel, "value", value, tokens, capacity);
    flagsOrNull(kernel, "keep", keep, tokens);
    bytes(kernel, "stats", stats, 11 + d, Double.BYTES);
    bytes(kernel, "fired", fired, m, Long.BYTES);
    begin(Double.NaN, Double.NaN);
    check(
        kernel,
        esp_sae_stats(
            x, y, index, value, count, capacity, keep, stats, fired, tokens, d, m, dtype));
  }

  /**
   * {@code out = (x - mean) / (spread + eps)}, each row by itself.
   *
   * @param normalisation one of {@code esp_sae_normalisation}: 1 constant norm, 2 unit variance
   */
  public void saeNormalize(
      MemorySegment x,
      int normalisation,
      MemorySegment out,
      MemorySegment mean,
      MemorySegment spread,
      long tokens,
      long d) {
    String kernel = "esp_sae_normalize";
    size(kernel, "tokens", tokens);
    positive(kernel, "d", d);
    elements(kernel, "x", x, tokens, d);
    elements(kernel, "out", out, tokens, d);
    floats(kernel, "mean", mean, tokens);
    floats(kernel, "spread", spread, tokens);
    begin(6.0 * tokens * d, 2.0 * elementBytes * tokens * d);
    check(kernel, esp_sae_normalize(x, normalisation, out, mean, spread, tokens, d, dtype));
  }

  /** The gradient of x, through the statistics too; dKept where keep. */
  public void saeNormalizeBackward(
      MemorySegment x,
      MemorySegment mean,
      MemorySegment spread,
      int normalisation,
      MemorySegment dOut,
      MemorySegment dMean,
      MemorySegment dSpread,
      MemorySegment keep,
      MemorySegment dKept,
      MemorySegment dX,
      boolean accumulate,
      long tokens,
      long d) {
    String kernel = "esp_sae_normalize_backward";
    size(kernel, "tokens", tokens);
    positive(kernel, "d", d);
    elements(kernel, "x", x, tokens, d);
    floats(kernel, "mean", mean, tokens);
    floats(kernel, "spread", spread, tokens);
    elements(kernel, "d_out", dOut, tokens, d);
    floatsOrNull(kernel, "d_mean", dMean, tokens);
    floatsOrNull(kernel, "d_spread", dSpread, tokens);
    keepWith(kernel, keep, "d_kept", dKept, tokens, d);
    elements(kernel, "d_x", dX, tokens, d);
    begin(8.0 * tokens * d, 3.0 * elementBytes * tokens * d);
    check(
        kernel,
        esp_sae_normalize_backward(
            x,
            mean,
            spread,
            normalisation,
            dOut,
            dMean,
            dSpread,
            keep,
            dKept,
            dX,
            flag(accumulate),
            tokens,
            d,
            dtype));
  }

  /** {@code out = spread * y + mean + skip}, or x where keep. */
  public void saeRestore(
      MemorySegment y,
      MemorySegment mean,
      MemorySegment spread,
      MemorySegment skip,
      MemorySegment keep,
      MemorySegment x,
      MemorySegment out,
      long tokens,
      long d) {
    String kernel = "esp_sae_restore";
    size(kernel, "tokens", tokens);
    positive(kernel, "d", d);
    elements(kernel, "y", y, tokens, d);
    floatsOrNull(kernel, "mean", mean, tokens);
    floatsOrNull(kernel, "spread", spread, tokens);
    elementsOrNull(kernel, "skip", skip, tokens, d);
    keepWith(kernel, keep, "x", x, tokens, d);
    elements(kernel, "out", out, tokens, d);
    begin(2.0 * tokens * d, 2.0 * elementBytes * tokens * d);
    check(kernel, esp_sae_restore(y, mean, spread, skip, keep, x, out, tokens, d, dtype));
  }

  /** The gradients of what {@link #saeRestore} adds up, 0 where keep. */
  public void saeRestoreBackward(
      MemorySegment dOut,
      MemorySegment y,
      MemorySegment spread,
      MemorySegment keep,
      MemorySegment dY,
      MemorySegment dSkip,
      MemorySegment dMean,
      MemorySegment dSpread,
      long tokens,
      long d) {
    String kernel = "esp_sae_restore_backward";
    size(kernel, "tokens", tokens);
    positive(kernel, "d", d);
    elements(kernel, "d_out", dOut, tokens, d);
    elementsOrNull(kernel, "y", y, tokens, d);
    floatsOrNull(kernel, "spread", spread, tokens);
    flagsOrNull(kernel, "keep", keep, tokens);
    elements(kernel, "d_y", dY, tokens, d);
    elementsOrNull(kernel, "d_skip", dSkip, tokens, d);
    floatsOrNull(kernel, "d_mean", dMean, tokens);
    floatsOrNull(kernel, "d_spread", dSpread, tokens);
    begin(2.0 * tokens * d, 3.0 * elementBytes * tokens * d);
    check(
        kernel,
        esp_sae_restore_backward(
            dOut, y, spread, keep, dY, dSkip, dMean, dSpread, tokens, d, dtype));
  }

  /** Each row divided by its norm. */
  public void normalizeRows(MemorySegment w, long rows, long d) {
    size("esp_normalize_rows", "rows", rows);
    positive("esp_normalize_rows", "d", d);
    floats("esp_normalize_rows", "w", w, rows, d);
    begin(3.0 * rows * d, 8.0 * rows * d);
    check("esp_normalize_rows", esp_normalize_rows(w, rows, d));
  }

  /** Takes from each row of grad its part along the same row of w. */
  public void removeParallel(MemorySegment w, MemorySegment grad, long rows, long d) {
    size("esp_remove_parallel", "rows", rows);
    positive("esp_remove_parallel", "d", d);
    floats("esp_remove_parallel", "w", w, rows, d);
    floats("esp_remove_parallel", "grad", grad, rows, d);
    begin(4.0 * rows * d, 12.0 * rows * d);
    check("esp_remove_parallel", esp_remove_parallel(w, grad, rows, d));
  }

  static void latentSizes(String kernel, long capacity, long tokens, long d) {
    positive(kernel, "capacity", capacity);
    size(kernel, "tokens", tokens);
    positive(kernel, "d", d);
  }

  static void lists(
      String kernel, MemorySegment index, MemorySegment count, long capacity, long tokens) {
    ints(kernel, "index", index, tokens, capacity);
    ints(kernel, "count", count, tokens);
  }

  /** How many entries there are is known to the lists alone: the last offset. */
  static void byLatentLists(String kernel, MemorySegment offsets, MemorySegment byLatent, long m) {
    ints(kernel, "offsets", offsets, m + 1);
    ints(kernel, "by_latent", byLatent, 0);
  }

  private void keepWith(
      String kernel,
      MemorySegment keep,
      String argument,
      MemorySegment other,
      long tokens,
      long d) {
    if (!isGiven(keep)) return;
    flagsOrNull(kernel, "keep", keep, tokens);
    elements(kernel, argument, other, tokens, d);
  }
}
