package espalier.recipe;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.device.DeviceChoice;
import espalier.device.ElementType;
import espalier.format.InputException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Locale;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class RunFolderTest {

  private record Settings(int batch) {}

  private final DeviceChoice chosen = DeviceChoice.current();

  @TempDir private Path temp;

  @AfterEach
  void restore() {
    DeviceChoice.choose(chosen);
  }

  /** On a CPU without instructions for it, too. */
  private void choose(ElementType type) {
    DeviceChoice.choose(new DeviceChoice(chosen.kind(), chosen.ordinal(), type, ""));
  }

  @Test
  void aRunOfAnotherTypeIsAnotherRun() {
    choose(ElementType.F32);
    String exact = RunFolder.fingerprint(new Settings(4), 10);
    assertEquals(exact, RunFolder.fingerprint(new Settings(4), 10));
    choose(ElementType.BF16);
    assertNotEquals(exact, RunFolder.fingerprint(new Settings(4), 10));
  }

  @Test
  void aRunThatCouldOnlyBeginMayBeGoneOnWith() throws IOException {
    Path out = Files.createDirectory(temp.resolve("out"));
    assertEquals(out, RunFolder.check(out, false).path());
    Path metrics = Files.createFile(new RunFolder(out).metrics());
    assertEquals(out, RunFolder.check(out, true).path());
    assertThrows(InputException.class, () -> RunFolder.check(out, false));
    Files.move(metrics, out.resolve("other"));
    assertThrows(InputException.class, () -> RunFolder.check(out, true));
  }

  @Test
  void runJsonSaysWhereAndInWhatType() throws IOException {
    for (ElementType type : ElementType.values()) {
      choose(type);
      Path out = temp.resolve(type.name());
      ObjectNode settings = JsonNodeFactory.instance.objectNode();
      new RunFolder(out).begin("adapt", settings, 42);
      JsonNode run = new ObjectMapper().readTree(out.resolve("run.json").toFile());
      assertEquals(chosen.kind().name().toLowerCase(Locale.ROOT), run.get("device").textValue());
      assertEquals(type == ElementType.F32 ? "f32" : "bf16", run.get("dtype").textValue());
    }
  }
}
