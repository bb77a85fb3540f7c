package espalier.train;

import static org.junit.jupiter.api.Assertions.assertEquals;

import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class ScheduleTest {

  @ParameterizedTest
  @CsvSource({
    "CONSTANT, 0, 0.25",
    "CONSTANT, 3, 1",
    "CONSTANT, 99, 1",
    "LINEAR, 1, 0.5",
    "LINEAR, 4, 1",
    "LINEAR, 52, 0.5",
    "LINEAR, 100, 0",
    "COSINE, 3, 1",
    "COSINE, 4, 1",
    "COSINE, 52, 0.5",
    "COSINE, 28, 0.8535533905932737",
    "COSINE, 100, 0"
  })
  void factorWithFourStepsOfWarmUp(Schedule schedule, long step, double expected) {
    assertEquals(expected, schedule.factor(step, 100, 4), 1e-15);
  }
}
