package espalier.fuzz;

import com.code_intelligence.jazzer.junit.FuzzTest;
import espalier.data.DocumentsAccess;
import espalier.format.FormatAccess;
import espalier.format.ModelConfig;
import espalier.format.ModelFolder;
import espalier.format.Npy;
import espalier.format.OutputAdapterFile;
import espalier.format.PeftAdapter;
import espalier.format.SaeFile;
import espalier.format.Safetensors;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.stream.Stream;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.provider.MethodSource;

/**
 * Every reader of files against bytes that a fuzzer makes. As a test, each runs on its seeds;
 * {@code bench/fuzz.sh} lets Jazzer look for more.
 */
@Tag("fuzz")
class ParserFuzzTest {

  private static final Path RESOURCES = Path.of("src/test/resources");

  /** Shared by all inputs: making a folder for each would take longer than reading it. */
  @TempDir static Path folder;

  static Stream<byte[]> seeds(String... paths) {
    return Stream.of(paths)
        .map(
            path -> {
              try {
                return Files.readAllBytes(RESOURCES.resolve(path));
              } catch (IOException e) {
                throw new UncheckedIOException(e);
              }
            });
  }

  /** A copy of a fixture's folder, of which one file is then overwritten. */
  private static Path copy(String from) {
    Path target = folder.resolve(from.replace('/', '-'));
    if (!Files.exists(target)) {
      try (Stream<Path> files = Files.list(RESOURCES.resolve(from))) {
        Files.createDirectories(target);
        for (Path file : files.filter(Files::isRegularFile).toList()) {
          Files.copy(file, target.resolve(file.getFileName()), StandardCopyOption.REPLACE_EXISTING);
        }
      } catch (IOException e) {
        throw new UncheckedIOException(e);
      }
    }
    return target;
  }

  private static void sae(String from, String file, byte[] content) {
    Path target = copy(from);
    Parsing.check(target.resolve(file), content, changed -> SaeFile.open(target).close());
  }

  static Stream<byte[]> safetensors() {
    return seeds("sae/saelens_topk/sae/sae_weights.safetensors", "golden/adapt.safetensors")
        .filter(seed -> seed.length < 40_000);
  }

  @MethodSource
  @FuzzTest
  void safetensors(byte[] content) {
    Parsing.check(folder.resolve("a.safetensors"), content, file -> Safetensors.open(file).close());
  }

  static Stream<byte[]> outputAdapter() {
    return seeds("format/output_adapter.safetensors");
  }

  @MethodSource
  @FuzzTest
  void outputAdapter(byte[] content) {
    Parsing.check(
        folder.resolve(OutputAdapterFile.NAME),
        content,
        file -> OutputAdapterFile.open(folder).close());
  }

  static Stream<byte[]> npy() {
    return seeds("golden/tokens.npy", "format/i4.npy");
  }

  @MethodSource
  @FuzzTest
  void npy(byte[] content) {
    Parsing.check(folder.resolve("a.npy"), content, Npy::open);
  }

  static Stream<byte[]> npz() {
    return seeds(
        "sae/gemma_scope_deflated/sae/layer_3/width_65k/average_l0_21/params.npz",
        "sae/gemma_scope_fortran_order/sae/layer_3/width_16k/average_l0_38/params.npz");
  }

  @MethodSource
  @FuzzTest
  void npz(byte[] content) {
    Parsing.check(folder.resolve("params.npz"), content, file -> SaeFile.open(file).close());
  }

  static Stream<byte[]> pickle() {
    return seeds("sae/dictionary_learning_topk/sae/trainer_0/ae.pt");
  }

  @MethodSource
  @FuzzTest
  void pickle(byte[] content) {
    Path target = copy("sae/dictionary_learning_topk/sae/trainer_0");
    Parsing.check(target.resolve("ae.pt"), content, file -> SaeFile.open(target).close());
  }

  static Stream<byte[]> pickleAlone() {
    return seeds("sae/dictionary_learning_topk/sae/trainer_0/ae.pt").map(FormatAccess::pickleOf);
  }

  /** Without the zip file around it, whose checksum every change would break. */
  @MethodSource
  @FuzzTest
  void pickleAlone(byte[] content) {
    Parsing.check(folder.resolve("data.pkl"), content, FormatAccess::readPickle);
  }

  static Stream<byte[]> modelConfig() {
    return Stream.of("llama", "gemma2", "gemma3_text", "qwen2", "gpt2", "gpt_neox")
        .flatMap(family -> seeds("families/" + family + "/model/config.json"));
  }

  @MethodSource
  @FuzzTest
  void modelConfig(byte[] content) {
    Parsing.check(
        folder.resolve("config.json"), content, file -> ModelConfig.read(file, warning -> {}));
  }

  static Stream<byte[]> shardIndex() {
    return Stream.of(
        "{\"weight_map\": {\"a\": \"model-1.safetensors\", \"b\": \"model-2.safetensors\"}}"
            .getBytes(StandardCharsets.UTF_8));
  }

  @MethodSource
  @FuzzTest
  void shardIndex(byte[] content) throws IOException {
    Path target = folder.resolve("sharded");
    if (!Files.exists(target)) {
      Files.createDirectories(target);
      Files.copy(
          RESOURCES.resolve("families/llama/model/config.json"), target.resolve("config.json"));
      Files.copy(
          RESOURCES.resolve("families/llama/model/model.safetensors"),
          target.resolve("model-1.safetensors"));
    }
    Parsing.check(
        target.resolve("model.safetensors.index.json"),
        content,
        file -> ModelFolder.open(target).close());
  }

  static Stream<byte[]> saeLens() {
    return seeds("sae/saelens_topk_rescale/sae/cfg.json", "sae/saelens_gated/sae/cfg.json");
  }

  @MethodSource
  @FuzzTest
  void saeLens(byte[] content) {
    sae("sae/saelens_topk_rescale/sae", "cfg.json", content);
  }

  static Stream<byte[]> sparsify() {
    return seeds("sae/sparsify_topk/sae/layers.3/cfg.json");
  }

  @MethodSource
  @FuzzTest
  void sparsify(byte[] content) {
    sae("sae/sparsify_topk/sae/layers.3", "cfg.json", content);
  }

  static Stream<byte[]> llamaScope() {
    return seeds(
        "sae/llama_scope_r1_distill/sae/400M-Slimpajama-400M-OpenR1-Math-220k/L13R/config.json");
  }

  @MethodSource
  @FuzzTest
  void llamaScope(byte[] content) {
    sae(
        "sae/llama_scope_r1_distill/sae/400M-Slimpajama-400M-OpenR1-Math-220k/L13R",
        "config.json",
        content);
  }

  static Stream<byte[]> gemmaScope2() {
    return seeds(
        "sae/gemma_scope_2_resid_post/sae/resid_post/layer_13_width_16k_l0_medium/config.json");
  }

  @MethodSource
  @FuzzTest
  void gemmaScope2(byte[] content) {
    sae(
        "sae/gemma_scope_2_resid_post/sae/resid_post/layer_13_width_16k_l0_medium",
        "config.json",
        content);
  }

  static Stream<byte[]> peft() {
    return seeds("golden/adapter/adapter_config.json", "families/gpt2/adapter/adapter_config.json");
  }

  @MethodSource
  @FuzzTest
  void peft(byte[] content) {
    Path target = copy("golden/adapter");
    Parsing.check(
        target.resolve("adapter_config.json"),
        content,
        file -> {
          try (PeftAdapter adapter = PeftAdapter.open(target)) {
            FormatAccess.match(adapter);
          }
        });
  }

  static Stream<byte[]> documents() {
    return Stream.of(
        "{\"text\": \"one\"}\n\n{\"text\": \"zw\\u00e9i\", \"id\": 3}\n"
            .getBytes(StandardCharsets.UTF_8));
  }

  @MethodSource
  @FuzzTest
  void documents(byte[] content) {
    Parsing.check(folder.resolve("a.jsonl"), content, DocumentsAccess::read);
  }
}
