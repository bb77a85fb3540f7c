package espalier.recipe;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import espalier.Golden;
import espalier.data.ByteTokenizer;
import espalier.format.AtomicFiles;
import espalier.format.InputException;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.PrintStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Optional;
import java.util.SplittableRandom;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** A small model with a tokenizer of bytes, of which it knows digits and signs. */
class GenerateRecipeTest {

  @TempDir private Path temp;

  /**
   * @param inConfig whether {@code config.json} names a BOS
   * @param inTokenizer whether the tokenizer has one
   */
  private Path model(String name, boolean inConfig, boolean inTokenizer) throws IOException {
    Path folder = Files.createDirectory(temp.resolve(name));
    String config = Files.readString(Golden.folder("llama").resolve("config.json"));
    Files.writeString(
        folder.resolve("config.json"),
        inConfig ? config : config.replace("\"bos_token_id\": 1", "\"bos_token_id\": null"));
    Files.copy(
        Golden.folder("llama").resolve("model.safetensors"), folder.resolve("model.safetensors"));
    AtomicFiles.write(folder.resolve("tokenizer.json"), ByteTokenizer.definition());
    if (!inTokenizer) {
      Files.writeString(folder.resolve("tokenizer_config.json"), "{\"bos_token\": null}");
    }
    return folder;
  }

  private static String generated(Path model, String prompt) {
    GenerateSettings settings =
        new GenerateSettings(model, List.of(), Optional.empty(), List.of(), prompt, 16, 1, 1, 7);
    return new GenerateRecipe(settings, Console.to(new PrintStream(new ByteArrayOutputStream())))
        .run();
  }

  /** NaN is the likeliest of nothing: the text would be made of the first token. */
  @Test
  void logitsThatAreNoNumbersAreRefused() {
    float[] logits = {1, Float.NaN, 2};
    for (double temperature : new double[] {0, 0.8}) {
      Sampler sampler = new Sampler(temperature, 0.95, new SplittableRandom(1));
      assertThrows(ArithmeticException.class, () -> sampler.next(logits));
    }
  }

  /** As Qwen 2.5 has it: a BOS in the model's configuration that the tokenizer does not have. */
  @Test
  void aTokenizerMaySayThatThereIsNoBos() throws IOException {
    Path disowned = model("disowned", true, false);
    String without = generated(model("without", false, true), "1 + 2 =");
    assertNotEquals(without, generated(model("with", true, true), "1 + 2 ="));
    assertEquals(without, generated(disowned, "1 + 2 ="));
    InputException refusal = assertThrows(InputException.class, () -> generated(disowned, ""));
    assertTrue(refusal.getMessage().contains("has no BOS"), refusal.getMessage());
  }

  /** Each change would be added, so that the latent ended up at neither value. */
  @Test
  void aLatentIsHeldAtOneValueOnly() {
    List<SaeSpec> saes = List.of(new SaeSpec(1, temp), new SaeSpec(2, temp));
    held(saes, "1:3=4", "1:4=4", "2:3=5");
    InputException refusal =
        assertThrows(InputException.class, () -> held(saes, "1:3=4", "2:3=4", "1:3=5"));
    assertTrue(refusal.getMessage().contains("--steer 1:3: is given twice"), refusal.getMessage());
  }

  private static GenerateSettings held(List<SaeSpec> saes, String... steer) {
    List<Steering> steering = Stream.of(steer).map(Steering::parse).toList();
    return new GenerateSettings(
        Path.of("model"), saes, Optional.empty(), steering, "x", 1, 0, 1, 7);
  }
}
