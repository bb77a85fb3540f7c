package espalier.cli;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import espalier.Golden;
import espalier.recipe.reproduce.Experiment;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

/** Whole experiments on a small model. */
class ReproduceTest {

  private static final int SECONDS = 13; // columns of the CSV that hold times, and what they give
  private static final int MEASURED = 14;
  private static final List<Integer> TIMES = List.of(SECONDS, MEASURED, 23, 24, 25);

  @TempDir private Path temp;

  private List<String> command(String experiment, Path out, String... more) {
    List<String> words =
        new ArrayList<>(
            List.of(
                "reproduce",
                experiment,
                "--out",
                out.toString(),
                "--model",
                Golden.folder("llama").toString(),
                "--data",
                Golden.folder("tokens.npy").toString(),
                "--eval-data",
                Golden.folder("tokens.npy").toString(),
                "--latents",
                "32",
                "--k",
                "4",
                "--rank",
                "2"));
    words.addAll(List.of(more));
    return words;
  }

  private static final String PLAN = "small,sae=10,lora=2,e2e=3,eval=2";

  private static String whole(List<String> command) {
    Outcome outcome = Outcome.of(command);
    assertEquals(0, outcome.code(), outcome.err());
    return outcome.out();
  }

  private static List<String> rows(Path out) throws IOException {
    return Files.readAllLines(out.resolve("results.csv")).stream()
        .map(
            line -> {
              String[] fields = line.split(",(?=(?:[^\"]*\"[^\"]*\")*[^\"]*$)", -1);
              TIMES.forEach(column -> fields[column] = "");
              return String.join(",", fields);
            })
        .toList();
  }

  @ParameterizedTest
  @EnumSource(Experiment.class)
  void cellsInAnyOrderAreTheWholeRun(Experiment experiment) throws IOException {
    Path one = temp.resolve("one");
    whole(command(experiment.label(), one, "--plan", PLAN));
    Path other = temp.resolve("other");
    List<String> lines =
        new ArrayList<>(
            whole(command(experiment.label(), other, "--plan", PLAN, "--list")).lines().toList());
    assertTrue(lines.size() >= 2, () -> "cells: " + lines);
    Collections.reverse(lines);
    for (String line : lines) {
      whole(Arrays.asList(line.split(" ")).subList(1, line.split(" ").length));
    }
    String collected = whole(command(experiment.label(), other, "--plan", PLAN, "--collect"));
    assertTrue(collected.lines().noneMatch(line -> line.startsWith("missing")), collected);
    assertEquals(rows(one), rows(other));
    assertTrue(Files.exists(one.resolve("report.html")));
  }

  @Test
  void whatIsDoneIsNotDoneAgainAndWhatIsMissingIsSaid() throws IOException {
    Path out = temp.resolve("rank");
    whole(command("rank", out, "--plan", PLAN));
    List<String> before = rows(out);
    Path lost = out.resolve("cells/lora-l1-r16/cell.json");
    Path kept = out.resolve("cells/lora-l1-r1/cell.json");
    Files.delete(lost);
    var time = Files.getLastModifiedTime(kept);
    String missing = whole(command("rank", out, "--collect"));
    assertTrue(missing.startsWith("missing: lora-l1-r16\n"), missing);
    whole(command("rank", out));
    assertEquals(before, rows(out));
    assertEquals(time, Files.getLastModifiedTime(kept));
  }

  @Test
  void aBudgetBecomesAPlanThatIsKept() throws IOException {
    Path out = temp.resolve("budget");
    whole(command("sparsity", out, "--budget", "0.02"));
    String plan = Files.readString(out.resolve("plan.json"));
    assertTrue(plan.contains("lora_step_ms"), plan);
    whole(command("sparsity", out, "--budget", "100"));
    assertEquals(plan, Files.readString(out.resolve("plan.json")));
  }

  @Test
  void givenSaesAreAdaptedAround() throws IOException {
    Path out = temp.resolve("given");
    whole(
        command(
            "sparsity",
            out,
            "--plan",
            PLAN,
            "--sae",
            "1=" + Golden.folder("sae-topk"),
            "--sae",
            "2=" + Golden.folder("sae-jumprelu")));
    try (Stream<Path> cells = Files.list(out.resolve("cells"))) {
      assertEquals(
          List.of("lora-given0-r16", "lora-given1-r16"),
          cells.map(cell -> cell.getFileName().toString()).sorted().toList());
    }
  }

  /** Words of a line, as a shell takes it. */
  private static List<String> words(String line) throws IOException {
    Process shell =
        new ProcessBuilder("sh", "-c", "for word in " + line + "; do echo \"$word\"; done").start();
    return shell.inputReader().lines().toList();
  }

  /** What paths may hold, and a shell would take for something else. */
  @Test
  void listedCommandLinesCanBePasted() throws IOException, InterruptedException {
    Path odd = Files.createDirectory(temp.resolve("it's $HOME; * \"here\""));
    for (String name : List.of("llama", "tokens.npy", "sae-topk")) {
      new ProcessBuilder("cp", "-r", Golden.folder(name).toString(), odd.toString())
          .start()
          .waitFor();
    }
    List<String> command =
        List.of(
            "reproduce",
            "rank",
            "--plan",
            PLAN,
            "--latents",
            "32",
            "--k",
            "4",
            "--out",
            odd.resolve("run").toString(),
            "--model",
            odd.resolve("llama").toString(),
            "--data",
            odd.resolve("tokens.npy").toString(),
            "--eval-data",
            odd.resolve("tokens.npy").toString(),
            "--sae",
            "1=" + odd.resolve("sae-topk"),
            "--list");
    String line = whole(command).lines().toList().getFirst();
    List<String> words = words(line);
    assertTrue(words.containsAll(command.subList(0, command.size() - 1)), line);
    whole(words.subList(1, words.size()));
    assertTrue(Files.exists(odd.resolve("run/cells/lora-given0-r1/cell.json")));
  }

  /** A line is for another process, perhaps on another machine. */
  @Test
  void listedCommandLinesSayWhatWasAskedOfTheDevice() {
    Path out = temp.resolve("listed");
    String[] sae = {"--plan", PLAN, "--sae", "1=" + Golden.folder("sae-topk"), "--list"};
    List<String> command = command("rank", out, sae);
    String automatic = whole(command);
    assertFalse(automatic.contains("--device") || automatic.contains("--dtype"), automatic);
    command.addAll(List.of("--device", "cpu"));
    assertTrue(whole(command).lines().allMatch(line -> line.contains(" --device cpu ")));
  }

  /** On a CPU that has no products of bfloat16, those of the tests. */
  @Test
  void typesAreNotMixedInOneRun() {
    Path out = temp.resolve("types");
    String[] sae = {"--plan", PLAN, "--sae", "1=" + Golden.folder("sae-topk"), "--list"};
    List<String> command = command("rank", out, sae);
    try {
      System.setProperty("espalier.device", "cpu");
      System.setProperty("espalier.dtype", "bf16");
      List<String> rounded = new ArrayList<>(command);
      rounded.addAll(List.of("--dtype", "bf16"));
      assertTrue(whole(rounded).lines().allMatch(line -> line.contains(" --dtype bf16 ")));
      System.clearProperty("espalier.dtype");
      Outcome refused = Outcome.of(command);
      assertEquals(2, refused.code());
      assertTrue(refused.err().contains("holds a run with --dtype bf16"), refused.err());
    } finally {
      System.clearProperty("espalier.device");
      System.clearProperty("espalier.dtype");
    }
  }

  /** Token rows have a length of their own, whatever --context says. */
  @Test
  void tokensAreThoseOfTheRows() throws IOException {
    Path out = temp.resolve("tokens");
    whole(command("timing", out, "--plan", PLAN));
    List<String> columns = Arrays.asList(rows(out).getFirst().split(","));
    for (String row : rows(out).subList(1, rows(out).size())) {
      String[] fields = row.split(",(?=(?:[^\"]*\"[^\"]*\")*[^\"]*$)", -1);
      long steps = Long.parseLong(fields[columns.indexOf("step")]);
      assertEquals(24 * steps, Long.parseLong(fields[columns.indexOf("tokens")]), row);
    }
    JsonNode arms =
        new ObjectMapper().readTree(out.resolve("cells/clock/cell.json").toFile()).get("arms");
    for (JsonNode arm : arms) {
      double tokens = arm.get("tokens_per_second").doubleValue() * arm.get("step_ms").doubleValue();
      assertEquals(24, tokens * 1e-3, 1e-9);
    }
  }

  @Test
  void anotherRunIsRefused() throws IOException {
    Path out = temp.resolve("refused");
    whole(command("rank", out, "--plan", PLAN, "--cell", "sae-l1"));
    Outcome other = Outcome.of(command("layer", out, "--plan", PLAN));
    assertEquals(2, other.code());
    assertTrue(other.err().contains("other settings"), other.err());
    Outcome size = Outcome.of(command("rank", out, "--plan", "small,sae=10,lora=3,e2e=3,eval=2"));
    assertEquals(2, size.code());
    assertTrue(size.err().contains(PLAN), size.err());
    Path foreign = Files.createDirectory(temp.resolve("foreign"));
    Files.writeString(foreign.resolve("letter.txt"), "mine");
    Outcome refused = Outcome.of(command("rank", foreign, "--plan", PLAN));
    assertEquals(2, refused.code());
    assertTrue(refused.err().contains("letter.txt"), refused.err());
  }

  /** Where there is no bfloat16 at all, as where SAEs are not trained in it. */
  @Test
  void refusesBfloat16BeforeAnythingIsWritten() {
    Path out = temp.resolve("bf16");
    Outcome refused = Outcome.of(command("rank", out, "--plan", PLAN, "--dtype", "bf16"));
    assertEquals(2, refused.code());
    assertTrue(refused.err().contains("--dtype"), refused.err());
    assertFalse(Files.exists(out));
  }

  @Test
  void unusableOptionsAreRefused() {
    Path out = temp.resolve("never");
    for (String[] wrong :
        new String[][] {
          {"bogus", "EXPERIMENT bogus"},
          {"rank --plan small", "--plan small"},
          {"rank --plan small,sae=0,lora=1,e2e=1,eval=1", "--plan: sae 0"},
          {"timing --plan small,sae=7,lora=1,e2e=1,eval=1", "sae=7"},
          {"rank --budget 0", "--budget 0"},
          {"rank --budget 1 --plan " + PLAN, "--plan"},
          {"rank --list --collect", "--collect"},
          {"rank --layer 3", "--layer 3"},
          {"rank --layers some", "--layers some"},
          {"rank --collect", "holds no run"},
          {"rank --cell x --plan " + PLAN, "--cell x"},
          {"timing --sae 1=x --plan " + PLAN, "--sae"},
        }) {
      List<String> words = new ArrayList<>(List.of(wrong[0].split(" ")));
      String experiment = words.removeFirst();
      Outcome outcome = Outcome.of(command(experiment, out, words.toArray(String[]::new)));
      assertEquals(2, outcome.code(), wrong[0]);
      assertTrue(outcome.err().contains(wrong[1]), outcome.err());
      assertEquals(1, outcome.err().lines().count(), outcome.err());
    }
  }
}
