package espalier.recipe;

import static org.junit.jupiter.api.Assertions.assertEquals;

import espalier.sae.SaeStatistics.Density;
import espalier.sae.SaeStatistics.Summary;
import java.io.ByteArrayOutputStream;
import java.io.PrintStream;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.junit.jupiter.api.Test;

class SaeFitTest {

  private static List<String> check(long tokens, double fvu, double l0, Map<Integer, Double> says) {
    Summary summary = new Summary(tokens, l0, 0, fvu, 0, 0, 0, 0, 0, 0, new Density(1, 0, 0, 0, 0));
    ByteArrayOutputStream said = new ByteArrayOutputStream();
    SaeFit.check(
        new Saes(new TreeMap<>(), new TreeMap<>(says)),
        new TreeMap<>(Map.of(12, summary)),
        Console.to(new PrintStream(said)));
    return said.toString().lines().toList();
  }

  @Test
  void saysWhatIsOdd() {
    assertEquals(List.of(), check(2000, 1, 246, Map.of(12, 82.0)));
    assertEquals(List.of(), check(2000, 0.3, 27.4, Map.of(12, 82.0)));
    assertEquals(List.of(), check(2000, 0.3, 1000, Map.of()));
    assertEquals(List.of(), check(15, 7, 1000, Map.of(12, 82.0)));
    assertEquals(
        List.of(
            "WARNING: SAE at layer 12: FVU 1.70 on your text: it probably does not belong here"),
        check(2000, 1.7, 82, Map.of(12, 82.0)));
    assertEquals(
        List.of(
            "WARNING: SAE at layer 12: L0 247 on your text, but its files say 82.0: it may not belong here"),
        check(2000, 0.3, 247, Map.of(12, 82.0)));
    assertEquals(
        List.of(
            "WARNING: SAE at layer 12: L0 27.2 on your text, but its files say 82.0: it may not belong here"),
        check(2000, 0.3, 27.2, Map.of(12, 82.0)));
    assertEquals(2, check(2000, Double.NaN, Double.NaN, Map.of(12, 82.0)).size());
  }
}
