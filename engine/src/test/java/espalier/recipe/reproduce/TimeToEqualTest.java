package espalier.recipe.reproduce;

import static org.junit.jupiter.api.Assertions.assertEquals;

import espalier.recipe.reproduce.TimeToEqual.At;
import java.util.List;
import org.junit.jupiter.api.Test;

class TimeToEqualTest {

  private static final List<At> CURVE =
      List.of(new At(0, 9), new At(10, 5), new At(20, 6), new At(40, 4));

  @Test
  void theCurveIsLinearBetweenItsEvaluations() {
    assertEquals(
        new TimeToEqual(2.5, 5, true), TimeToEqual.of(new At(2, 7), CURVE)); // halfway from 9 to 5
  }

  @Test
  void theFirstTimeCounts() {
    assertEquals(new TimeToEqual(1, 10, true), TimeToEqual.of(new At(10, 5), CURVE));
  }

  @Test
  void whatComesBackUpIsPassedOver() {
    assertEquals(new TimeToEqual(3, 30, true), TimeToEqual.of(new At(10, 4.999999999999), tail()));
  }

  private static List<At> tail() {
    return List.of(new At(0, 9), new At(10, 5), new At(30, 4.999999999999));
  }

  @Test
  void whatIsNeverReachedIsALowerBound() {
    assertEquals(new TimeToEqual(4, 40, false), TimeToEqual.of(new At(10, 3), CURVE));
  }

  @Test
  void whatIsThereFromTheStartTakesNoTime() {
    assertEquals(new TimeToEqual(0, 0, true), TimeToEqual.of(new At(10, 9.5), CURVE));
  }
}
