package espalier.recipe.reproduce;

import static org.junit.jupiter.api.Assertions.assertEquals;

import espalier.Golden;
import espalier.recipe.Console;
import java.io.OutputStream;
import java.io.PrintStream;
import java.nio.file.Path;
import java.util.List;
import java.util.Optional;
import java.util.OptionalInt;
import org.junit.jupiter.api.Test;

class BudgetTest {

  /** 4096 at least, whatever --context says: token files have rows of their own length. */
  @Test
  void tokensOfAnEvaluationAreThoseOfItsRows() {
    Path tokens = Golden.folder("tokens.npy");
    Setup setup =
        Setup.of(
            new ReproduceSettings(
                Experiment.RANK,
                Path.of("none"),
                Optional.of(Golden.folder("llama")),
                List.of(tokens),
                Optional.of(tokens),
                List.of(),
                OptionalInt.empty(),
                OptionalInt.empty(),
                OptionalInt.empty(),
                OptionalInt.empty(),
                Optional.empty(),
                OptionalInt.empty(),
                OptionalInt.of(128),
                Optional.empty(),
                Optional.empty(),
                1,
                1,
                Optional.empty()),
            warning -> {});
    Console silent = Console.to(new PrintStream(OutputStream.nullOutputStream()));
    Budget budget = new Budget(setup, new Folders(Path.of("none")), silent);
    Budget.Speeds slow = new Budget.Speeds(1e3, 1e3, 1e3, 1e3, 0, 1000, 16);
    assertEquals(4096 / 16, budget.plan(slow, 1e3).evalRows());
  }
}
