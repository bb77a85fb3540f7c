package espalier.sae;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import espalier.WideSae;
import espalier.distributed.MpiJob;
import espalier.format.SaeWeights.Activation;
import espalier.format.StrictJson;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** SAEs that ranks hold together compute what they compute as a whole, bit for bit. */
@Tag("mpi")
class ShardedSpliceTest {

  @TempDir private Path temp;

  private static void run(String mpi, int ranks, String cut, int tokens, List<Path> saes)
      throws Exception {
    run(mpi, ranks, Map.of(), cut, tokens, saes);
  }

  static void run(
      String mpi,
      int ranks,
      Map<String, String> environment,
      String cut,
      int tokens,
      List<Path> saes)
      throws Exception {
    List<String> arguments = new ArrayList<>(List.of(cut, String.valueOf(tokens)));
    saes.forEach(sae -> arguments.add(sae.toString()));
    MpiJob.Outcome outcome =
        MpiJob.start(
                mpi,
                ranks,
                environment,
                ShardedSpliceProgram.class,
                arguments.toArray(String[]::new))
            .await();
    assertEquals(0, outcome.code(), outcome.err());
    assertEquals(ranks + " ranks are content", outcome.out().strip());
  }

  /** SAEs of every architecture, normalisation and layout of files that there is. */
  static List<Path> everyKind() throws IOException {
    List<Path> saes = new ArrayList<>();
    try (Stream<Path> cases = Files.list(Path.of("src/test/resources/sae"))) {
      for (Path folder : cases.filter(Files::isDirectory).sorted().toList()) {
        saes.add(folder.resolve(StrictJson.read(folder.resolve("case.json")).text("path")));
      }
    }
    assertTrue(saes.size() > 30);
    return saes;
  }

  /** These SAEs are far narrower than what is cut otherwise. */
  @Test
  void everyFormat() throws Exception {
    run("openmpi", 3, "narrow", 11, everyKind());
  }

  /**
   * With latents and columns that no number of ranks divides, lists that grow far beyond their
   * first length, and equal latents in different slices.
   */
  @ParameterizedTest
  @CsvSource({"openmpi,2", "openmpi,3", "mpich,2"})
  void wideOnes(String mpi, int ranks) throws Exception {
    run(
        mpi,
        ranks,
        "wide",
        96,
        List.of(wide(Activation.TOPK), wide(Activation.JUMPRELU), wide(Activation.RELU)));
  }

  private Path wide(Activation activation) throws IOException {
    Path folder = temp.resolve(activation.label());
    WideSae.write(folder, activation, 75, 2 * 8192 + 5003, 33);
    return folder;
  }
}
