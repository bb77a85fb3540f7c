package espalier.autograd;

import static espalier.autograd.LinearMap.gemm;

import espalier.device.Kernels;
import espalier.device.LowRankTerms;
import espalier.tensor.Tensor;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;
import java.util.stream.Stream;

/**
 * The low-rank part of a linear map for updates that read the same input: y[:, columns] += scale *
 * dropout(x) A^T B^T.
 *
 * <p>Where B lies {@linkplain WeightBlock beside the weight}, scale * x A^T is written right of x,
 * and the map is one product over both.
 *
 * <p>A matrices that lie side by side in memory are stacked, so that x A^T and its backward
 * products are one call for all of them (queries, keys and values; gate and up). dY B is one call,
 * too, where all B lie beside the weight, as there is 0 between them. With dropout each update
 * reads its own masked copy of x, as PEFT does, and nothing can be stacked.
 */
final class LowRankProduct {

  private final Var x;
  private final Tensor a; // [rank, in], stacked
  private final Tensor gradientA; // null where frozen
  private final List<Part> parts;
  private final Var y; // [tokens, out]
  private final Tensor b; // [out, rank], stacked, where it lies beside the weight; else null
  private final Var apart; // [tokens, rank], what xa is of; null where xa lies right of x
  private final Var.Columns xa; // [tokens, rank]: x A^T, times the scale where it lies right of x
  private final Var dXa; // [tokens, rank]
  private final MemorySegment seed;
  private final float dropout;
  private final float scale; // of the first update; of all where xa lies right of x
  private final long stream;
  private final Var dropped; // [tokens, in]: x masked, forward; null without dropout
  private final Var dDropped; // [tokens, in]: x masked again, then the gradient of that; likewise

  /** One update: its columns of y, and its columns of x A^T. */
  private record Part(LowRank lowRank, long from, Var.Columns y, Var.Columns xa, Var.Columns dXa) {}

  /**
   * @param w the weight beside which all B lie, where columns of x have been reserved; else null
   * @param at the first of those columns; 0 where none are
   */
  private LowRankProduct(
      Tape tape,
      Var x,
      Var y,
      Tensor w,
      List<LinearMap.Update> updates,
      MemorySegment seed,
      long at) {
    LowRank first = updates.getFirst().lowRank();
    long rank = updates.stream().mapToLong(u -> u.lowRank().rank()).sum();
    this.x = x;
    this.y = y;
    scale = first.scale();
    this.seed = seed;
    dropout = first.dropout();
    stream = first.stream();
    Tensor firstA = first.a().matrix();
    a = new Tensor(firstA.data(), rank, x.cols(), firstA.stride(), firstA.type());
    gradientA = first.isTrainable() ? Tensor.of(first.a().gradientData(), rank, x.cols()) : null;
    b = w == null || updates.size() == 1 ? null : besideOf(w, at, rank);
    apart = at > 0 ? null : tape.value(x.rows(), rank, false);
    xa = at > 0 ? x.columns(at, rank) : apart.columns(0, rank);
    dXa = tape.value(x.rows(), rank, false);
    dropped = dropout > 0 ? tape.value(x.rows(), x.cols(), false) : null;
    dDropped = dropout > 0 ? tape.value(x.rows(), x.cols(), false) : null;
    parts = new ArrayList<>();
    long from = 0;
    for (LinearMap.Update update : updates) {
      LowRank lowRank = update.lowRank();
      parts.add(
          new Part(
              lowRank,
              update.from(),
              y.columns(update.from(), lowRank.b().rows()),
              apart == null
                  ? x.columns(at + from, lowRank.rank())
                  : apart.columns(from, lowRank.rank()),
              dXa.columns(from, lowRank.rank())));
      from += lowRank.rank();
    }
  }

  /** The columns of a weight's block that begin at {@code from}. */
  private static Tensor besideOf(Tensor w, long from, long cols) {
    return new Tensor(
        w.data().asSlice(from * w.type().bytes()), w.rows(), cols, w.stride(), w.type());
  }

  /**
   * Groups all updates of one map into as few products as possible.
   *
   * @param w the weight beside which all B lie, where room for all x A^T has been reserved right of
   *     x; else null
   */
  static List<LowRankProduct> of(
      Tape tape, Var x, Var y, Tensor w, List<LinearMap.Update> updates, MemorySegment seed) {
    long at = w == null ? 0 : x.cols();
    List<LowRankProduct> products = new ArrayList<>();
    List<LinearMap.Update> group = new ArrayList<>();
    for (LinearMap.Update update : updates) {
      if (!group.isEmpty() && !follows(group.getLast().lowRank(), update.lowRank())) {
        products.add(new LowRankProduct(tape, x, y, w, List.copyOf(group), seed, at));
        at += w == null ? 0 : products.getLast().a.rows();
        group.clear();
      }
      group.add(update);
    }
    if (!group.isEmpty()) {
      products.add(new LowRankProduct(tape, x, y, w, group, seed, at));
    }
    return products;
  }

  private static boolean follows(LowRank before, LowRank after) {
    return before.dropout() == 0
        && after.dropout() == 0
        && before.isTrainable() == after.isTrainable()
        && before.a().isFollowedBy(after.a());
  }

  /** What holds x A^T until the backward pass. */
  Var keeps() {
    return apart == null ? x : apart;
  }

  Var[] forwardValues() {
    return Stream.of(apart, dropped).filter(Objects::nonNull).toArray(Var[]::new);
  }

  Var[] backwardValues() {
    return Stream.of(dXa, dDropped).filter(Objects::nonNull).toArray(Var[]::new);
  }

  /**
   * Computes x A^T, and sets the terms that the linear map adds from {@code at} on.
   *
   * @return one past the last term
   */
  int forward(Kernels k, LowRankTerms terms, int at) {
    float alpha = apart == null ? scale : 1;
    gemm(k, false, true, x.rows(), a.rows(), x.cols(), alpha, input(k, dropped), a, 0, xa.value());
    for (int i = 0; i < parts.size(); i++) {
      Part part = parts.get(i);
      LowRank lr = part.lowRank;
      Tensor u = part.xa.value();
      Tensor b = lr.b().matrix();
      terms.set(
          at + i,
          u.data(),
          u.stride(),
          b.data(),
          b.stride(),
          part.from,
          b.rows(),
          lr.rank(),
          scaleOfXa(lr));
    }
    return at + parts.size();
  }

  /** The factor that x A^T does not contain yet. */
  private float scaleOfXa(LowRank lowRank) {
    return apart == null ? 1 : lowRank.scale();
  }

  void backward(Kernels k) {
    long tokens = x.rows();
    for (int i = 0; i < parts.size(); i++) {
      Part part = parts.get(i);
      LowRank lr = part.lowRank;
      long out = lr.b().rows();
      Tensor dY = part.y.gradient();
      if (lr.isTrainable()) {
        Tensor dB = lr.b().gradient();
        gemm(k, true, false, out, lr.rank(), tokens, scaleOfXa(lr), dY, part.xa.value(), 1, dB);
      }
      if (b == null) {
        Tensor own = lr.b().matrix();
        gemm(k, false, false, tokens, lr.rank(), out, lr.scale(), dY, own, 0, part.dXa.value());
      }
    }
    if (b != null) {
      gemm(k, false, false, tokens, b.cols(), b.rows(), scale, y.gradient(), b, 0, dXa.value());
    }
    if (gradientA != null) {
      Tensor read = input(k, dDropped);
      gemm(k, true, false, a.rows(), a.cols(), tokens, 1, dXa.value(), read, 1, gradientA);
    }
  }

  /** Whether A is applied to x itself, not to a masked copy. */
  boolean readsInput() {
    return dropped == null;
  }

  /** The term of dX that {@link #backward} has prepared: dXa A. */
  void setGradientTerm(LowRankTerms terms) {
    Tensor u = dXa.value();
    terms.set(0, u.data(), u.stride(), a.data(), a.stride(), 0, a.cols(), a.rows(), 1);
  }

  /** Adds that term, where the frozen product did not. */
  void addInputGradient(Kernels k) {
    Tensor target = dropped == null ? x.gradient() : dDropped.value();
    float beta = dropped == null ? 1 : 0;
    gemm(k, false, false, x.rows(), a.cols(), a.rows(), 1, dXa.value(), a, beta, target);
    if (dropped != null) {
      k.dropout(dDropped.data(), x.gradientData(), x.size(), dropout, seed, stream, true);
    }
  }

  /** What A is applied to: x, or its masked copy, drawn into {@code copy}. */
  private Tensor input(Kernels k, Var copy) {
    if (copy == null) {
      return x.value();
    }
    Tensor from = x.value();
    k.dropout(
        from.data(), from.stride(), copy.data(), x.rows(), x.cols(), dropout, seed, stream, false);
    return copy.value();
  }
}
