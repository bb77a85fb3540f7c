package espalier.model;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.device.Device;
import espalier.format.AtomicFiles;
import espalier.format.InputException;
import espalier.format.ModelConfig;
import espalier.format.ModelFolder;
import espalier.format.Safetensors;
import espalier.tensor.Tensor;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** A head that the files hold counts, and a configuration that calls it tied is warned about. */
class OwnHeadTest {

  @TempDir Path temp;

  /**
   * A model's tensors.
   *
   * @param head its name
   * @param others all but embedding and head
   */
  private record Parts(String head, Safetensors.Output embedding, List<Safetensors.Output> others) {

    static Parts of(Device device, ModelFolder folder) {
      String head = folder.config().family().names().head() + ".weight";
      String embedding = folder.config().family().names().embedding() + ".weight";
      List<Safetensors.Output> others =
          new ArrayList<>(LanguageModel.load(device, folder).tensors());
      others.removeIf(tensor -> tensor.name().equals(head));
      Safetensors.Output found =
          others.stream().filter(t -> t.name().equals(embedding)).findFirst().get();
      others.remove(found);
      return new Parts(head, found, others);
    }
  }

  @ParameterizedTest
  @ValueSource(
      strings = {"llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "gpt2", "gpt_neox"})
  void isUsedUnlessItIsTheEmbedding(String family) {
    Path path = Path.of("src/test/resources/families", family, "model");
    try (Device device = Device.open();
        ModelFolder folder = ModelFolder.open(path)) {
      Parts parts = Parts.of(device, folder);
      Tensor same = parts.embedding.tensor();
      ObjectNode config = folder.config().toJson().put("tie_word_embeddings", true);
      write(config, parts.others, parts.embedding, Safetensors.Output.matrix(parts.head, same));
      load(device, List.of(), same.toArray(), true);

      Tensor other = Tensor.allocate(device, same.rows(), same.cols());
      float[] values = same.toArray();
      values[values.length - 1] += 1;
      other.copyFrom(values);
      write(config, parts.others, parts.embedding, Safetensors.Output.matrix(parts.head, other));
      String fault =
          ": tie_word_embeddings is true, but tensors %s and %s differ, so they are taken as not tied";
      String file = temp.resolve("config.json").toString();
      ModelConfig untied =
          load(
              device,
              List.of(file + fault.formatted(parts.embedding.name(), parts.head)),
              values,
              false);

      // What is written of it says so, and needs no warning.
      AtomicFiles.write(temp.resolve("config.json"), untied.toJson());
      load(device, List.of(), values, false);
    }
  }

  @ParameterizedTest
  @ValueSource(strings = {"llama", "gemma2", "gpt2"})
  void isTheEmbeddingWhereTheFilesHaveNoOther(String family) {
    Path path = Path.of("src/test/resources/families", family, "model");
    try (Device device = Device.open();
        ModelFolder folder = ModelFolder.open(path)) {
      Parts parts = Parts.of(device, folder);
      Tensor rows = parts.embedding.tensor();
      ObjectNode config = folder.config().toJson();
      write(
          config.put("tie_word_embeddings", true),
          parts.others,
          Safetensors.Output.matrix(parts.head, rows));
      load(device, List.of(), rows.toArray(), true);

      AtomicFiles.write(temp.resolve("config.json"), config.put("tie_word_embeddings", false));
      try (ModelFolder untied = ModelFolder.open(temp)) {
        InputException refused =
            assertThrows(InputException.class, () -> LanguageModel.load(device, untied));
        String missing = parts.embedding.name() + " is missing";
        assertTrue(refused.getMessage().contains(missing), refused.getMessage());
      }
    }
  }

  private void write(
      ObjectNode config, List<Safetensors.Output> tensors, Safetensors.Output... more) {
    List<Safetensors.Output> all = new ArrayList<>(tensors);
    all.addAll(List.of(more));
    Safetensors.write(temp.resolve("model.safetensors"), all, Map.of("format", "pt"));
    AtomicFiles.write(temp.resolve("config.json"), config);
  }

  private ModelConfig load(Device device, List<String> expected, float[] head, boolean tied) {
    List<String> warnings = new ArrayList<>();
    try (ModelFolder folder = ModelFolder.open(temp, warnings::add)) {
      LanguageModel model = LanguageModel.load(device, folder);
      assertEquals(expected, warnings);
      assertEquals(tied, folder.config().tieWordEmbeddings());
      assertArrayEquals(head, model.head().value().toArray());
      assertEquals(
          tied,
          model.tensors().stream()
              .noneMatch(
                  t -> t.name().equals(folder.config().family().names().head() + ".weight")));
      return folder.config();
    }
  }
}
