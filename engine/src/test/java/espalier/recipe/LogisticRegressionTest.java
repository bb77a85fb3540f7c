package espalier.recipe;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.Random;
import org.junit.jupiter.api.Test;

class LogisticRegressionTest {

  /** At the minimum the gradient of the loss is zero; it is computed here from its definition. */
  @Test
  void theGradientVanishes() {
    Random random = new Random(3);
    float[][] x = new float[80][7];
    boolean[] y = new boolean[x.length];
    for (int i = 0; i < x.length; i++) {
      for (int j = 0; j < 6; j++) {
        x[i][j] = (float) (100 * random.nextGaussian() + j);
      }
      x[i][6] = 5; // a constant
      y[i] = x[i][0] - 0.5 * x[i][1] + 80 * random.nextGaussian() > 30;
    }
    double[] w = LogisticRegression.fit(x, y).weights();
    double[] mean = new double[7];
    double[] deviation = new double[7];
    for (int j = 0; j < 7; j++) {
      for (float[] row : x) {
        mean[j] += row[j] / x.length;
      }
      for (float[] row : x) {
        deviation[j] += Math.pow(row[j] - mean[j], 2) / x.length;
      }
      deviation[j] = deviation[j] < 1e-9 ? 1 : Math.sqrt(deviation[j]);
    }
    double[] gradient = new double[8];
    for (int i = 0; i < x.length; i++) {
      double z = w[7];
      for (int j = 0; j < 7; j++) {
        z += w[j] * (x[i][j] - mean[j]) / deviation[j];
      }
      double slope = 1 / (1 + Math.exp(-z)) - (y[i] ? 1 : 0);
      for (int j = 0; j < 7; j++) {
        gradient[j] += slope * (x[i][j] - mean[j]) / deviation[j];
      }
      gradient[7] += slope;
    }
    for (int j = 0; j < 8; j++) {
      // 80 terms below 1, solved to 1e-8 of where it started
      assertEquals(0, gradient[j] + (j < 7 ? w[j] : 0), 1e-6, "coordinate " + j);
    }
    assertTrue(w[0] > 0 && w[1] < 0, "the signs that the labels were made with");
  }

  @Test
  void whatCanBeSeparatedIs() {
    float[][] x = {{1}, {2}, {3}, {10}, {11}, {12}};
    boolean[] y = {false, false, false, true, true, true};
    LogisticRegression probe = LogisticRegression.fit(x, y);
    for (int i = 0; i < x.length; i++) {
      assertEquals(y[i], probe.predict(x[i]));
    }
  }
}
