package espalier.recipe.reproduce;

import static org.junit.jupiter.api.Assertions.assertEquals;

import espalier.Abroad;
import org.junit.jupiter.api.Test;

class PlanTest {

  /** Machines that share a run's folder need not share a language. */
  @Test
  void isWrittenAlikeEverywhere() throws Exception {
    String text = "small,sae=120,lora=30,e2e=90,eval=14";
    Abroad.run(() -> assertEquals(text, Plan.parse(text).toString()));
  }
}
