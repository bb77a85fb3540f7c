package espalier.device;

import static espalier.bindings.kernels.Kernels.*;
import static espalier.device.Arguments.*;

import espalier.bindings.NativeException;
import espalier.bindings.kernels.esp_control;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;

/**
 * The kernels, one method for each function of {@code native/include/espalier.h}, which holds their
 * contracts: the same arguments in the same order, a {@link MemorySegment} for a pointer ({@link
 * MemorySegment#NULL} where the contract says "or NULL"). Those of sparse autoencoders are in
 * {@link SaeKernels} and {@link SaeTrainingKernels}.
 *
 * <p>Every method checks that its segments hold what the shape needs and throws an {@link
 * IllegalArgumentException} that names kernel, argument, needed and given; what the library itself
 * refuses is a {@link NativeException}. No call allocates Java memory.
 */
public final class Kernels extends SaeTrainingKernels {

  /** What a row of logits takes in scratch memory beside them, in floats: see esp_head_kl. */
  public static final int LOGITS_ROOM = ESP_LOGITS_ROOM();

  /**
   * The library must be loaded: see {@link Device}.
   *
   * @param type of activations and of matrices of weights
   */
  Kernels(ElementType type) {
    super(type);
  }

  /** The function that computes dense products, and its handle: see esp_set_gemm. */
  void setGemm(MemorySegment function, MemorySegment handle) {
    NativeException.check("esp_set_gemm", esp_set_gemm(function, handle));
  }

  /** The stream that kernels go to. */
  void setStream(MemorySegment stream) {
    NativeException.check("esp_set_stream", esp_set_stream(stream));
  }

  /** Makes a captured graph faster before it is instantiated. */
  void prepareGraph(MemorySegment graph) {
    NativeException.check("esp_prepare_graph", esp_prepare_graph(graph));
  }

  /**
   * How many threads kernels use from now on; 0: as esp_set_threads says. Results do not depend on
   * it.
   */
  public void setThreads(int threads) {
    NativeException.check("esp_set_threads", esp_set_threads(threads));
  }

  public int threads() {
    return esp_threads();
  }

  /** {@code c[m, n] = alpha op(a) op(b) + beta c}, op(a) {@code [m, k]}, op(b) {@code [k, n]}. */
  public void gemm(
      boolean transA,
      boolean transB,
      long m,
      long n,
      long k,
      float alpha,
      MemorySegment a,
      long lda,
      MemorySegment b,
      long ldb,
      float beta,
      MemorySegment c,
      long ldc) {
    gemm(transA, transB, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc, type);
  }

  /**
   * As above, with a result of another type: gradients of parameters are float32.
   *
   * @param typeC that of the other matrices, or float32
   */
  public void gemm(
      boolean transA,
      boolean transB,
      long m,
      long n,
      long k,
      float alpha,
      MemorySegment a,
      long lda,
      MemorySegment b,
      long ldb,
      float beta,
      MemorySegment c,
      long ldc,
      ElementType typeC) {
    size("esp_gemm", "m", m);
    size("esp_gemm", "n", n);
    size("esp_gemm", "k", k);
    rows("esp_gemm", "a", a, transA ? k : m, transA ? m : k, lda);
    rows("esp_gemm", "b", b, transB ? n : k, transB ? k : n, ldb);
    matrix("esp_gemm", "c", c, m, n, ldc, typeC.bytes());
    begin(0, elementBytes * ((double) m * k + (double) k * n) + typeC.bytes() * (double) m * n);
    products(1, transA, transB, m, n, k);
    check(
        "esp_gemm",
        esp_gemm(
            flag(transA),
            flag(transB),
            m,
            n,
            k,
            alpha,
            a,
            lda,
            b,
            ldb,
            beta,
            c,
            ldc,
            typeC.code(),
            dtype));
  }

  /** {@code x[i]} uniform in (-bound, bound), of the device's type, by the seed and i alone. */
  public void fillUniform(MemorySegment x, float bound, long seed, long n) {
    fillUniform(x, n, bound, seed, 1, n);
  }

  /** As above, with i = r * cols + c in rows {@code ldx} elements apart. */
  public void fillUniform(MemorySegment x, long ldx, float bound, long seed, long rows, long cols) {
    size("esp_fill_uniform", "rows", rows);
    size("esp_fill_uniform", "cols", cols);
    rows("esp_fill_uniform", "x", x, rows, cols, ldx);
    begin(0, (double) elementBytes * rows * cols);
    check("esp_fill_uniform", esp_fill_uniform(x, ldx, bound, seed, rows, cols, dtype));
  }

  /** {@code y[m, n] = x op(w) + beta y + terms}, op(w) {@code [k, n]}. */
  public void linear(
      boolean transposed,
      long m,
      long n,
      long k,
      MemorySegment x,
      long ldx,
      MemorySegment w,
      long ldw,
      LowRankTerms terms,
      float beta,
      MemorySegment y,
      long ldy) {
    linear(transposed, m, n, k, x, ldx, w, ldw, terms, beta, y, ldy, LinearWay.BY_SHAPE);
  }

  /** As above, in a way of the caller's choice: what is to be measured or tested. */
  public void linear(
      boolean transposed,
      long m,
      long n,
      long k,
      MemorySegment x,
      long ldx,
      MemorySegment w,
      long ldw,
      LowRankTerms terms,
      float beta,
      MemorySegment y,
      long ldy,
      LinearWay way) {
    String kernel = "esp_linear";
    size(kernel, "m", m);
    size(kernel, "n", n);
    size(kernel, "k", k);
    rows(kernel, "x", x, m, k, ldx);
    rows(kernel, "w", w, transposed ? n : k, transposed ? k : n, ldw);
    rows(kernel, "y", y, m, n, ldy);
    terms.check(kernel, transposed, m, type);
    begin(0, elementBytes * ((double) m * k + (double) k * n + (double) m * n));
    products(1, false, transposed, m, n, k);
    for (int i = 0; i < terms.count(); i++) {
      products(1, false, transposed, m, terms.columns(i), terms.rank(i));
    }
    check(
        kernel,
        esp_linear(
            flag(transposed),
            m,
            n,
            k,
            x,
            ldx,
            w,
            ldw,
            terms.structs(),
            terms.count(),
            beta,
            y,
            ldy,
            way.code(),
            dtype));
  }

  /** The way that {@link LinearWay#BY_SHAPE} takes with these arguments; allocates a little. */
  public LinearWay linearByShape(
      boolean transposed,
      long m,
      long n,
      long k,
      MemorySegment x,
      long ldx,
      MemorySegment w,
      long ldw,
      LowRankTerms terms,
      MemorySegment y,
      long ldy) {
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment way = arena.allocate(ValueLayout.JAVA_INT);
      NativeException.check(
          "esp_linear_by_shape",
          esp_linear_by_shape(
              flag(transposed),
              m,
              n,
              k,
              x,
              ldx,
              w,
              ldw,
              terms.structs(),
              terms.count(),
              y,
              ldy,
              dtype,
              way));
      return LinearWay.of(way.get(ValueLayout.JAVA_INT, 0));
    }
  }

  public void fill(MemorySegment x, float value, long n) {
    size("esp_fill", "n", n);
    floats("esp_fill", "x", x, n);
    begin(0, 4.0 * n);
    check("esp_fill", esp_fill(x, value, n));
  }

  public void copy(MemorySegment x, MemorySegment out, long n) {
    size("esp_copy", "n", n);
    elements("esp_copy", "x", x, n);
    elements("esp_copy", "out", out, n);
    begin(0, 2.0 * elementBytes * n);
    check("esp_copy", esp_copy(x, out, n, dtype));
  }

  /** {@code out = x + y}; out may be x or y. */
  public void add(MemorySegment x, MemorySegment y, MemorySegment out, long n) {
    size("esp_add", "n", n);
    elements("esp_add", "x", x, n);
    elements("esp_add", "y", y, n);
    elements("esp_add", "out", out, n);
    begin(n, 3.0 * elementBytes * n);
    check("esp_add", esp_add(x, y, out, n, dtype));
  }

  /** {@code y += alpha x} */
  public void axpy(float alpha, MemorySegment x, MemorySegment y, long n) {
    size("esp_axpy", "n", n);
    elements("esp_axpy", "x", x, n);
    elements("esp_axpy", "y", y, n);
    begin(2.0 * n, 3.0 * elementBytes * n);
    check("esp_axpy", esp_axpy(alpha, x, y, n, dtype));
  }

  /** Every row of out becomes {@code row}. */
  public void fillRows(MemorySegment row, MemorySegment out, long rows, long cols) {
    size("esp_fill_rows", "rows", rows);
    positive("esp_fill_rows", "cols", cols);
    floats("esp_fill_rows", "row", row, cols);
    elements("esp_fill_rows", "out", out, rows, cols);
    begin(0, (double) elementBytes * rows * cols);
    check("esp_fill_rows", esp_fill_rows(row, out, rows, cols, dtype));
  }

  /** {@code out[cols] += alpha * (sum over the rows of x that skip does not name)}. */
  public void columnSum(
      MemorySegment x,
      long ldx,
      MemorySegment skip,
      float alpha,
      MemorySegment out,
      long rows,
      long cols) {
    size("esp_column_sum", "rows", rows);
    size("esp_column_sum", "cols", cols);
    rows("esp_column_sum", "x", x, rows, cols, ldx);
    flagsOrNull("esp_column_sum", "skip", skip, rows);
    floats("esp_column_sum", "out", out, cols);
    begin((double) rows * cols, (double) elementBytes * rows * cols);
    check("esp_column_sum", esp_column_sum(x, ldx, skip, alpha, out, rows, cols, dtype));
  }

  /** {@code out[r] = x[r]} where keep[r], else 0. */
  public void keepRows(
      MemorySegment x, MemorySegment keep, MemorySegment out, long rows, long cols) {
    size("esp_keep_rows", "rows", rows);
    size("esp_keep_rows", "cols", cols);
    elements("esp_keep_rows", "x", x, rows, cols);
    flagsOrNull("esp_keep_rows", "keep", keep, rows);
    elements("esp_keep_rows", "out", out, rows, cols);
    begin(0, 2.0 * elementBytes * rows * cols);
    check("esp_keep_rows", esp_keep_rows(x, keep, out, rows, cols, dtype));
  }

  /**
   * How far each sequence of y is from that of x, rows with skip left out.
   *
   * @param out float64 {@code [sequences, 3]}: rows counted, sum |x - y|, sum cos(x, y)
   */
  public void sequenceDistance(
      MemorySegment x,
      MemorySegment y,
      MemorySegment skip,
      MemorySegment out,
      long sequences,
      long length,
      long d) {
    String kernel = "esp_sequence_distance";
    size(kernel, "sequences", sequences);
    positive(kernel, "length", length);
    positive(kernel, "d", d);
    long rows = Math.multiplyExact(sequences, length);
    elements(kernel, "x", x, rows, d);
    elements(kernel, "y", y, rows, d);
    flagsOrNull(kernel, "skip", skip, rows);
    bytes(kernel, "out", out, 3 * sequences, Double.BYTES);
    begin(7.0 * rows * d, 2.0 * elementBytes * rows * d);
    check(kernel, esp_sequence_distance(x, y, skip, out, sequences, length, d, dtype));
  }

  /** The sum of x, into one float64. */
  public void sum(MemorySegment x, long n, MemorySegment out) {
    sum(x, n, out, false);
  }

  /** The sum of x, into one float64 or added to it. */
  public void sum(MemorySegment x, long n, MemorySegment out, boolean accumulate) {
    size("esp_sum", "n", n);
    floats("esp_sum", "x", x, n);
    bytes("esp_sum", "out", out, 1, Double.BYTES);
    begin(n, 4.0 * n);
    check("esp_sum", esp_sum(x, n, out, flag(accumulate)));
  }

  /** From a type of files, one of {@code esp_dtype}, to that of activations. */
  public void convert(MemorySegment src, int from, MemorySegment dst, long n) {
    convert(src, from, dst, n, type);
  }

  /**
   * From a type of files to another.
   *
   * @param from one of {@code esp_dtype}: 0 f32, 1 bf16, 2 f16, 3 f64
   */
  public void convert(MemorySegment src, int from, MemorySegment dst, long n, ElementType to) {
    size("esp_convert", "n", n);
    bytes("esp_convert", "src", src, n, bytesOf(from));
    bytes("esp_convert", "dst", dst, n, to.bytes());
    begin(0, (double) n * (bytesOf(from) + to.bytes()));
    check("esp_convert", esp_convert(src, from, dst, n, to.code()));
  }

  /**
   * {@code dst[r, c] = rowScale[r] * src[r, c]}, or {@code src[c, r]} if transposed.
   *
   * @param from one of {@code esp_dtype}
   * @param dst {@code [rows, cols]}
   * @param rowScale {@code [rows]}, or NULL for 1
   */
  public void convertMatrix(
      MemorySegment src,
      int from,
      boolean transposed,
      MemorySegment rowScale,
      MemorySegment dst,
      long ldDst,
      long rows,
      long cols,
      ElementType to) {
    String kernel = "esp_convert_matrix";
    size(kernel, "rows", rows);
    positive(kernel, "cols", cols);
    bytes(kernel, "src", src, Math.multiplyExact(rows, cols), bytesOf(from));
    floatsOrNull(kernel, "row_scale", rowScale, rows);
    matrix(kernel, "dst", dst, rows, cols, ldDst, to.bytes());
    begin(0, (double) rows * cols * (bytesOf(from) + to.bytes()));
    check(
        kernel,
        esp_convert_matrix(
            src, from, flag(transposed), rowScale, dst, ldDst, rows, cols, to.code()));
  }

  /** Copies matrices out of flat float32 {@code values}, rounded, to where {@code places} says. */
  public void placeMatrices(MemorySegment values, Places places) {
    String kernel = "esp_place_matrices";
    floats(kernel, "values", values, places.end());
    begin(0, (double) places.end() * (Float.BYTES + elementBytes));
    check(kernel, esp_place_matrices(values, places.structs(), places.count(), dtype));
  }

  private static int bytesOf(int dtype) {
    return dtype == ESP_F64() ? 8 : dtype == ESP_F32() ? 4 : 2;
  }

  /** Inverted dropout; the same seed, stream and p leave out the same elements. */
  public void dropout(
      MemorySegment x,
      MemorySegment out,
      long n,
      float p,
      MemorySegment seed,
      long stream,
      boolean accumulate) {
    dropout(x, n, out, 1, n, p, seed, stream, accumulate);
  }

  /** As above for {@code [rows, cols]}, rows of x {@code ldx} elements apart. */
  public void dropout(
      MemorySegment x,
      long ldx,
      MemorySegment out,
      long rows,
      long cols,
      float p,
      MemorySegment seed,
      long stream,
      boolean accumulate) {
    size("esp_dropout", "rows", rows);
    size("esp_dropout", "cols", cols);
    rows("esp_dropout", "x", x, rows, cols, ldx);
    elements("esp_dropout", "out", out, rows, cols);
    bytes("esp_dropout", "seed", seed, 1, Long.BYTES);
    begin(0, 2.0 * elementBytes * rows * cols);
    check(
        "esp_dropout",
        esp_dropout(x, ldx, out, rows, cols, p, seed, stream, flag(accumulate), dtype));
  }

  /** {@code out[t] = scale * table[ids[t]]} */
  public void embeddingForward(
      MemorySegment ids,
      MemorySegment table,
      float scale,
      MemorySegment out,
      long tokens,
      long vocab,
      long d) {
    embeddingSizes("esp_embedding_forward", ids, tokens, vocab, d);
    elements("esp_embedding_forward", "table", table, vocab, d);
    elements("esp_embedding_forward", "out", out, tokens, d);
    begin(0, 2.0 * elementBytes * tokens * d);
    check(
        "esp_embedding_forward",
        esp_embedding_forward(ids, table, scale, out, tokens, vocab, d, dtype));
  }

  /** {@code dTable[ids[t]] += scale * dOut[t]} */
  public void embeddingBackward(
      MemorySegment ids,
      MemorySegment dOut,
      float scale,
      MemorySegment dTable,
      long tokens,
      long vocab,
      long d) {
    embeddingSizes("esp_embedding_backward", ids, tokens, vocab, d);
    elements("esp_embedding_backward", "d_out", dOut, tokens, d);
    floats("esp_embedding_backward", "d_table", dTable, vocab, d);
    begin((double) tokens * d, (elementBytes + 8.0) * tokens * d);
    check(
        "esp_embedding_backward",
        esp_embedding_backward(ids, dOut, scale, dTable, tokens, vocab, d, dtype));
  }

  /** {@code out[t] = x[t] + table[t % seqLen]}; out may be x. */
  public void addPositions(
      MemorySegment x, MemorySegment table, MemorySegment out, long tokens, long seqLen, long d) {
    positions("esp_add_positions", tokens, seqLen, d);
    elements("esp_add_positions", "x", x, tokens, d);
    elements("esp_add_positions", "table", table, Math.min(tokens, seqLen), d);
    elements("esp_add_positions", "out", out, tokens, d);
    begin((double) tokens * d, 3.0 * elementBytes * tokens * d);
    check("esp_add_positions", esp_add_positions(x, table, out, tokens, seqLen, d, dtype));
  }

  /** Adds to the table's gradient. */
  public void addPositionsBackward(
      MemorySegment dOut, MemorySegment dTable, long tokens, long seqLen, long d) {
    String kernel = "esp_add_positions_backward";
    positions(kernel, tokens, seqLen, d);
    elements(kernel, "d_out", dOut, tokens, d);
    floats(kernel, "d_table", dTable, Math.min(tokens, seqLen), d);
    begin((double) tokens * d, (elementBytes + 8.0) * tokens * d);
    check(kernel, esp_add_positions_backward(dOut, dTable, tokens, seqLen, d, dtype));
  }

  private static void positions(String kernel, long tokens, long seqLen, long d) {
    size(kernel, "tokens", tokens);
    positive(kernel, "seq_len", seqLen);
    positive(kernel, "d", d);
  }

  /** {@code out = x * rstd * (weightOffset + weight)} by rows of d, those of out one by one. */
  public void rmsNormForward(
      MemorySegment x,
      MemorySegment weight,
      float weightOffset,
      float eps,
      MemorySegment out,
      long ldOut,
      MemorySegment rstd,
      long rows,
      long d) {
    size("esp_rms_norm_forward", "rows", rows);
    positive("esp_rms_norm_forward", "d", d);
    elements("esp_rms_norm_forward", "x", x, rows, d);
    floats("esp_rms_norm_forward", "weight", weight, d);
    rows("esp_rms_norm_forward", "out", out, rows, d, ldOut);
    floats("esp_rms_norm_forward", "rstd", rstd, rows);
    begin(4.0 * rows * d, 2.0 * elementBytes * rows * d);
    check(
        "esp_rms_norm_forward",
        esp_rms_norm_forward(x, weight, weightOffset, eps, out, ldOut, rstd, rows, d, dtype));
  }

  /** {@code sum = x + y}, and RMSNorm of it. */
  public void addRmsNormForward(
      MemorySegment x,
      MemorySegment y,
      MemorySegment weight,
      float weightOffset,
      float eps,
      MemorySegment sum,
      MemorySegment out,
      long ldOut,
      MemorySegment rstd,
      long rows,
      long d) {
    String kernel = "esp_add_rms_norm_forward";
    summedSizes(kernel, x, y, sum, rows, d);
    floats(kernel, "weight", weight, d);
    rows(kernel, "out", out, rows, d, ldOut);
    floats(kernel, "rstd", rstd, rows);
    begin(5.0 * rows * d, 4.0 * elementBytes * rows * d);
    check(
        kernel,
        esp_add_rms_norm_forward(
            x, y, weight, weightOffset, eps, sum, out, ldOut, rstd, rows, d, dtype));
  }

  private void summedSizes(
      String kernel, MemorySegment x, MemorySegment y, MemorySegment sum, long rows, long d) {
    size(kernel, "rows", rows);
    positive(kernel, "d", d);
    elements(kernel, "x", x, rows, d);
    elements(kernel, "y", y, rows, d);
    elements(kernel, "sum", sum, rows, d);
  }

  public void rmsNormBackward(
      MemorySegment x,
      MemorySegment weight,
      float weightOffset,
      MemorySegment rstd,
      MemorySegment dOut,
      MemorySegment dX,
      boolean accumulate,
      MemorySegment dWeight,
      long rows,
      long d) {
    size("esp_rms_norm_backward", "rows", rows);
    positive("esp_rms_norm_backward", "d", d);
    elements("esp_rms_norm_backward", "x", x, rows, d);
    floats("esp_rms_norm_backward", "weight", weight, d);
    floats("esp_rms_norm_backward", "rstd", rstd, rows);
    elements("esp_rms_norm_backward", "d_out", dOut, rows, d);
    elements("esp_rms_norm_backward", "d_x", dX, rows, d);
    floatsOrNull("esp_rms_norm_backward", "d_weight", dWeight, d);
    begin(8.0 * rows * d, 3.0 * elementBytes * rows * d);
    check(
        "esp_rms_norm_backward",
        esp_rms_norm_backward(
            x, weight, weightOffset, rstd, dOut, dX, flag(accumulate), dWeight, rows, d, dtype));
  }

  /**
   * {@code sum = x + RMSNorm(branch)}, and RMSNorm of it; the bits of {@link #rmsNormForward} and
   * {@link #addRmsNormForward}.
   *
   * @param out may be NULL: then weight, ldOut and rstd are not read
   */
  public void addNormedForward(
      MemorySegment branch,
      MemorySegment branchWeight,
      MemorySegment branchRstd,
      MemorySegment x,
      MemorySegment sum,
      MemorySegment weight,
      float weightOffset,
      float eps,
      MemorySegment out,
      long ldOut,
      MemorySegment rstd,
      long rows,
      long d) {
    String kernel = "esp_add_normed_forward";
    summedSizes(kernel, x, branch, sum, rows, d);
    positive(kernel, "d", d);
    floats(kernel, "branch_weight", branchWeight, d);
    floats(kernel, "branch_rstd", branchRstd, rows);
    if (isGiven(out)) {
      floats(kernel, "weight", weight, d);
      rows(kernel, "out", out, rows, d, ldOut);
      floats(kernel, "rstd", rstd, rows);
    }
    double elements = (double) rows * d;
    begin((isGiven(out) ? 9 : 5) * elements, (isGiven(out) ? 4 : 3) * elementBytes * elements);
    check(
        kernel,
        esp_add_normed_forward(
            branch,
            branchWeight,
            branchRstd,
            x,
            sum,
            weight,
            weightOffset,
            eps,
            out,
            ldOut,
            rstd,
            rows,
            d,
            dtype));
  }

  /** The bits of two calls of {@link #rmsNormBackward}: of the sum, then of the branch. */
  public void addNormedBackward(
      MemorySegment sum,
      MemorySegment weight,
      MemorySegment rstd,
      MemorySegment dOut,
      MemorySegment dSum,
      boolean accumulate,
      MemorySegment dWeight,
      MemorySegment branch,
      MemorySegment branchWeight,
      MemorySegment branchRstd,
      float weightOffset,
      MemorySegment dBranch,
      MemorySegment dBranchWeight,
      long rows,
      long d) {
    String kernel = "esp_add_normed_backward";
    size(kernel, "rows", rows);
    positive(kernel, "d", d);
    elements(kernel, "sum", sum, rows, d);
    floats(kernel, "weight", weight, d);
    floats(kernel, "rstd", rstd, rows);
    elements(kernel, "d_out", dOut, rows, d);
    elements(kernel, "d_sum", dSum, rows, d);
    floatsOrNull(kernel, "d_weight", dWeight, d);
    elements(kernel, "branch", branch, rows, d);
    floats(kernel, "branch_weight", branchWeight, d);
    floats(kernel, "branch_rstd", branchRstd, rows);
    elements(kernel, "d_branch", dBranch, rows, d);
    floatsOrNull(kernel, "d_branch_weight", dBranchWeight, d);
    begin(16.0 * rows * d, (accumulate ? 6.0 : 5.0) * elementBytes * rows * d);
    check(
        kernel,
        esp_add_normed_backward(
            sum,
            weight,
            rstd,
            dOut,
            dSum,
            flag(accumulate),
            dWeight,
            branch,
            branchWeight,
            branchRstd,
            weightOffset,
            dBranch,
            dBranchWeight,
            rows,
            d,
            dtype));
  }

  /** {@code out = (x - mean) * rstd * weight + bias} by rows of d; out's rows may lie apart. */
  public void layerNormForward(
      MemorySegment x,
      MemorySegment weight,
      MemorySegment bias,
      float eps,
      MemorySegment out,
      long ldOut,
      MemorySegment mean,
      MemorySegment rstd,
      long rows,
      long d) {
    String kernel = "esp_layer_norm_forward";
    size(kernel, "rows", rows);
    positive(kernel, "d", d);
    elements(kernel, "x", x, rows, d);
    floats(kernel, "weight", weight, d);
    floats(kernel, "bias", bias, d);
    rows(kernel, "out", out, rows, d, ldOut);
    floats(kernel, "mean", mean, rows);
    floats(kernel, "rstd", rstd, rows);
    begin(6.0 * rows * d, 2.0 * elementBytes * rows * d);
    check(
        kernel,
        esp_layer_norm_forward(x, weight, bias, eps, out, ldOut, mean, rstd, rows, d, dtype));
  }

  /** {@code sum = x + y}, and LayerNorm of it. */
  public void addLayerNormForward(
      MemorySegment x,
      MemorySegment y,
      MemorySegment weight,
      MemorySegment bias,
      float eps,
      MemorySegment sum,
      MemorySegment out,
      long ldOut,
      MemorySegment mean,
      MemorySegment rstd,
      long rows,
      long d) {
    String kernel = "esp_add_layer_norm_forward";
    summedSizes(kernel, x, y, sum, rows, d);
    floats(kernel, "weight", weight, d);
    floats(kernel, "bias", bias, d);
    rows(kernel, "out", out, rows, d, ldOut);
    floats(kernel, "mean", mean, rows);
    floats(kernel, "rstd", rstd, rows);
    begin(7.0 * rows * d, 4.0 * elementBytes * rows * d);
    check(
        kernel,
        esp_add_layer_norm_forward(
            x, y, weight, bias, eps, sum, out, ldOut, mean, rstd, rows, d, dtype));
  }

  public void layerNormBackward(
      MemorySegment x,
      MemorySegment weight,
      MemorySegment mean,
      MemorySegment rstd,
      MemorySegment dOut,
      MemorySegment dX,
      boolean accumulate,
      MemorySegment dWeight,
      MemorySegment dBias,
      long rows,
      long d) {
    String kernel = "esp_layer_norm_backward";
    size(kernel, "rows", rows);
    positive(kernel, "d", d);
    elements(kernel, "x", x, rows, d);
    floats(kernel, "weight", weight, d);
    floats(kernel, "mean", mean, rows);
    floats(kernel, "rstd", rstd, rows);
    elements(kernel, "d_out", dOut, rows, d);
    elements(kernel, "d_x", dX, rows, d);
    floatsOrNull(kernel, "d_weight", dWeight, d);
    floatsOrNull(kernel, "d_bias", dBias, d);
    begin(10.0 * rows * d, 3.0 * elementBytes * rows * d);
    check(
        kernel,
        esp_layer_norm_backward(
            x, weight, mean, rstd, dOut, dX, flag(accumulate), dWeight, dBias, rows, d, dtype));
  }

  /** RMSNorm of each query and key head of a fused projection; values are copied. */
  public void headNormForward(
      MemorySegment x,
      MemorySegment queryWeight,
      MemorySegment keyWeight,
      float weightOffset,
      float eps,
      MemorySegment out,
      MemorySegment rstd,
      long tokens,
      long nHeads,
      long nKvHeads,
      long headDim) {
    String kernel = "esp_head_norm_forward";
    long cols = fusedCols(kernel, tokens, nHeads, nKvHeads, headDim);
    elements(kernel, "x", x, tokens, cols);
    floats(kernel, "query_weight", queryWeight, headDim);
    floats(kernel, "key_weight", keyWeight, headDim);
    elements(kernel, "out", out, tokens, cols);
    floats(kernel, "rstd", rstd, tokens, nHeads + nKvHeads);
    begin(4.0 * tokens * cols, 2.0 * elementBytes * tokens * cols);
    check(
        kernel,
        esp_head_norm_forward(
            x,
            queryWeight,
            keyWeight,
            weightOffset,
            eps,
            out,
            rstd,
            tokens,
            nHeads,
            nKvHeads,
            headDim,
            dtype));
  }

  /** Gradients of {@link #headNormForward}; dX is overwritten and may be dOut. */
  public void headNormBackward(
      MemorySegment x,
      MemorySegment queryWeight,
      MemorySegment keyWeight,
      float weightOffset,
      MemorySegment rstd,
      MemorySegment dOut,
      MemorySegment dX,
      MemorySegment dQueryWeight,
      MemorySegment dKeyWeight,
      long tokens,
      long nHeads,
      long nKvHeads,
      long headDim) {
    String kernel = "esp_head_norm_backward";
    long cols = fusedCols(kernel, tokens, nHeads, nKvHeads, headDim);
    elements(kernel, "x", x, tokens, cols);
    floats(kernel, "query_weight", queryWeight, headDim);
    floats(kernel, "key_weight", keyWeight, headDim);
    floats(kernel, "rstd", rstd, tokens, nHeads + nKvHeads);
    elements(kernel, "d_out", dOut, tokens, cols);
    elements(kernel, "d_x", dX, tokens, cols);
    floatsOrNull(kernel, "d_query_weight", dQueryWeight, headDim);
    floatsOrNull(kernel, "d_key_weight", dKeyWeight, headDim);
    begin(8.0 * tokens * cols, 3.0 * elementBytes * tokens * cols);
    check(
        kernel,
        esp_head_norm_backward(
            x,
            queryWeight,
            keyWeight,
            weightOffset,
            rstd,
            dOut,
            dX,
            dQueryWeight,
            dKeyWeight,
            tokens,
            nHeads,
            nKvHeads,
            headDim,
            dtype));
  }

  private static long fusedCols(
      String kernel, long tokens, long nHeads, long nKvHeads, long headDim) {
    size(kernel, "tokens", tokens);
    positive(kernel, "n_heads", nHeads);
    positive(kernel, "n_kv_heads", nKvHeads);
    positive(kernel, "head_dim", headDim);
    return Math.multiplyExact(nHeads + 2 * nKvHeads, headDim);
  }

  /**
   * Turns heads of queries or keys by their position, in place.
   *
   * @param sign 1 forward, -1 backward
   */
  public void rope(
      MemorySegment x,
      long ldx,
      MemorySegment cos,
      MemorySegment sin,
      int sign,
      long tokens,
      long seqLen,
      long nHeads,
      long headDim,
      long rotaryDim) {
    size("esp_rope", "tokens", tokens);
    positive("esp_rope", "seq_len", seqLen);
    positive("esp_rope", "n_heads", nHeads);
    positive("esp_rope", "head_dim", headDim);
    positive("esp_rope", "rotary_dim", rotaryDim);
    rows("esp_rope", "x", x, tokens, nHeads * headDim, ldx);
    floats("esp_rope", "cos", cos, Math.min(tokens, seqLen), rotaryDim / 2);
    floats("esp_rope", "sin", sin, Math.min(tokens, seqLen), rotaryDim / 2);
    begin(3.0 * tokens * nHeads * rotaryDim, 2.0 * elementBytes * tokens * nHeads * rotaryDim);
    check(
        "esp_rope",
        esp_rope(x, ldx, cos, sin, sign, tokens, seqLen, nHeads, headDim, rotaryDim, dtype));
  }

  /** Causal grouped-query attention; lse receives the log-sum-exp of each query's scores. */
  public void attentionForward(
      MemorySegment q,
      long ldQ,
      MemorySegment k,
      MemorySegment v,
      long ldKv,
      MemorySegment out,
      long ldOut,
      MemorySegment lse,
      long batch,
      long seqLen,
      long nHeads,
      long nKvHeads,
      long headDim,
      float scale,
      float softcap,
      long window) {
    String kernel = "esp_attention_forward";
    attentionSizes(kernel, batch, seqLen, nHeads, nKvHeads, headDim);
    long tokens = batch * seqLen;
    rows(kernel, "q", q, tokens, nHeads * headDim, ldQ);
    rows(kernel, "k", k, tokens, nKvHeads * headDim, ldKv);
    rows(kernel, "v", v, tokens, nKvHeads * headDim, ldKv);
    rows(kernel, "out", out, tokens, nHeads * headDim, ldOut);
    floats(kernel, "lse", lse, tokens, nHeads);
    begin(
        attentionFlops(batch, seqLen, window, nHeads * headDim),
        2.0 * elementBytes * tokens * (nHeads + nKvHeads) * headDim);
    check(
        kernel,
        esp_attention_forward(
            q, ldQ, k, v, ldKv, out, ldOut, lse, batch, seqLen, nHeads, nKvHeads, headDim, scale,
            softcap, window, dtype));
  }

  /** Gradients of {@link #attentionForward}, overwritten; delta is scratch. */
  public void attentionBackward(
      MemorySegment q,
      long ldQ,
      MemorySegment k,
      MemorySegment v,
      long ldKv,
      MemorySegment out,
      long ldOut,
      MemorySegment lse,
      MemorySegment dOut,
      MemorySegment delta,
      MemorySegment dQ,
      MemorySegment dK,
      MemorySegment dV,
      long batch,
      long seqLen,
      long nHeads,
      long nKvHeads,
      long headDim,
      float scale,
      float softcap,
      long window) {
    String kernel = "esp_attention_backward";
    attentionSizes(kernel, batch, seqLen, nHeads, nKvHeads, headDim);
    long tokens = batch * seqLen;
    rows(kernel, "q", q, tokens, nHeads * headDim, ldQ);
    rows(kernel, "k", k, tokens, nKvHeads * headDim, ldKv);
    rows(kernel, "v", v, tokens, nKvHeads * headDim, ldKv);
    rows(kernel, "out", out, tokens, nHeads * headDim, ldOut);
    floats(kernel, "lse", lse, tokens, nHeads);
    elements(kernel, "d_out", dOut, tokens, nHeads * headDim);
    floats(kernel, "delta", delta, tokens, nHeads);
    rows(kernel, "d_q", dQ, tokens, nHeads * headDim, ldQ);
    rows(kernel, "d_k", dK, tokens, nKvHeads * headDim, ldKv);
    rows(kernel, "d_v", dV, tokens, nKvHeads * headDim, ldKv);
    begin(
        2.5 * attentionFlops(batch, seqLen, window, nHeads * headDim),
        4.0 * elementBytes * tokens * (nHeads + nKvHeads) * headDim);
    check(
        kernel,
        esp_attention_backward(
            q, ldQ, k, v, ldKv, out, ldOut, lse, dOut, delta, dQ, dK, dV, batch, seqLen, nHeads,
            nKvHeads, headDim, scale, softcap, window, dtype));
  }

  /**
   * {@code out = act(x)}
   *
   * @param activation as esp_activation numbers them
   */
  public void activationForward(MemorySegment x, int activation, MemorySegment out, long n) {
    size("esp_activation_forward", "n", n);
    elements("esp_activation_forward", "x", x, n);
    elements("esp_activation_forward", "out", out, n);
    begin(0, 2.0 * elementBytes * n);
    check("esp_activation_forward", esp_activation_forward(x, activation, out, n, dtype));
  }

  /** {@code dX = dOut * act'(x)}; dX may be dOut. */
  public void activationBackward(
      MemorySegment x, int activation, MemorySegment dOut, MemorySegment dX, long n) {
    size("esp_activation_backward", "n", n);
    elements("esp_activation_backward", "x", x, n);
    elements("esp_activation_backward", "d_out", dOut, n);
    elements("esp_activation_backward", "d_x", dX, n);
    begin(0, 3.0 * elementBytes * n);
    check("esp_activation_backward", esp_activation_backward(x, activation, dOut, dX, n, dtype));
  }

  /**
   * {@code out = act(gate) * up}.
   *
   * @param activation one of {@code esp_activation}
   */
  public void gatedForward(
      MemorySegment gateUp, int activation, MemorySegment out, long ldOut, long rows, long d) {
    size("esp_gated_forward", "rows", rows);
    positive("esp_gated_forward", "d", d);
    elements("esp_gated_forward", "gate_up", gateUp, rows, Math.multiplyExact(2, d));
    rows("esp_gated_forward", "out", out, rows, d, ldOut);
    begin(0, 3.0 * elementBytes * rows * d);
    check("esp_gated_forward", esp_gated_forward(gateUp, activation, out, ldOut, rows, d, dtype));
  }

  /** dGateUp may be gateUp. */
  public void gatedBackward(
      MemorySegment gateUp,
      int activation,
      MemorySegment dOut,
      MemorySegment dGateUp,
      long rows,
      long d) {
    size("esp_gated_backward", "rows", rows);
    positive("esp_gated_backward", "d", d);
    elements("esp_gated_backward", "gate_up", gateUp, rows, Math.multiplyExact(2, d));
    elements("esp_gated_backward", "d_out", dOut, rows, d);
    elements("esp_gated_backward", "d_gate_up", dGateUp, rows, Math.multiplyExact(2, d));
    begin(0, 5.0 * elementBytes * rows * d);
    check(
        "esp_gated_backward",
        esp_gated_backward(gateUp, activation, dOut, dGateUp, rows, d, dtype));
  }

  /** KL(teacher || student) per token through the head, and the student's gradient, over chunks. */
  public void headKl(
      MemorySegment student,
      MemorySegment teacher,
      MemorySegment head,
      float softcap,
      MemorySegment targets,
      MemorySegment kl,
      MemorySegment ceStudent,
      MemorySegment ceTeacher,
      MemorySegment dStudent,
      float gradScale,
      MemorySegment scratch,
      long chunk,
      long tokens,
      long d,
      long vocab) {
    String kernel = "esp_head_kl";
    headSizes(kernel, chunk, tokens, d, vocab);
    elements(kernel, "student", student, tokens, d);
    elements(kernel, "teacher", teacher, tokens, d);
    elements(kernel, "head", head, vocab, d);
    floats(kernel, "kl", kl, tokens);
    together(kernel, "targets and ce_student", targets, ceStudent);
    together(kernel, "targets and ce_teacher", targets, ceTeacher);
    if (isGiven(targets)) {
      ints(kernel, "targets", targets, tokens);
      floats(kernel, "ce_student", ceStudent, tokens);
      floats(kernel, "ce_teacher", ceTeacher, tokens);
    }
    elementsOrNull(kernel, "d_student", dStudent, tokens, d);
    floats(kernel, "scratch", scratch, 2 * chunk, vocab + LOGITS_ROOM);
    begin(0, elementBytes * (vocab + 3.0 * tokens) * d);
    products(2, false, true, tokens, vocab, d);
    products(flag(isGiven(dStudent)), false, false, tokens, d, vocab);
    check(
        kernel,
        esp_head_kl(
            student, teacher, head, softcap, targets, kl, ceStudent, ceTeacher, dStudent, gradScale,
            scratch, chunk, tokens, d, vocab, dtype));
  }

  /** Cross-entropy per token through the head, and its gradients, over chunks. */
  public void headCe(
      MemorySegment hidden,
      MemorySegment head,
      float softcap,
      MemorySegment targets,
      MemorySegment ce,
      MemorySegment dHidden,
      MemorySegment dHead,
      float gradScale,
      MemorySegment scratch,
      long chunk,
      long tokens,
      long d,
      long vocab) {
    String kernel = "esp_head_ce";
    headSizes(kernel, chunk, tokens, d, vocab);
    elements(kernel, "hidden", hidden, tokens, d);
    elements(kernel, "head", head, vocab, d);
    ints(kernel, "targets", targets, tokens);
    floats(kernel, "ce", ce, tokens);
    elementsOrNull(kernel, "d_hidden", dHidden, tokens, d);
    floatsOrNull(kernel, "d_head", dHead, vocab, d);
    floats(kernel, "scratch", scratch, chunk, vocab + LOGITS_ROOM);
    begin(0, elementBytes * (vocab + 2.0 * tokens) * d);
    products(1, false, true, tokens, vocab, d);
    products(flag(isGiven(dHidden)), false, false, tokens, d, vocab);
    products(flag(isGiven(dHead)), true, false, vocab, d, tokens);
    check(
        kernel,
        esp_head_ce(
            hidden, head, softcap, targets, ce, dHidden, dHead, gradScale, scratch, chunk, tokens,
            d, vocab, dtype));
  }

  /** Writes the norm of grad into control, a {@code esp_control}. */
  public void globalNorm(MemorySegment grad, long n, MemorySegment control) {
    size("esp_global_norm", "n", n);
    floats("esp_global_norm", "grad", grad, n);
    bytes("esp_global_norm", "control", control, 1, CONTROL_BYTES);
    begin(2.0 * n, 4.0 * n);
    check("esp_global_norm", esp_global_norm(grad, n, control));
  }

  /** One AdamW step with the learning rate, step and gradient norm of control. */
  public void adamw(
      MemorySegment param,
      MemorySegment grad,
      MemorySegment m,
      MemorySegment v,
      long n,
      float beta1,
      float beta2,
      float eps,
      float weightDecay,
      float clip,
      MemorySegment control) {
    size("esp_adamw", "n", n);
    floats("esp_adamw", "param", param, n);
    floats("esp_adamw", "grad", grad, n);
    floats("esp_adamw", "m", m, n);
    floats("esp_adamw", "v", v, n);
    bytes("esp_adamw", "control", control, 1, CONTROL_BYTES);
    begin(12.0 * n, 28.0 * n);
    check(
        "esp_adamw",
        esp_adamw(param, grad, m, v, n, beta1, beta2, eps, weightDecay, clip, control));
  }

  /** Pairs of a query and a key that it sees, in one causal sequence; window 0: all before it. */
  public static double visiblePairs(long context, long window) {
    long w = window == 0 ? context : Math.min(window, context);
    return w * (w + 1) / 2.0 + (context - w) * (double) w;
  }

  /** Scores and their product with the values, forward. */
  private static double attentionFlops(long batch, long seqLen, long window, long cols) {
    return 4.0 * batch * visiblePairs(seqLen, window) * cols;
  }

  private static final int CONTROL_BYTES = Math.toIntExact(esp_control.sizeof());

  private static void embeddingSizes(
      String kernel, MemorySegment ids, long tokens, long vocab, long d) {
    size(kernel, "tokens", tokens);
    positive(kernel, "vocab", vocab);
    positive(kernel, "d", d);
    ints(kernel, "ids", ids, tokens);
  }

  private static void attentionSizes(
      String kernel, long batch, long seqLen, long nHeads, long nKvHeads, long headDim) {
    size(kernel, "batch", batch);
    positive(kernel, "seq_len", seqLen);
    positive(kernel, "n_heads", nHeads);
    positive(kernel, "n_kv_heads", nKvHeads);
    positive(kernel, "head_dim", headDim);
  }

  private static void headSizes(String kernel, long chunk, long tokens, long d, long vocab) {
    positive(kernel, "chunk", chunk);
    size(kernel, "tokens", tokens);
    positive(kernel, "d", d);
    positive(kernel, "vocab", vocab);
  }
}
