package espalier.distributed;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.util.stream.Stream;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;

/** The collectives, on two and three real processes of each MPI that is installed. */
@Tag("mpi")
class MpiTest {

  static Stream<Arguments> jobs() {
    return MpiJob.implementations()
        .flatMap(mpi -> Stream.of(2, 3).map(ranks -> Arguments.of(mpi, ranks)));
  }

  @ParameterizedTest
  @MethodSource("jobs")
  void collectivesGiveWhatArithmeticGives(String mpi, int ranks) throws Exception {
    MpiJob.Outcome outcome = MpiJob.run(mpi, ranks, CollectivesProgram.class);
    assertEquals(0, outcome.code(), outcome.err());
    assertEquals(ranks + " ranks are content", outcome.out().strip());
  }
}
