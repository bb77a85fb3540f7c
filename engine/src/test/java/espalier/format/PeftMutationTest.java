package espalier.format;

import static org.junit.jupiter.api.Assertions.assertTimeoutPreemptively;
import static org.junit.jupiter.api.Assertions.assertTrue;

import espalier.Golden;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/**
 * Whatever happens to an adapter's files, reading them ends soon: with an adapter, or with an
 * {@link InputException}.
 */
class PeftMutationTest {

  private static final int MUTATIONS = 3000;

  /** Values and pieces of regular expressions that readers trip over. */
  private static final List<String> PIECES =
      List.of(
          "null",
          "true",
          "-1",
          "0",
          "1e400",
          "4294967296",
          "2.5",
          "\"\"",
          "[]",
          "{}",
          "[[1]]",
          "[null]",
          "{\"a\": {}}",
          "\"(a*)*b\"",
          "\"(.*.*.*)*x\"",
          "\"[\"",
          "\"(?\"",
          "\"\\\\\"",
          "\"a{9999}{9999}\"",
          "\"(|a)*\"",
          "\"\\uD800\"",
          "\"all-linear\"",
          "{\".*\": 4}",
          "{\"(\": 4}",
          "[\"q_proj\", 3]",
          ",",
          "}",
          "\"");

  @TempDir Path folder;

  @Test
  void configurations() throws IOException {
    byte[] config = Files.readAllBytes(Golden.folder("adapter").resolve("adapter_config.json"));
    Files.copy(
        Golden.folder("adapter").resolve("adapter_model.safetensors"),
        folder.resolve("adapter_model.safetensors"));
    Random random = new Random(1);
    int[] opened = {0};
    assertTimeoutPreemptively(
        Duration.ofSeconds(60),
        () -> {
          for (int i = 0; i < MUTATIONS; i++) {
            String text = new String(config, StandardCharsets.UTF_8);
            for (int n = random.nextInt(3); n >= 0; n--) {
              text = mutate(text, random);
            }
            Files.writeString(folder.resolve("adapter_config.json"), text);
            opened[0] += open(text) ? 1 : 0;
          }
        });
    assertTrue(
        opened[0] > MUTATIONS / 50, opened[0] + " were accepted: the mutations are too coarse");
  }

  @Test
  void weights() throws IOException {
    Files.copy(
        Golden.folder("adapter").resolve("adapter_config.json"),
        folder.resolve("adapter_config.json"));
    byte[] weights =
        Files.readAllBytes(Golden.folder("adapter").resolve("adapter_model.safetensors"));
    int header = weights[0] & 0xFF | (weights[1] & 0xFF) << 8;
    Random random = new Random(1);
    for (int i = 0; i < MUTATIONS; i++) {
      byte[] changed = weights.clone();
      for (int n = random.nextInt(3); n >= 0; n--) {
        changed[random.nextInt(8 + header)] =
            (byte)
                (random.nextBoolean() ? random.nextInt() : "0123AB.\"_".charAt(random.nextInt(9)));
      }
      Files.write(folder.resolve("adapter_model.safetensors"), changed);
      open("mutation " + i);
    }
  }

  /** Replaces a value, or a character. */
  private static String mutate(String text, Random random) {
    int at = random.nextInt(text.length());
    int colon = text.indexOf(": ", at);
    int end = colon < 0 ? -1 : text.indexOf(",\n", colon);
    if (end < 0 || random.nextInt(4) == 0) {
      return text.substring(0, at) + (char) (32 + random.nextInt(95)) + text.substring(at + 1);
    }
    String piece = PIECES.get(random.nextInt(PIECES.size()));
    return text.substring(0, colon + 2) + piece + text.substring(end);
  }

  private boolean open(String what) {
    try (PeftAdapter adapter = PeftAdapter.open(folder)) {
      adapter.requireFits(adapter.layers().keySet(), List.of("lm_head"));
      return true;
    } catch (InputException refused) {
      return false;
    } catch (RuntimeException | Error e) {
      throw new AssertionError(what, e);
    }
  }
}
