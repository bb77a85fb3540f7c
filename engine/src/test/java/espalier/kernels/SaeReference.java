package espalier.kernels;

/**
 * A sparse autoencoder in double precision, dense, with the loss sum of {@code weight * y} + l1 *
 * (sum of latents), where y is the reconstruction: any gradient of y can be given as {@code
 * weight}.
 */
record SaeReference(
    int kind,
    int d,
    int m,
    int k,
    double[] wEnc,
    double[] bEnc,
    double[] bPre,
    double[] wDec,
    double[] bDec,
    double[] threshold,
    double l1) {

  double[] preActivations(double[] x, int t) {
    double[] z = bEnc.clone();
    for (int i = 0; i < m; i++) {
      for (int c = 0; c < d; c++) z[i] += wEnc[i * d + c] * (x[t * d + c] - bPre[c]);
    }
    return z;
  }

  boolean[] active(double[] z) {
    boolean[] active = new boolean[m];
    for (int i = 0; i < m; i++) {
      int larger = 0;
      for (double other : z) if (other > z[i]) larger++;
      active[i] =
          z[i] > 0
              && switch (kind) {
                case SaeEncodeTest.JUMPRELU -> z[i] > threshold[i];
                case SaeEncodeTest.TOPK -> larger < k;
                default -> true;
              };
    }
    return active;
  }

  double loss(double[] x, double[] weight) {
    double loss = 0;
    for (int t = 0; t < x.length / d; t++) {
      double[] z = preActivations(x, t);
      boolean[] active = active(z);
      for (int c = 0; c < d; c++) loss += weight[t * d + c] * bDec[c];
      for (int i = 0; i < m; i++) {
        if (!active[i]) continue;
        loss += l1 * z[i];
        for (int c = 0; c < d; c++) loss += weight[t * d + c] * z[i] * wDec[i * d + c];
      }
    }
    return loss;
  }

  /** {@code dPre} is {@code [tokens, m]}. */
  record Gradients(double[] dX, double[] dWEnc, double[] dBEnc, double[] dWDec, double[] dPre) {}

  Gradients gradients(double[] x, double[] weight) {
    int tokens = x.length / d;
    Gradients g =
        new Gradients(
            new double[x.length],
            new double[m * d],
            new double[m],
            new double[m * d],
            new double[tokens * m]);
    for (int t = 0; t < tokens; t++) {
      double[] z = preActivations(x, t);
      boolean[] active = active(z);
      for (int i = 0; i < m; i++) {
        if (!active[i]) continue;
        double dPre = l1;
        for (int c = 0; c < d; c++) dPre += weight[t * d + c] * wDec[i * d + c];
        g.dPre[t * m + i] = dPre;
        g.dBEnc[i] += dPre;
        for (int c = 0; c < d; c++) {
          g.dX[t * d + c] += dPre * wEnc[i * d + c];
          g.dWEnc[i * d + c] += dPre * (x[t * d + c] - bPre[c]);
          g.dWDec[i * d + c] += z[i] * weight[t * d + c];
        }
      }
    }
    return g;
  }
}
