package espalier.bench;

import espalier.device.Device;
import espalier.tensor.Tensor;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;

/**
 * Causal grouped-query attention by the kernel, which never stores a matrix of scores, and the
 * plain way, which stores all of them: a product for the scores of each head, a softmax of whole
 * rows, a product with the values, and probabilities kept for the backward pass.
 *
 * <p>The plain way's products are the device's, its softmax Java's: it needs memory that the host
 * can read.
 */
final class AttentionWork {

  /**
   * @param heads of queries, a multiple of {@code kvHeads}
   * @param softcap scores become softcap tanh(score / softcap); 0 for no cap
   * @param window a query sees so many keys, itself included; 0 for all before it
   */
  record Shape(
      int batch, int length, int heads, int kvHeads, int headDim, float softcap, int window) {

    long tokens() {
      return (long) batch * length;
    }

    int group() {
      return heads / kvHeads;
    }

    /** The first key that a query sees. */
    int firstKey(int query) {
      return window > 0 ? Math.max(0, query - window + 1) : 0;
    }
  }

  private final Shape shape;
  private final Device device;
  private final Operands operands;
  private final float scale;
  private final Tensor q; // [tokens, heads * headDim]
  private final Tensor k; // [tokens, kvHeads * headDim]
  private final Tensor v; // [tokens, kvHeads * headDim]
  private final Tensor dOut; // [tokens, heads * headDim]
  private final Tensor lse; // [tokens, heads]
  private final Tensor delta; // [tokens, heads]
  private Tensor scores; // [batch * heads * length, length], capped; of the plain way
  private Tensor probabilities; // the same
  private Tensor gradients; // the same, of scores
  final Tensor out; // [tokens, heads * headDim]
  final Tensor dQ;
  final Tensor dK;
  final Tensor dV;

  AttentionWork(Device device, Shape shape) {
    this.device = device;
    this.shape = shape;
    operands = new Operands(device);
    scale = (float) (1 / Math.sqrt(shape.headDim));
    long queries = (long) shape.heads * shape.headDim;
    long keys = (long) shape.kvHeads * shape.headDim;
    q = operands.random(shape.tokens(), queries, 1);
    k = operands.random(shape.tokens(), keys, 1);
    v = operands.random(shape.tokens(), keys, 1);
    dOut = operands.random(shape.tokens(), queries, 1);
    lse = operands.floats(shape.tokens(), shape.heads);
    delta = operands.floats(shape.tokens(), shape.heads);
    out = operands.empty(shape.tokens(), queries);
    dQ = operands.empty(shape.tokens(), queries);
    dK = operands.empty(shape.tokens(), keys);
    dV = operands.empty(shape.tokens(), keys);
  }

  void forwardFused() {
    device
        .kernels()
        .attentionForward(
            q.data(),
            q.stride(),
            k.data(),
            v.data(),
            k.stride(),
            out.data(),
            out.stride(),
            lse.data(),
            shape.batch,
            shape.length,
            shape.heads,
            shape.kvHeads,
            shape.headDim,
            scale,
            shape.softcap,
            shape.window);
  }

  /** Needs {@link #forwardFused} before. */
  void backwardFused() {
    device
        .kernels()
        .attentionBackward(
            q.data(),
            q.stride(),
            k.data(),
            v.data(),
            k.stride(),
            out.data(),
            out.stride(),
            lse.data(),
            dOut.data(),
            delta.data(),
            dQ.data(),
            dK.data(),
            dV.data(),
            shape.batch,
            shape.length,
            shape.heads,
            shape.kvHeads,
            shape.headDim,
            scale,
            shape.softcap,
            shape.window);
  }

  void forwardPlain() {
    requireScores();
    forEachHead(
        (sequence, head) ->
            operands.productTransposed(
                query(q, sequence, head),
                key(k, sequence, head),
                scale,
                0,
                ofHead(scores, sequence, head)));
    Operands.rows(
        scores.rows(), i -> softmax(i % shape.length, row(scores, i), row(probabilities, i)));
    forEachHead(
        (sequence, head) ->
            operands.product(
                ofHead(probabilities, sequence, head),
                key(v, sequence, head),
                1,
                0,
                query(out, sequence, head)));
  }

  /**
   * Needs {@link #forwardPlain} before. With dP = dO V^T: dS = P (dP - rowsum(P dP)), times the
   * cap's slope 1 - (s / cap)^2.
   */
  void backwardPlain() {
    forEachHead(
        (sequence, head) -> {
          Tensor dO = query(dOut, sequence, head);
          operands.transposedProduct(
              ofHead(probabilities, sequence, head), dO, 1, ofFirst(head), key(dV, sequence, head));
          operands.productTransposed(
              dO, key(v, sequence, head), 1, 0, ofHead(gradients, sequence, head));
        });
    Operands.rows(
        scores.rows(),
        i -> gradient(i % shape.length, row(scores, i), row(probabilities, i), row(gradients, i)));
    forEachHead(
        (sequence, head) -> {
          Tensor dS = ofHead(gradients, sequence, head);
          operands.product(dS, key(k, sequence, head), scale, 0, query(dQ, sequence, head));
          operands.transposedProduct(
              dS, query(q, sequence, head), scale, ofFirst(head), key(dK, sequence, head));
        });
  }

  /** Heads of a group share keys and values: the first one's gradient overwrites, others add. */
  private double ofFirst(int head) {
    return head % shape.group() == 0 ? 0 : 1;
  }

  private interface OfHead {
    void run(int sequence, int head);
  }

  private void forEachHead(OfHead work) {
    for (int sequence = 0; sequence < shape.batch; sequence++) {
      for (int head = 0; head < shape.heads; head++) {
        work.run(sequence, head);
      }
    }
  }

  private void requireScores() {
    operands.requireHost();
    if (scores == null) {
      long rows = (long) shape.batch * shape.heads * shape.length;
      scores = operands.floats(rows, shape.length);
      probabilities = operands.floats(rows, shape.length);
      gradients = operands.floats(rows, shape.length);
    }
  }

  /** A row of scores, capped in place, and its probabilities: 0 where the query sees no key. */
  private void softmax(int query, MemorySegment scores, MemorySegment probabilities) {
    float[] s = scores.toArray(ValueLayout.JAVA_FLOAT);
    int first = shape.firstKey(query);
    if (shape.softcap > 0) {
      for (int j = first; j <= query; j++) {
        s[j] = shape.softcap * (float) Math.tanh(s[j] / shape.softcap);
      }
      scores.copyFrom(MemorySegment.ofArray(s));
    }
    float largest = Float.NEGATIVE_INFINITY;
    for (int j = first; j <= query; j++) {
      largest = Math.max(largest, s[j]);
    }
    float[] p = new float[s.length];
    float sum = 0;
    for (int j = first; j <= query; j++) {
      p[j] = (float) Math.exp(s[j] - largest);
      sum += p[j];
    }
    for (int j = first; j <= query; j++) {
      p[j] /= sum;
    }
    probabilities.copyFrom(MemorySegment.ofArray(p));
  }

  /** From a row of dP to dS, in place. */
  private void gradient(
      int query, MemorySegment scores, MemorySegment probabilities, MemorySegment gradient) {
    float[] p = probabilities.toArray(ValueLayout.JAVA_FLOAT);
    float[] g = gradient.toArray(ValueLayout.JAVA_FLOAT);
    float dot = 0;
    for (int j = 0; j < p.length; j++) {
      dot += p[j] * g[j];
    }
    for (int j = 0; j < p.length; j++) {
      g[j] = p[j] * (g[j] - dot);
    }
    if (shape.softcap > 0) {
      float[] s = scores.toArray(ValueLayout.JAVA_FLOAT);
      for (int j = shape.firstKey(query); j <= query; j++) {
        float tanh = s[j] / shape.softcap;
        g[j] *= 1 - tanh * tanh;
      }
    }
    gradient.copyFrom(MemorySegment.ofArray(g));
  }

  private Tensor ofHead(Tensor all, int sequence, int head) {
    long first = ((long) sequence * shape.heads + head) * shape.length;
    return all.rows(first, shape.length);
  }

  private Tensor query(Tensor all, int sequence, int head) {
    return all.rows((long) sequence * shape.length, shape.length)
        .columns((long) head * shape.headDim, shape.headDim);
  }

  private Tensor key(Tensor all, int sequence, int head) {
    return query(all, sequence, head / shape.group());
  }

  private static MemorySegment row(Tensor matrix, int i) {
    return matrix.rows(i, 1).bytes();
  }
}
