package espalier.kernels;

/** The head's losses by plain loops in double precision. */
record HeadReference(double[] head, int d, int vocab, double softcap) {

  /** Capped logits of a row of hidden states. */
  double[] logits(double[] hidden, int row) {
    double[] z = new double[vocab];
    for (int v = 0; v < vocab; v++) {
      for (int c = 0; c < d; c++) z[v] += hidden[row * d + c] * head[v * d + c];
      if (softcap > 0) z[v] = softcap * Math.tanh(z[v] / softcap);
    }
    return z;
  }

  static double[] logSoftmax(double[] z) {
    double max = Double.NEGATIVE_INFINITY;
    for (double value : z) max = Math.max(max, value);
    double sum = 0;
    for (double value : z) sum += Math.exp(value - max);
    double[] out = new double[z.length];
    for (int i = 0; i < z.length; i++) out[i] = z[i] - max - Math.log(sum);
    return out;
  }

  /**
   * How far a float32 logit of this row may be off: d products, and a tanh where there is a cap.
   */
  double logitError(double[] hidden, int row) {
    double worst = 0;
    for (int v = 0; v < vocab; v++) {
      double size = 0;
      for (int c = 0; c < d; c++) size += Math.abs(hidden[row * d + c] * head[v * d + c]);
      worst = Math.max(worst, size);
    }
    return KernelTest.EPS * ((Math.sqrt(d) + 1) * worst + 3 * softcap);
  }

  double[] kl(double[] student, double[] teacher) {
    double[] out = new double[student.length / d];
    for (int t = 0; t < out.length; t++) {
      double[] q = logSoftmax(logits(student, t));
      double[] p = logSoftmax(logits(teacher, t));
      for (int v = 0; v < vocab; v++) out[t] += Math.exp(p[v]) * (p[v] - q[v]);
    }
    return out;
  }

  double[] crossEntropy(double[] hidden, int[] targets) {
    double[] out = new double[targets.length];
    for (int t = 0; t < out.length; t++) {
      if (targets[t] >= 0) out[t] = -logSoftmax(logits(hidden, t))[targets[t]];
    }
    return out;
  }

  /**
   * d(sum of losses) / d(uncapped logits) of a row, where the reference distribution is {@code p}:
   * a teacher's, or all on the target.
   */
  double[] logitGradient(double[] hidden, int row, double[] p) {
    double[] z = logits(hidden, row);
    double[] out = logSoftmax(z);
    for (int v = 0; v < vocab; v++) {
      double slope = softcap > 0 ? 1 - z[v] * z[v] / softcap / softcap : 1;
      out[v] = (Math.exp(out[v]) - p[v]) * slope;
    }
    return out;
  }
}
