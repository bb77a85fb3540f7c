package espalier.cli;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import espalier.Golden;
import espalier.distributed.MpiJob;
import espalier.format.Npy;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** {@code evaluate} under {@code mpirun} prints what one process prints, digit for digit. */
@Tag("mpi")
class EvaluateRanksTest {

  /** A prime, so that a batch is one row; ranks have different numbers of them. */
  private static final int ROWS = 43;

  private static final int CONTEXT = 24;
  private static final int VOCABULARY = 67;

  @TempDir private Path temp;
  private Path tokens;

  @BeforeEach
  void writeTokens() {
    Random random = new Random(3);
    tokens = temp.resolve("tokens.npy");
    int[] ids = random.ints((long) ROWS * CONTEXT, 0, VOCABULARY).toArray();
    MemorySegment rows = Arena.ofAuto().allocateFrom(ValueLayout.JAVA_INT, ids);
    Npy.write(tokens, ROWS, CONTEXT, rows);
  }

  private String[] evaluate(String out) {
    List<String> arguments = new ArrayList<>(List.of("evaluate"));
    arguments.addAll(List.of("--model", Golden.folder("llama").toString()));
    arguments.addAll(List.of("--sae", "1=" + Golden.folder("sae-topk")));
    arguments.addAll(List.of("--sae", "2=" + Golden.folder("sae-jumprelu")));
    arguments.addAll(List.of("--adapter", Golden.folder("adapter").toString()));
    arguments.addAll(List.of("--data", tokens.toString(), "--metrics", "all", "--json"));
    arguments.addAll(List.of("--out", temp.resolve(out).toString()));
    return arguments.toArray(String[]::new);
  }

  @ParameterizedTest
  @CsvSource({"openmpi, 2", "openmpi, 3", "mpich, 2"})
  void ranksPrintTheDigitsOfOneProcess(String mpi, int ranks) throws Exception {
    Outcome alone = Outcome.of(evaluate("alone"));
    assertEquals(0, alone.code(), alone.err());
    MpiJob.Outcome shared = MpiJob.run(mpi, ranks, Main.class, evaluate("shared"));
    assertEquals(0, shared.code(), shared.err());
    assertTrue(alone.out().contains("activation_distance"), alone.out());
    assertEquals(alone.out(), shared.out());
    for (String file : List.of("evaluation.json", "latent_density.json")) {
      assertEquals(
          Files.readString(temp.resolve("alone").resolve(file)),
          Files.readString(temp.resolve("shared").resolve(file)));
    }
    assertTrue(Files.exists(temp.resolve("shared/report.html")));
  }
}
