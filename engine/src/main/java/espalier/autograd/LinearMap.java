package espalier.autograd;

import espalier.device.Kernels;
import espalier.device.LowRankTerms;
import espalier.tensor.Tensor;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.List;

/**
 * y = x W^T + b, plus low-rank updates of column ranges of y.
 *
 * <p>W may be several projections stacked, such as queries, keys and values: one product computes
 * all. The bias is written to y first, and all products are added to it (beta = 1), which costs no
 * more than without a bias. The gradients are dX = dY W + s (dY B) A, dA = s (dY B)^T X and dB = s
 * dY^T (X A^T); where W is frozen it has none.
 *
 * <p>Where W and all B lie in a {@link WeightBlock} and x has room to its right, s X A^T is written
 * there, and one product over both can compute y; the kernel decides by the shape.
 */
public final class LinearMap {

  /** A low-rank update of the columns {@code [from, from + lowRank.b().rows())} of y. */
  public record Update(long from, LowRank lowRank) {}

  private LinearMap() {}

  /**
   * @param x {@code [tokens, in]}
   * @param weight {@code [out, in]}
   * @param bias {@code [1, out]} or null
   * @param updates of columns of y that do not overlap
   * @param seed uint64 in device memory, the seed of this step's dropout
   * @return {@code [tokens, out]}
   */
  public static Var apply(
      Tape tape,
      Var x,
      Parameter weight,
      Parameter bias,
      List<Update> updates,
      MemorySegment seed) {
    if (weight.cols() != x.cols()) {
      throw new IllegalArgumentException(
          weight.name() + " [" + weight.rows() + ", " + weight.cols() + "] applied to " + x);
    }
    long tokens = x.rows();
    long in = x.cols();
    long out = weight.rows();
    if (bias != null && bias.value().size() != out) {
      throw new IllegalArgumentException(
          bias.name() + " has " + bias.value().size() + " elements for " + out + " columns");
    }
    boolean biasLearns = bias != null && bias.isTrainable();
    boolean needsInput =
        weight.isTrainable() || updates.stream().anyMatch(u -> u.lowRank().isTrainable());
    Var y = tape.value(tokens, out, x.needsGradient() || needsInput || biasLearns);
    boolean besideInput = areColumnsOf(weight, updates) && x.reserve(ranks(updates));
    Tensor beside = besideInput ? weight.matrix() : null;
    List<LowRankProduct> products = LowRankProduct.of(tape, x, y, beside, updates, seed);

    Op op = tape.op("linear").reads(x).writes(y);
    List<Var> keeps = new ArrayList<>(needsInput ? List.of(x) : List.of());
    for (LowRankProduct product : products) {
      op.writes(product.forwardValues());
      keeps.add(product.keeps());
    }
    LowRankTerms terms = new LowRankTerms(updates.size());
    op.forward(
        k -> {
          if (bias != null) {
            k.fillRows(bias.data(), y.data(), tokens, out);
          }
          int at = 0;
          for (int i = 0; i < products.size(); i++) {
            at = products.get(i).forward(k, terms, at);
          }
          float beta = bias == null ? 0 : 1;
          linear(k, true, tokens, out, in, x.value(), weight.matrix(), terms, beta, y.value());
        });
    // Only terms of x itself can be added with the frozen product, not those of a masked copy.
    boolean addsFirst = !products.isEmpty() && products.getFirst().readsInput();
    LowRankTerms gradientTerms = new LowRankTerms(addsFirst ? 1 : 0);
    op.backward(
        keeps,
        List.of(x),
        k -> {
          Tensor dY = y.gradient();
          if (weight.isTrainable()) {
            gemm(k, true, false, out, in, tokens, 1, dY, x.value(), 1, weight.gradient());
          }
          if (biasLearns) {
            k.columnSum(dY.data(), out, MemorySegment.NULL, 1, bias.gradientData(), tokens, out);
          }
          for (int i = 0; i < products.size(); i++) {
            products.get(i).backward(k);
          }
          if (x.needsGradient()) {
            if (addsFirst) {
              products.getFirst().setGradientTerm(gradientTerms);
            }
            float beta = x.accumulates() ? 1 : 0;
            linear(
                k, false, tokens, in, out, dY, weight.matrix(), gradientTerms, beta, x.gradient());
            for (int i = addsFirst ? 1 : 0; i < products.size(); i++) {
              products.get(i).addInputGradient(k);
            }
          }
        });
    products.forEach(product -> op.backwardScratch(product.backwardValues()));
    return y;
  }

  private static long ranks(List<Update> updates) {
    return updates.stream().mapToLong(update -> update.lowRank().rank()).sum();
  }

  /**
   * Whether all B lie to the right of the weight, in the order of the updates, and have the same
   * scale: the products with A share it.
   */
  private static boolean areColumnsOf(Parameter weight, List<Update> updates) {
    Tensor w = weight.matrix();
    long column = w.cols();
    for (Update update : updates) {
      Tensor b = update.lowRank().b().matrix();
      long at = update.from() * w.stride() + column;
      if (b.stride() != w.stride()
          || b.data().address() != w.data().address() + at * w.type().bytes()
          || update.lowRank().scale() != updates.getFirst().lowRank().scale()) {
        return false;
      }
      column += update.lowRank().rank();
    }
    return !updates.isEmpty();
  }

  /** {@code y[m, n] = x op(w) + beta y + terms}. */
  private static void linear(
      Kernels kernels,
      boolean transposed,
      long m,
      long n,
      long k,
      Tensor x,
      Tensor w,
      LowRankTerms terms,
      float beta,
      Tensor y) {
    kernels.linear(
        transposed,
        m,
        n,
        k,
        x.data(),
        x.stride(),
        w.data(),
        w.stride(),
        terms,
        beta,
        y.data(),
        y.stride());
  }

  /** c[m, n] = alpha * op(a) op(b) + beta * c. */
  static void gemm(
      Kernels kernels,
      boolean transA,
      boolean transB,
      long m,
      long n,
      long k,
      float alpha,
      Tensor a,
      Tensor b,
      float beta,
      Tensor c) {
    kernels.gemm(
        transA,
        transB,
        m,
        n,
        k,
        alpha,
        a.data(),
        a.stride(),
        b.data(),
        b.stride(),
        beta,
        c.data(),
        c.stride(),
        c.type());
  }
}
