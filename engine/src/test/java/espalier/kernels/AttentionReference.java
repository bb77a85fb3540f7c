package espalier.kernels;

/**
 * Causal grouped-query attention by plain loops in double precision, with the sizes of all terms
 * for error bounds.
 *
 * @param storage of every tensor between two operations of the plain chain: products, scaled and
 *     capped scores, probabilities, and their gradients
 */
record AttentionReference(
    int batch,
    int seqLen,
    int heads,
    int kvHeads,
    int d,
    double scale,
    double softcap,
    int window,
    Storage storage) {

  AttentionReference in(Storage other) {
    return new AttentionReference(batch, seqLen, heads, kvHeads, d, scale, softcap, window, other);
  }

  int tokens() {
    return batch * seqLen;
  }

  int qCols() {
    return heads * d;
  }

  int kvCols() {
    return kvHeads * d;
  }

  private boolean sees(int i, int j) {
    return j <= i && (window == 0 || i - j < window);
  }

  private double scaled(double product) {
    return storage.keep(scale * storage.keep(product));
  }

  private double tanh(double product) {
    return storage.keep(Math.tanh(storage.keep(scaled(product) / softcap)));
  }

  private double score(double product) {
    return softcap > 0 ? storage.keep(softcap * tanh(product)) : scaled(product);
  }

  /** The gradient of a product, given that of its score. */
  private double dProduct(double product, double dScore) {
    double inner = dScore;
    if (softcap > 0) {
      double tanh = tanh(product);
      inner = storage.keep(dScore * (1 - tanh * tanh));
    }
    return storage.keep(scale * inner);
  }

  /**
   * @param out {@code [tokens, heads * d]}
   * @param lse {@code [tokens, heads]}
   * @param p softmax of the scores, {@code [tokens, heads, seqLen]}
   * @param scoreSizes the largest sum of |scale q k| that a query meets, {@code [tokens, heads]}
   * @param outSizes sum of p |v|
   */
  record Forward(double[] out, double[] lse, double[] p, double[] scoreSizes, double[] outSizes) {}

  Forward forward(double[] q, double[] k, double[] v) {
    Forward f =
        new Forward(
            new double[tokens() * qCols()],
            new double[tokens() * heads],
            new double[tokens() * heads * seqLen],
            new double[tokens() * heads],
            new double[tokens() * qCols()]);
    for (int t = 0; t < tokens(); t++) {
      int start = t / seqLen * seqLen;
      for (int h = 0; h < heads; h++) {
        int row = t * heads + h;
        double sum = 0;
        for (int j = 0; j < seqLen; j++) {
          if (!sees(t - start, j)) continue;
          double product = 0;
          double size = 0;
          for (int c = 0; c < d; c++) {
            double term = q[qAt(t, h, c)] * k[kvAt(start + j, h, c)];
            product += term;
            size += Math.abs(term);
          }
          double e = Math.exp(score(product));
          f.p[row * seqLen + j] = e;
          f.scoreSizes[row] = Math.max(f.scoreSizes[row], scale * size);
          sum += e;
        }
        f.lse[row] = Math.log(sum);
        for (int j = 0; j < seqLen; j++) {
          if (!sees(t - start, j)) continue;
          f.p[row * seqLen + j] = storage.keep(f.p[row * seqLen + j] / sum);
          for (int c = 0; c < d; c++) {
            double term = f.p[row * seqLen + j] * v[kvAt(start + j, h, c)];
            f.out[qAt(t, h, c)] += term;
            f.outSizes[qAt(t, h, c)] += Math.abs(term);
          }
        }
      }
    }
    keep(f.out);
    return f;
  }

  /** Gradients, and beside each the sum of the sizes of the terms that it is made of. */
  record Backward(
      double[] dQ, double[] dK, double[] dV, double[] qSizes, double[] kSizes, double[] vSizes) {}

  Backward backward(double[] q, double[] k, double[] v, double[] dOut) {
    Forward f = forward(q, k, v);
    Backward b =
        new Backward(
            new double[q.length],
            new double[k.length],
            new double[v.length],
            new double[q.length],
            new double[k.length],
            new double[v.length]);
    for (int t = 0; t < tokens(); t++) {
      int start = t / seqLen * seqLen;
      for (int h = 0; h < heads; h++) {
        double delta = 0;
        double deltaSize = 0;
        for (int c = 0; c < d; c++) {
          delta += dOut[qAt(t, h, c)] * f.out[qAt(t, h, c)];
          deltaSize += Math.abs(dOut[qAt(t, h, c)]) * f.outSizes[qAt(t, h, c)];
        }
        for (int j = 0; j < seqLen; j++) {
          if (!sees(t - start, j)) continue;
          double p = f.p[(t * heads + h) * seqLen + j];
          double product = 0;
          double dP = 0;
          double dPSize = 0;
          for (int c = 0; c < d; c++) {
            product += q[qAt(t, h, c)] * k[kvAt(start + j, h, c)];
            double term = dOut[qAt(t, h, c)] * v[kvAt(start + j, h, c)];
            dP += term;
            dPSize += Math.abs(term);
          }
          double dScore = storage.keep(p * (storage.keep(dP) - delta));
          double dS = dProduct(product, dScore);
          double dSSize = p * (dPSize + deltaSize) * scale;
          for (int c = 0; c < d; c++) {
            int qc = qAt(t, h, c);
            int kc = kvAt(start + j, h, c);
            b.dQ[qc] += dS * k[kc];
            b.dK[kc] += dS * q[qc];
            b.dV[kc] += p * dOut[qc];
            b.qSizes[qc] += dSSize * Math.abs(k[kc]);
            b.kSizes[kc] += dSSize * Math.abs(q[qc]);
            b.vSizes[kc] += p * Math.abs(dOut[qc]);
          }
        }
      }
    }
    keep(b.dQ);
    keep(b.dK);
    keep(b.dV);
    return b;
  }

  private void keep(double[] tensor) {
    for (int i = 0; i < tensor.length; i++) tensor[i] = storage.keep(tensor[i]);
  }

  private int qAt(int token, int head, int c) {
    return token * qCols() + head * d + c;
  }

  private int kvAt(int token, int head, int c) {
    return token * kvCols() + head / (heads / kvHeads) * d + c;
  }
}
