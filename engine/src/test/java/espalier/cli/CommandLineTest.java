package espalier.cli;

import static espalier.bindings.kernels.Kernels.esp_has_products;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import espalier.Golden;
import espalier.bindings.NativeLibraries;
import espalier.device.ElementType;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/**
 * Whatever is wrong with a command line gets exit 2, one line that names it, nothing on stdout, and
 * no file.
 */
class CommandLineTest {

  @TempDir private Path temp;

  /**
   * A command that would work; overrides are options with their values, "-" in place of a value
   * takes one out.
   */
  private List<String> adapt(String... overrides) {
    List<String> args =
        new ArrayList<>(
            List.of(
                "adapt",
                "--model",
                Golden.folder("llama").toString(),
                "--sae",
                "1=" + Golden.folder("sae-topk"),
                "--data",
                Golden.folder("tokens.npy").toString(),
                "--out",
                temp.resolve("out").toString(),
                "--context",
                "24",
                "--steps",
                "1"));
    for (int i = 0; i < overrides.length; i += 2) {
      int at = args.indexOf(overrides[i]);
      if (at >= 0) {
        args.subList(at, at + 2).clear();
      }
      if (!overrides[i + 1].equals("-")) {
        args.addAll(List.of(overrides[i], overrides[i + 1]));
      }
    }
    return args;
  }

  private void assertRefused(List<String> args, String named) {
    Outcome outcome = Outcome.of(args);
    assertEquals(2, outcome.code(), outcome.err());
    assertEquals("", outcome.out());
    assertEquals(1, outcome.err().lines().count(), outcome.err());
    assertTrue(outcome.err().contains(named), outcome.err());
    assertFalse(outcome.err().contains("Exception"), outcome.err());
    assertFalse(Files.exists(temp.resolve("out")), "something was written");
  }

  @ParameterizedTest
  @CsvSource({
    "--rank, 0, --rank 0",
    "--rank, -3, --rank -3",
    "--rank, x, --rank x",
    "--dropout, 1, --dropout 1",
    "--dropout, -0.1, --dropout -0.1",
    "--dropout, nan, --dropout",
    "--batch, 0, --batch 0",
    "--accumulate, 0, --accumulate 0",
    "--context, 1, --context 1",
    "--steps, 0, --steps 0",
    "--lr, -1, --lr -1",
    "--lr, 0, --lr 0",
    "--alpha, 0, --alpha 0",
    "--clip, -1, --clip -1",
    "--weight-decay, -1, --weight-decay -1",
    "--warmup, -1, --warmup -1",
    "--schedule, sinus, --schedule sinus",
    "--order, random, --order random",
    "--layers, some, --layers some",
    "--layers, 3-2, --layers 3-2",
    "--layers, 9, --layers 9",
    "--targets, w_proj, w_proj",
    "--eval-every, 5, --eval-data",
    "--device, cuda, --device cuda",
    "--device, tpu, --device tpu",
    "--sae, 1, --sae 1",
    "--sae, -1=x, --sae -1=x",
    "--sae, one=x, --sae one=x",
    "--sae, 1=, --sae 1=",
    "--sae, 4=x, layers 0 to 3",
    "--sae, 1=nowhere, nowhere",
    "--model, nowhere, nowhere",
    "--data, nowhere.npy, nowhere.npy",
    "--data, nowhere.bin, nowhere.bin",
    "--init-adapter, nowhere, nowhere",
    "--model, -, --model",
    "--sae, -, --sae",
    "--data, -, --data",
    "--bogus, 1, --bogus"
  })
  void badOptionsOfAdapt(String option, String value, String named) {
    assertRefused(adapt(option, value), named);
  }

  /** Rather than in less time than it takes, or in another type. */
  @Test
  void bfloat16WithoutInstructionsForIt() {
    NativeLibraries.require();
    assumeTrue(esp_has_products(ElementType.BF16.code()) == 0, "this CPU has them");
    assertRefused(adapt("--dtype", "bf16"), "--dtype bf16");
    assertRefused(adapt("--dtype", "bf16", "--device", "cpu"), "AVX512-BF16");
  }

  @ParameterizedTest
  @ValueSource(strings = {"sae", "lora+sae"})
  void saesAreNotTrainedInBfloat16(String train) {
    NativeLibraries.require();
    assumeTrue(esp_has_products(ElementType.BF16.code()) != 0, "refused anyway");
    assertRefused(adapt("--dtype", "bf16", "--device", "cpu", "--train", train), "trained in f32");
  }

  @Test
  void anOptionGivenTwice() {
    List<String> args = adapt();
    args.addAll(List.of("--steps", "2"));
    assertRefused(args, "--steps is given twice");
  }

  @Test
  void aLayerGivenTwice() {
    List<String> args = adapt();
    args.addAll(List.of("--sae", "1=" + Golden.folder("sae-jumprelu")));
    assertRefused(args, "layer 1 is given twice");
  }

  @Test
  void aRankThatIsNotTheInitialAdapters() {
    List<String> args = adapt("--init-adapter", Golden.folder("adapter").toString());
    args.addAll(List.of("--rank", "5"));
    assertRefused(args, "--rank 5");
  }

  /** Scripts that give every option go on working, but nobody is to believe that these held. */
  @ParameterizedTest
  @CsvSource({"--alpha, 5", "--layers, all", "--targets, attn"})
  void whatTheInitialAdapterSays(String option, String value) {
    String adapter = Golden.folder("adapter").toString();
    Outcome outcome = Outcome.of(adapt("--init-adapter", adapter, option, value));
    assertEquals(0, outcome.code(), outcome.err());
    String warning = "WARNING: %s has no effect: an --init-adapter keeps its own".formatted(option);
    assertEquals(1, outcome.err().lines().filter(warning::equals).count(), outcome.err());
  }

  @Test
  void aWarmUpThatOutlastsTheRun() {
    Outcome reached = Outcome.of(adapt("--warmup", "1"));
    assertEquals(0, reached.code(), reached.err());
    assertFalse(reached.err().contains("WARNING"), reached.err());
    Outcome outcome =
        Outcome.of(adapt("--warmup", "2", "--out", temp.resolve("outlasted").toString()));
    assertEquals(0, outcome.code(), outcome.err());
    assertTrue(
        outcome.err().lines().anyMatch(line -> line.startsWith("WARNING: --warmup 2: ")),
        outcome.err());
  }

  @Test
  void anSaeOfAnotherWidth() {
    assertRefused(adapt("--model", Golden.folder("llama-untied").toString()), "sae-topk");
  }

  @Test
  void anIdOutsideTheVocabulary() throws IOException {
    Path file = temp.resolve("tokens.npy");
    writeTokens(file, 1, 5, 67);
    assertRefused(adapt("--data", file.toString()), "id 67 is outside");
  }

  @Test
  void rowsLongerThanTheModelsPositions() throws IOException {
    Path file = temp.resolve("tokens.npy");
    writeTokens(file, new int[129]);
    assertRefused(adapt("--data", file.toString()), "max_position_embeddings");
  }

  @Test
  void textAndTokensMixed() throws IOException {
    Path text = Files.writeString(temp.resolve("a.txt"), "words");
    List<String> args = adapt();
    args.addAll(List.of("--data", text.toString()));
    assertRefused(args, "--data");
  }

  @Test
  void anOutThatHoldsSomethingElse() throws IOException {
    Path out = Files.createDirectory(temp.resolve("used"));
    Files.writeString(out.resolve("letter.txt"), "keep me");
    assertRefused(adapt("--out", out.toString()), "--out");
    assertEquals(List.of("letter.txt"), names(out));
  }

  @Test
  void anOutThatHoldsAnotherRun() {
    assertEquals(0, Outcome.of(adapt()).code());
    Path out = temp.resolve("out");
    List<String> before = names(out);
    Outcome again = Outcome.of(adapt());
    assertEquals(2, again.code());
    assertTrue(again.err().contains("--resume"), again.err());
    assertEquals(before, names(out));
    assertTrue(
        before.containsAll(
            List.of(
                "adapter_config.json",
                "adapter_model.safetensors",
                "metrics.jsonl",
                "report.html",
                "run.json")),
        before.toString());
  }

  @Test
  void evaluatePrintsOneObject() throws IOException {
    Outcome outcome =
        Outcome.of(
            List.of(
                "evaluate",
                "--json",
                "--model",
                Golden.folder("llama").toString(),
                "--sae",
                "1=" + Golden.folder("sae-topk"),
                "--data",
                Golden.folder("tokens.npy").toString()));
    assertEquals(0, outcome.code(), outcome.err());
    assertEquals(1, outcome.out().lines().count());
    JsonNode json = new ObjectMapper().readTree(outcome.out());
    JsonNode expected = Golden.scalars().get("topk");
    for (String key : List.of("ce_base", "ce_sae", "kl_sae")) {
      double value = expected.get(key).doubleValue();
      assertEquals(value, json.get(key).doubleValue(), 1e-6 * value, key);
    }
    for (String key : List.of("l0", "fvu", "explained_variance", "cosine")) {
      double value = expected.get("sae").get(key).doubleValue();
      assertEquals(value, json.at("/saes/1/" + key).doubleValue(), 1e-6 * value, key);
    }
  }

  /** A model can be measured alone, and the column for KL has nothing in it then. */
  @Test
  void evaluateWithoutAnSaePrintsATable() {
    List<String> line =
        List.of(
            "evaluate",
            "--model",
            Golden.folder("llama").toString(),
            "--data",
            Golden.folder("tokens.npy").toString());
    Outcome outcome = Outcome.of(line);
    assertEquals(0, outcome.code(), outcome.err());
    String ce = "%.5g".formatted(Golden.scalars().at("/topk/ce_base").doubleValue());
    assertTrue(outcome.out().lines().anyMatch(l -> l.matches("original +" + ce)), outcome.out());
  }

  private static List<String> evaluateTopK(Object... more) {
    List<String> line =
        new ArrayList<>(
            List.of(
                "evaluate",
                "--model",
                Golden.folder("llama").toString(),
                "--sae",
                "1=" + Golden.folder("sae-topk"),
                "--data",
                Golden.folder("tokens.npy").toString()));
    for (Object word : more) {
      line.add(word.toString());
    }
    return line;
  }

  @Test
  void evaluateMeasuresAsMuchAsItIsAskedFor() throws IOException {
    for (String metrics : List.of("basic", "core", "all")) {
      Outcome outcome = Outcome.of(evaluateTopK("--json", "--metrics", metrics));
      assertEquals(0, outcome.code(), outcome.err());
      JsonNode json = new ObjectMapper().readTree(outcome.out());
      assertEquals(!metrics.equals("basic"), json.has("ce_loss_score"));
      assertEquals(!metrics.equals("basic"), json.at("/saes/1").has("kl_div_score"));
      assertEquals(metrics.equals("all"), json.at("/token_loss_differences").has("sae"));
      assertEquals(metrics.equals("all"), json.at("/activation_distance").has("sae"));
    }
    String basic = Outcome.of(evaluateTopK("--metrics", "basic")).out();
    assertFalse(basic.contains("loss recovered"), basic);
    String table = Outcome.of(evaluateTopK("--metrics", "all")).out();
    for (String line : List.of("loss recovered", "reconstruction bias", "quantile", "cosine")) {
      assertTrue(table.contains(line), table);
    }
  }

  @Test
  void evaluateLeavesAFolder() throws IOException {
    Path out = temp.resolve("evaluated");
    Outcome outcome = Outcome.of(evaluateTopK("--json", "--metrics", "all", "--out", out));
    assertEquals(0, outcome.code(), outcome.err());
    assertEquals(
        List.of("evaluation.json", "latent_density.json", "report.html", "run.json"), names(out));
    JsonNode written = new ObjectMapper().readTree(out.resolve("evaluation.json").toFile());
    assertEquals(new ObjectMapper().readTree(outcome.out()), written);
    JsonNode density = new ObjectMapper().readTree(out.resolve("latent_density.json").toFile());
    double active = 0;
    for (JsonNode count : density.at("/saes/1")) {
      active += count.doubleValue();
    }
    double l0 = written.at("/saes/1/l0").doubleValue();
    assertEquals(l0, active / density.get("tokens").doubleValue(), 1e-12);
    String page = Files.readString(out.resolve("report.html"));
    assertTrue(page.contains("distance to the original model"), "activation distances are drawn");
    assertTrue(page.contains("Loss of single tokens"), "token losses are drawn");

    Outcome again = Outcome.of(evaluateTopK("--out", out));
    assertEquals(2, again.code());
    assertTrue(again.err().contains("holds another run"), again.err());
  }

  @Test
  void anSaeOfAnotherLayerIsWarnedAbout() {
    Outcome outcome =
        Outcome.of(
            List.of(
                "evaluate",
                "--model",
                Golden.folder("llama").toString(),
                "--sae",
                "2=" + Golden.folder("sae-topk"),
                "--data",
                Golden.folder("tokens.npy").toString()));
    assertEquals(0, outcome.code(), outcome.err());
    assertTrue(
        outcome.err().lines().anyMatch(l -> l.startsWith("WARNING: ") && l.contains("blocks.1.")),
        outcome.err());
  }

  @Test
  void everyCommandIsListedAndHasHelp() {
    List<String> commands =
        List.of(
            "adapt",
            "evaluate",
            "merge",
            "train-sae",
            "pretrain",
            "generate",
            "inspect",
            "report",
            "doctor",
            "demo",
            "reproduce",
            "score",
            "probe",
            "steer",
            "bench");
    List<String> lines = Outcome.of(List.of("--help")).out().lines().toList();
    assertEquals(
        commands,
        lines.subList(lines.indexOf("Commands:") + 1, lines.size()).stream()
            .filter(line -> line.matches("  [a-z-]+ +[A-Z].*"))
            .map(line -> line.strip().split(" ")[0])
            .toList());
    for (String command : commands) {
      Outcome outcome = Outcome.of(List.of(command, "--help"));
      assertEquals(0, outcome.code(), command);
      assertTrue(outcome.out().contains("Usage: espalier " + command), outcome.out());
    }
  }

  private static List<String> names(Path folder) {
    try (var files = Files.list(folder)) {
      return files.map(f -> f.getFileName().toString()).sorted().toList();
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  /** One row of int32 ids in NumPy's format. */
  private static void writeTokens(Path file, int... ids) throws IOException {
    String header =
        "{'descr': '<i4', 'fortran_order': False, 'shape': (1, %d), }\n".formatted(ids.length);
    ByteBuffer bytes =
        ByteBuffer.allocate(10 + header.length() + ids.length * Integer.BYTES)
            .order(ByteOrder.LITTLE_ENDIAN);
    bytes
        .put((byte) 0x93)
        .put("NUMPY".getBytes(StandardCharsets.US_ASCII))
        .put((byte) 1)
        .put((byte) 0);
    bytes.putShort((short) header.length()).put(header.getBytes(StandardCharsets.US_ASCII));
    for (int id : ids) {
      bytes.putInt(id);
    }
    Files.write(file, bytes.array());
  }
}
