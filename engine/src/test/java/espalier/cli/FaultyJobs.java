package espalier.cli;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assertions.fail;

import espalier.Golden;
import espalier.distributed.MpiJob;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.stream.Stream;

/** Jobs that train in folders of their own, one of whose ranks something happens to. */
final class FaultyJobs {

  private static final double LIMIT_SECONDS = 30;

  private final Path root;

  /**
   * @param root holds the folders of runs
   */
  FaultyJobs(Path root) {
    this.root = root;
  }

  /** A run of a command that trains; of an SAE whose latents die and whose threshold runs. */
  String[] train(String command, String name, int steps, boolean resume) {
    List<String> arguments = new ArrayList<>(List.of(command));
    arguments.addAll(List.of("--model", Golden.folder("llama").toString()));
    arguments.addAll(List.of("--data", Golden.folder("tokens.npy").toString()));
    arguments.addAll(List.of("--out", root.resolve(name).toString()));
    arguments.addAll(
        switch (command) {
          case "adapt" ->
              List.of("--sae", "1=" + Golden.folder("sae-topk"), "--layers", "all", "--rank", "4");
          case "train-sae" ->
              List.of(
                  ("--layer 1 --arch batchtopk --latents 96 --k 6 --batch 1"
                          + " --dead-after 40 --aux-k 5")
                      .split(" "));
          default -> throw new IllegalArgumentException(command);
        });
    arguments.addAll(List.of("--checkpoint-every", "5", "--steps", String.valueOf(steps)));
    if (resume) {
      arguments.add("--resume");
    }
    return arguments.toArray(String[]::new);
  }

  /**
   * Waits until all ranks know of a checkpoint beyond a step: rank 0 tells of one before it writes
   * the next.
   */
  long knownBeyond(String name, long step) throws Exception {
    return checkpointBeyond(name, checkpointBeyond(name, step));
  }

  /** Waits until the run has a checkpoint beyond a step. */
  long checkpointBeyond(String name, long step) throws Exception {
    for (int i = 0; i < 1200; i++) {
      long newest = newest(name);
      if (newest > step) {
        return newest;
      }
      Thread.sleep(50);
    }
    return fail("no checkpoint beyond step " + step);
  }

  /** The step of a run's last checkpoint; -1 if it has none. */
  long newest(String name) throws IOException {
    Path checkpoints = root.resolve(name).resolve("checkpoints");
    if (!Files.isDirectory(checkpoints)) {
      return -1;
    }
    try (Stream<Path> files = Files.list(checkpoints)) {
      return files
          .map(file -> file.getFileName().toString())
          .filter(file -> file.matches("step-\\d+\\.safetensors"))
          .mapToLong(file -> Long.parseLong(file.replaceAll("\\D", "")))
          .max()
          .orElse(-1);
    }
  }

  static void signal(String signal, ProcessHandle process) throws Exception {
    assertEquals(0, new ProcessBuilder("kill", "-" + signal, "" + process.pid()).start().waitFor());
  }

  /** The line that the job has ended with. */
  static String only(MpiJob.Outcome outcome) {
    List<String> ours = outcome.err().lines().filter(l -> l.startsWith("espalier:")).toList();
    assertEquals(1, ours.size(), outcome.err());
    assertNotEquals(0, outcome.code());
    return ours.getFirst();
  }

  static void assertEnded(long since, MpiJob.Outcome outcome, String... named) {
    double seconds = (System.nanoTime() - since) * 1e-9;
    String line = only(outcome);
    for (String part : named) {
      assertTrue(line.contains(part), line);
    }
    assertTrue(seconds < LIMIT_SECONDS, "took " + seconds + " s");
  }
}
