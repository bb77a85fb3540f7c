package espalier.cli;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import espalier.Golden;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/** What a process owes those who started it: where its output goes, and when they stop it. */
@Timeout(120)
class CommandProcessTest {

  private static final String MODEL = Golden.folder("llama").toString();

  @TempDir private Path temp;

  @Test
  void aResultThatIsLostIsAFailure() throws Exception {
    ProcessBuilder.Redirect full = ProcessBuilder.Redirect.to(Path.of("/dev/full").toFile());
    for (List<String> command : List.of(List.of("inspect", MODEL, "--json"), List.of("--help"))) {
      CommandProcess process = CommandProcess.start(full, command.toArray(String[]::new));
      assertEquals(1, process.await());
      assertEquals(
          "espalier: standard output cannot be written: the result is lost",
          process.error().strip());
    }
  }

  /** As {@code head} leaves it. */
  @Test
  void aReaderThatHasSeenEnoughIsNone() throws Exception {
    CommandProcess process =
        CommandProcess.start(ProcessBuilder.Redirect.PIPE, "inspect", MODEL, "--json");
    process.process().getInputStream().close();
    assertEquals(0, process.await());
    assertEquals("", process.error());
  }

  /** The checkpoint is not all of it: activations are kept, and the report is written. */
  @Test
  void aStoppedRunLeavesAllOfItsFiles() throws Exception {
    Path out = temp.resolve("out");
    Path cache = temp.resolve("cache");
    CommandProcess process =
        CommandProcess.start(
            ProcessBuilder.Redirect.DISCARD,
            ("train-sae --layer 1 --latents 96 --k 6 --batch 1 --steps 1000000 --model "
                    + MODEL
                    + " --data "
                    + Golden.folder("tokens.npy")
                    + " --activation-cache "
                    + cache
                    + " --out "
                    + out)
                .split(" "));
    while (process.process().isAlive() && steps(out.resolve("metrics.jsonl")) < 3) {
      Thread.sleep(20);
    }
    process.process().destroy(); // TERM, which is what Ctrl-C is
    process.await();
    assertTrue(process.error().contains("train-sae topk mse: interrupted after step"));
    assertTrue(Files.exists(cache.resolve("present")), "activations are lost");
    assertTrue(Files.exists(out.resolve("report.html")), "there is no report");
  }

  /** As where somebody takes a run for dead that goes on elsewhere. */
  @Test
  void aRunHasOneProcess() throws Exception {
    Path out = temp.resolve("out");
    String[] command =
        ("adapt --rank 4 --layers all --steps 1000000 --resume --model %s --sae 1=%s --data %s"
                + " --out %s")
            .formatted(MODEL, Golden.folder("sae-topk"), Golden.folder("tokens.npy"), out)
            .split(" ");
    CommandProcess first = CommandProcess.start(ProcessBuilder.Redirect.DISCARD, command);
    while (first.process().isAlive() && steps(out.resolve("metrics.jsonl")) < 3) {
      Thread.sleep(20);
    }
    byte[] run = Files.readAllBytes(out.resolve("run.json"));
    CommandProcess second = CommandProcess.start(ProcessBuilder.Redirect.DISCARD, command);
    assertEquals(2, second.await());
    assertTrue(second.error().contains("the run goes on in another process"), second.error());
    assertArrayEquals(run, Files.readAllBytes(out.resolve("run.json")));
    first.process().destroy();
    first.await();
    assertTrue(first.error().contains("adapt: interrupted after step"), first.error());
  }

  private static long steps(Path metrics) throws IOException {
    return Files.exists(metrics) ? Files.readAllLines(metrics).size() : 0;
  }
}
