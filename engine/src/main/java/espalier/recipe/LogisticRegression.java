package espalier.recipe;

/**
 * Logistic regression with an L2 penalty: minimises sum_i log(1 + exp(-s_i (w . x_i + b))) + |w|^2
 * / 2 with s_i = ±1, over features scaled to mean 0 and standard deviation 1 (scikit-learn's
 * StandardScaler and LogisticRegression with C = 1). Newton's method, each step solved by conjugate
 * gradients, halved until the loss falls.
 */
final class LogisticRegression {

  private static final int MOST_STEPS = 100;
  private static final double GRADIENT = 1e-8; // of its norm at the start

  private final double[] mean;
  private final double[] deviation;
  private final double[] weights; // the bias last

  private LogisticRegression(double[] mean, double[] deviation, double[] weights) {
    this.mean = mean;
    this.deviation = deviation;
    this.weights = weights;
  }

  /**
   * @param x {@code [n][k]}
   */
  static LogisticRegression fit(float[][] x, boolean[] y) {
    int k = x[0].length;
    double[] mean = new double[k];
    double[] deviation = new double[k];
    for (float[] row : x) {
      for (int j = 0; j < k; j++) {
        mean[j] += row[j] / (double) x.length;
      }
    }
    for (float[] row : x) {
      for (int j = 0; j < k; j++) {
        deviation[j] += (row[j] - mean[j]) * (row[j] - mean[j]) / x.length;
      }
    }
    for (int j = 0; j < k; j++) {
      deviation[j] = deviation[j] > 0 ? Math.sqrt(deviation[j]) : 1; // a constant says nothing
    }
    LogisticRegression fitted = new LogisticRegression(mean, deviation, new double[k + 1]);
    double[][] scaled = new double[x.length][];
    for (int i = 0; i < x.length; i++) {
      scaled[i] = fitted.scaled(x[i]);
    }
    fitted.newton(scaled, y);
    return fitted;
  }

  boolean predict(float[] x) {
    return dot(scaled(x), weights) > 0;
  }

  double[] weights() {
    return weights.clone();
  }

  /** Scaled features, and 1 for the bias. */
  private double[] scaled(float[] x) {
    double[] scaled = new double[x.length + 1];
    for (int j = 0; j < x.length; j++) {
      scaled[j] = (x[j] - mean[j]) / deviation[j];
    }
    scaled[x.length] = 1;
    return scaled;
  }

  private void newton(double[][] x, boolean[] y) {
    double first = -1;
    for (int step = 0; step < MOST_STEPS; step++) {
      double[] gradient = new double[weights.length];
      double[] curvature = new double[x.length]; // p (1 - p)
      for (int i = 0; i < x.length; i++) {
        double p = 1 / (1 + Math.exp(-dot(x[i], weights)));
        curvature[i] = p * (1 - p);
        add(p - (y[i] ? 1 : 0), x[i], gradient);
      }
      for (int j = 0; j < weights.length - 1; j++) {
        gradient[j] += weights[j];
      }
      double norm = Math.sqrt(dot(gradient, gradient));
      first = first < 0 ? norm : first;
      if (norm <= GRADIENT * first || norm == 0) {
        return;
      }
      double[] direction = solve(x, curvature, gradient);
      double before = loss(x, y, weights);
      double size = 1;
      double[] next = moved(direction, size);
      while (loss(x, y, next) > before && size > 1e-6) {
        size /= 2;
        next = moved(direction, size);
      }
      System.arraycopy(next, 0, weights, 0, weights.length);
    }
  }

  private double[] moved(double[] direction, double size) {
    double[] next = weights.clone();
    add(-size, direction, next);
    return next;
  }

  private static double loss(double[][] x, boolean[] y, double[] w) {
    double loss = 0;
    for (int i = 0; i < x.length; i++) {
      double margin = dot(x[i], w) * (y[i] ? 1 : -1);
      loss += margin > 0 ? Math.log1p(Math.exp(-margin)) : Math.log1p(Math.exp(margin)) - margin;
    }
    for (int j = 0; j < w.length - 1; j++) {
      loss += w[j] * w[j] / 2;
    }
    return loss;
  }

  /** H d = g by conjugate gradients, H = x^T diag(curvature) x + 1 but for the bias. */
  private static double[] solve(double[][] x, double[] curvature, double[] g) {
    double[] d = new double[g.length];
    double[] residual = g.clone();
    double[] p = g.clone();
    double rr = dot(residual, residual);
    double enough = 1e-20 * rr;
    for (int i = 0; i < 4 * g.length && rr > enough; i++) {
      double[] hp = new double[g.length];
      for (int row = 0; row < x.length; row++) {
        add(curvature[row] * dot(x[row], p), x[row], hp);
      }
      for (int j = 0; j < g.length - 1; j++) {
        hp[j] += p[j];
      }
      hp[g.length - 1] += 1e-12 * p[g.length - 1]; // the bias alone may have no curvature left
      double alpha = rr / dot(p, hp);
      add(alpha, p, d);
      add(-alpha, hp, residual);
      double next = dot(residual, residual);
      for (int j = 0; j < p.length; j++) {
        p[j] = residual[j] + next / rr * p[j];
      }
      rr = next;
    }
    return d;
  }

  private static double dot(double[] a, double[] b) {
    double sum = 0;
    for (int j = 0; j < a.length; j++) {
      sum += a[j] * b[j];
    }
    return sum;
  }

  private static void add(double factor, double[] a, double[] into) {
    for (int j = 0; j < a.length; j++) {
      into[j] += factor * a[j];
    }
  }
}
