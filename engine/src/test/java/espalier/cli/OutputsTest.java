package espalier.cli;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.Golden;
import espalier.format.Npy;
import espalier.recipe.Console;
import espalier.recipe.EvaluateRecipe;
import espalier.recipe.EvaluateSettings;
import espalier.recipe.MetricSet;
import java.io.IOException;
import java.io.OutputStream;
import java.io.PrintStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.stream.Stream;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Files beside the result: what cannot be written costs no work, and never the result. */
class OutputsTest {

  @TempDir private static Path shared;
  @TempDir private Path temp;

  /** A model with a tokenizer, which has learnt nothing. */
  @BeforeAll
  static void model() throws IOException {
    ObjectNode config =
        (ObjectNode)
            new ObjectMapper().readTree(Golden.folder("llama").resolve("config.json").toFile());
    config.put("vocab_size", 320).put("bos_token_id", 0).put("eos_token_id", 1);
    Files.writeString(shared.resolve("config.json"), config.toString());
    Files.copy(
        Path.of("src/test/resources/format/tokenizer/tokenizer.json"),
        shared.resolve("tokenizer.json"));
    Files.writeString(shared.resolve("text.txt"), "some words to learn from ".repeat(20));
    Outcome outcome =
        run(
            "pretrain --config SHARED/config.json --data SHARED/text.txt --out SHARED/model"
                + " --steps 1 --context 16 --batch 1");
    assertEquals(0, outcome.code(), outcome.err());
    Files.writeString(
        shared.resolve("labels.jsonl"),
        "{\"text\": \"a b c\", \"of\": \"x\"}\n{\"text\": \"d e f\", \"of\": \"y\"}\n".repeat(3));
    Files.writeString(
        shared.resolve("questions.jsonl"),
        "{\"context\": \"a b\", \"choices\": [\"c\", \"d\"], \"label\": 0}\n");
  }

  private static Outcome run(String line, Object... paths) {
    List<String> words = new ArrayList<>();
    for (String word : line.split(" ")) {
      words.add(word.replace("SHARED", shared.toString()));
    }
    for (Object path : paths) {
      words.add(path.toString());
    }
    return Outcome.of(words);
  }

  private Outcome probe(Object... more) {
    return run(
        "probe --model SHARED/model --data SHARED/labels.jsonl --eval-data SHARED/labels.jsonl"
            + " --label of",
        more);
  }

  @Test
  void featuresGoToAFolder() throws IOException {
    Path folder = temp.resolve("features");
    Outcome outcome = probe("--features", folder);
    assertEquals(0, outcome.code(), outcome.err());
    try (Stream<Path> files = Files.list(folder)) {
      assertEquals(
          List.of("eval.activations.base.npy", "train.activations.base.npy"),
          files.map(file -> file.getFileName().toString()).sorted().toList());
    }
  }

  @Test
  void aRefusedProbeLeavesNoFolder() throws IOException {
    Path folder = temp.resolve("features");
    Outcome outcome = probe("--features", folder, "--layer", "9");
    assertEquals(2, outcome.code(), outcome.err());
    assertFalse(Files.exists(folder));
    Path file = Files.writeString(temp.resolve("file"), "mine");
    Outcome refused = probe("--features", file);
    assertEquals(2, refused.code(), refused.err());
    assertTrue(refused.err().contains("--features " + file), refused.err());
  }

  /** As where the disk is full by then. */
  private Path fileThatCannotBeWritten(String name) throws IOException {
    Files.createDirectories(temp.resolve(name + ".tmp/in-the-way"));
    return temp.resolve(name);
  }

  private static void assertTold(Outcome outcome, String file) {
    assertEquals(1, outcome.code(), outcome.err());
    assertTrue(outcome.out().startsWith("{"), outcome.out());
    assertTrue(outcome.err().contains(file), outcome.err());
  }

  @Test
  void theResultIsToldBeforeOtherFilesAreWritten() throws IOException {
    assertTold(
        run(
            "score --json --model SHARED/model --questions SHARED/questions.jsonl --details",
            fileThatCannotBeWritten("details.jsonl")),
        "details.jsonl");
    assertTold(probe("--json", "--features", temp.resolve(blockedFeatures())), "train.activations");
    Path logits = fileThatCannotBeWritten("logits.npy");
    Path ids = Golden.folder("tokens.npy");
    assertTold(
        run("inspect --json --input", ids, Golden.folder("llama"), "--output", logits),
        "logits.npy");
    Path outputs = fileThatCannotBeWritten("outputs.npy");
    Path activations = temp.resolve("activations.npy");
    Npy.write(activations, 1, 42, new float[1][42]);
    assertTold(
        run("inspect --json --input", activations, Golden.folder("sae-topk"), "--output", outputs),
        "outputs.npy");
  }

  @Test
  void anEvaluationIsToldBeforeItsFolderIsMade() {
    Path out = temp.resolve("out");
    EvaluateSettings settings =
        new EvaluateSettings(
            Golden.folder("llama"),
            List.of(),
            Optional.empty(),
            List.of(Golden.folder("tokens.npy")),
            24,
            MetricSet.BASIC,
            Optional.of(out));
    List<Boolean> made = new ArrayList<>();
    new EvaluateRecipe(settings, Console.to(new PrintStream(OutputStream.nullOutputStream())))
        .run(e -> made.add(Files.exists(out)));
    assertEquals(List.of(false), made);
    assertTrue(Files.exists(out.resolve("evaluation.json")));
  }

  private String blockedFeatures() throws IOException {
    fileThatCannotBeWritten("blocked/train.activations.base.npy");
    return "blocked";
  }
}
