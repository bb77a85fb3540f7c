package espalier.recipe.reproduce;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import espalier.Abroad;
import java.nio.file.Path;
import java.util.List;
import java.util.Optional;
import java.util.OptionalInt;
import org.junit.jupiter.api.Test;

class PlanTest {

  /** Machines that share a run's folder need not share a language. */
  @Test
  void isWrittenAlikeEverywhere() throws Exception {
    String text = "small,sae=120,lora=30,e2e=90,eval=14";
    Abroad.run(() -> assertEquals(text, Plan.parse(text).toString()));
  }

  @Test
  void cellsAreNamedAlikeEverywhere() throws Exception {
    List<String> here = cells();
    assertTrue(here.contains("lora-100"), here.toString());
    Abroad.run(() -> assertEquals(here, cells()));
  }

  private static List<String> cells() {
    Optional<Plan> plan = Optional.of(Plan.parse("small,sae=120,lora=30,e2e=90,eval=14"));
    ReproduceSettings settings =
        new ReproduceSettings(
            Experiment.TIMING,
            Path.of("nowhere"),
            Optional.empty(),
            List.of(),
            Optional.empty(),
            List.of(),
            OptionalInt.empty(),
            OptionalInt.empty(),
            OptionalInt.empty(),
            OptionalInt.empty(),
            Optional.empty(),
            OptionalInt.empty(),
            OptionalInt.empty(),
            Optional.empty(),
            Optional.empty(),
            1,
            1,
            plan);
    return Cells.of(Setup.of(settings, warning -> {}), plan.get()).stream()
        .map(Cell::name)
        .toList();
  }
}
