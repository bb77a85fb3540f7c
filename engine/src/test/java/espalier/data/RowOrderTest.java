package espalier.data;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.Arrays;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;

class RowOrderTest {

  private static final int ROWS = 101;

  @Test
  void sequentialPassesOverTheRowsAgainAndAgain() {
    RowOrder order = RowOrder.sequential(3);
    assertArrayEquals(
        new int[] {0, 1, 2, 0, 1, 2, 0}, IntStream.range(0, 7).map(order::at).toArray());
    assertEquals(1, order.at(3_000_000_000_001L));
  }

  @Test
  void everyPassVisitsEveryRowOnce() {
    RowOrder order = RowOrder.shuffled(ROWS, 42);
    for (int pass = 0; pass < 5; pass++) {
      int[] rows = pass(order, pass);
      Arrays.sort(rows);
      assertArrayEquals(IntStream.range(0, ROWS).toArray(), rows);
    }
  }

  @Test
  void passesAndSeedsGiveOtherOrders() {
    int[] first = pass(RowOrder.shuffled(ROWS, 42), 0);
    assertFalse(Arrays.equals(first, pass(RowOrder.shuffled(ROWS, 42), 1)));
    assertFalse(Arrays.equals(first, pass(RowOrder.shuffled(ROWS, 43), 0)));
    assertFalse(Arrays.equals(first, IntStream.range(0, ROWS).toArray()));
    // The pass must not count as a change of the seed: runs of neighbouring seeds would overlap.
    assertFalse(
        Arrays.equals(pass(RowOrder.shuffled(ROWS, 42), 1), pass(RowOrder.shuffled(ROWS, 43), 0)));
  }

  @Test
  void aRowDependsOnThePositionAlone() {
    RowOrder whole = RowOrder.shuffled(ROWS, 7);
    int[] expected = IntStream.range(0, 4 * ROWS).map(whole::at).toArray();
    RowOrder resumed = RowOrder.shuffled(ROWS, 7);
    for (int at : new int[] {3 * ROWS + 5, 0, 2 * ROWS, ROWS - 1, 3 * ROWS + 6}) {
      assertEquals(expected[at], resumed.at(at));
    }
  }

  /** Each row must come first about equally often: chi-squared with 9 degrees of freedom. */
  @Test
  void ordersAreDrawnEvenly() {
    RowOrder order = RowOrder.shuffled(10, 1);
    int passes = 10_000;
    int[] counts = new int[10];
    for (long pass = 0; pass < passes; pass++) {
      counts[order.at(pass * 10)]++;
    }
    double expected = passes / 10.0;
    double chiSquared = 0;
    for (int count : counts) {
      chiSquared += (count - expected) * (count - expected) / expected;
    }
    assertTrue(chiSquared < 27.9, "p < 0.001: " + Arrays.toString(counts));
  }

  private static int[] pass(RowOrder order, int pass) {
    return IntStream.range(pass * ROWS, (pass + 1) * ROWS).map(order::at).toArray();
  }
}
