package espalier.bench;

import espalier.device.Device;
import espalier.device.Kernels;
import espalier.device.LinearWay;
import espalier.device.LowRankTerms;
import espalier.tensor.Tensor;

/**
 * A frozen linear layer with a trained low-rank update (Hu et al. 2021), y = x W^T + (x A^T) B^T,
 * by esp_linear and by the chain of operations that PEFT computes it with.
 */
final class LoraWork {

  private final Kernels kernels;
  private final Operands operands;
  private final LinearWay way;
  private final Tensor x; // [tokens, in]
  private final Tensor w; // [out, in]
  private final Tensor a; // [rank, in]
  private final Tensor b; // [out, rank]
  private final Tensor dY; // [tokens, out]
  private final Tensor xa; // [tokens, rank]
  private final Tensor dXa; // [tokens, rank]
  final Tensor update; // [tokens, out], of the chain
  final Tensor dXOfUpdate; // [tokens, in], of the chain
  private final LowRankTerms forwardTerm = new LowRankTerms(1);
  private final LowRankTerms backwardTerm = new LowRankTerms(1);
  private final LowRankTerms none = new LowRankTerms(0);
  final Tensor y; // [tokens, out]
  final Tensor dX; // [tokens, in]
  final Tensor dA; // [rank, in], float32
  final Tensor dB; // [out, rank], float32

  /**
   * @param way of esp_linear; without meaning for the chain
   */
  LoraWork(Device device, LinearWay way, long tokens, long in, long out, long rank) {
    kernels = device.kernels();
    operands = new Operands(device);
    this.way = way;
    double deviation = 1 / Math.sqrt(in);
    if (way == LinearWay.EXTRA_COLUMNS) { // [W B], below it A; [x xA^T]; [dY dXa]: see esp_linear
      Tensor weights = operands.random(out + rank, in + rank, deviation);
      w = weights.rows(0, out).columns(0, in);
      b = weights.rows(0, out).columns(in, rank);
      a = weights.rows(out, rank).columns(0, in);
      Tensor inputs = operands.random(tokens, in + rank, 1);
      x = inputs.columns(0, in);
      xa = inputs.columns(in, rank);
      Tensor gradients = operands.random(tokens, out + rank, 1);
      dY = gradients.columns(0, out);
      dXa = gradients.columns(out, rank);
    } else {
      w = operands.random(out, in, deviation);
      b = operands.random(out, rank, deviation);
      a = operands.random(rank, in, deviation);
      x = operands.random(tokens, in, 1);
      xa = operands.empty(tokens, rank);
      dY = operands.random(tokens, out, 1);
      dXa = operands.empty(tokens, rank);
    }
    update = operands.empty(tokens, out);
    dXOfUpdate = operands.empty(tokens, in);
    y = operands.empty(tokens, out);
    dX = operands.empty(tokens, in);
    dA = operands.floats(rank, in);
    dB = operands.floats(out, rank);
  }

  /** The layer without its update, which an adapted one must do at least. */
  void forwardFrozen() {
    linear(true, x, w, none, y);
  }

  /** Likewise: no gradient of W. */
  void backwardFrozen() {
    linear(false, dY, w, none, dX);
  }

  void forwardFused() {
    operands.productTransposed(x, a, 1, 0, xa);
    set(forwardTerm, xa, b, b.rows());
    linear(true, x, w, forwardTerm, y);
  }

  /** Needs a forward pass before. */
  void backwardFused() {
    operands.transposedProduct(dY, xa, 1, 0, dB);
    operands.product(dY, b, 1, 0, dXa);
    operands.transposedProduct(dXa, x, 1, 0, dA);
    set(backwardTerm, dXa, a, a.cols());
    linear(false, dY, w, backwardTerm, dX);
  }

  void forwardChain() {
    operands.productTransposed(x, w, 1, 0, y);
    operands.productTransposed(x, a, 1, 0, xa);
    operands.productTransposed(xa, b, 1, 0, update);
    kernels.add(y.data(), update.data(), y.data(), y.size());
  }

  /** Needs a forward pass before. */
  void backwardChain() {
    operands.transposedProduct(dY, xa, 1, 0, dB);
    operands.product(dY, b, 1, 0, dXa);
    operands.transposedProduct(dXa, x, 1, 0, dA);
    operands.product(dY, w, 1, 0, dX);
    operands.product(dXa, a, 1, 0, dXOfUpdate);
    kernels.add(dX.data(), dXOfUpdate.data(), dX.data(), dX.size());
  }

  private static void set(LowRankTerms term, Tensor u, Tensor v, long columns) {
    term.set(0, u.data(), u.stride(), v.data(), v.stride(), 0, columns, u.cols(), 1);
  }

  private void linear(
      boolean transposed, Tensor in, Tensor weight, LowRankTerms terms, Tensor out) {
    kernels.linear(
        transposed,
        out.rows(),
        out.cols(),
        in.cols(),
        in.data(),
        in.stride(),
        weight.data(),
        weight.stride(),
        terms,
        0,
        out.data(),
        out.stride(),
        way);
  }
}
