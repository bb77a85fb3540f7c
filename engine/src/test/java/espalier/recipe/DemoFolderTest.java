package espalier.recipe;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import espalier.format.InputException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Running the demo again deletes what the last one made, and nothing else. */
class DemoFolderTest {

  @TempDir private Path temp;
  private Path out;

  @BeforeEach
  void anEarlierDemo() throws IOException {
    out = Files.createDirectories(temp.resolve("demo"));
    Files.writeString(out.resolve("run.json"), "{\n  \"command\" : \"demo\"\n}\n");
    Files.writeString(out.resolve("report.html.tmp"), "cut off");
    Path adapter = Files.createDirectories(out.resolve("adapter/checkpoints"));
    Files.writeString(adapter.resolve("step-80"), "weights");
  }

  private void assertRefused(Path folder, String named) {
    InputException e = assertThrows(InputException.class, () -> DemoFolder.clear(folder));
    assertTrue(e.getMessage().contains(named), e.getMessage());
  }

  @Test
  void anEarlierDemoIsCleared() throws IOException {
    DemoFolder.clear(out);
    try (var left = Files.list(out)) {
      assertEquals(0, left.count());
    }
  }

  @Test
  void aFileIsRefusedAndStays() throws IOException {
    Path file = Files.writeString(temp.resolve("letter.txt"), "keep me");
    assertRefused(file, "letter.txt: exists, but is no folder");
    assertEquals("keep me", Files.readString(file));
  }

  @Test
  void aRunMadeBesideTheDemosOwnIsRefusedAndAllStays() throws IOException {
    Path mine = Files.createDirectories(out.resolve("adapter-2"));
    Files.writeString(mine.resolve("adapter_config.json"), "{}");
    assertRefused(out, "adapter-2");
    assertTrue(Files.exists(mine.resolve("adapter_config.json")));
    assertTrue(Files.exists(out.resolve("adapter/checkpoints/step-80")));
  }

  @Test
  void anotherCommandsRunIsRefusedAndStays() throws IOException {
    Files.writeString(out.resolve("run.json"), "{\n  \"command\" : \"adapt\"\n}\n");
    assertRefused(out, "no demo");
    assertTrue(Files.exists(out.resolve("adapter/checkpoints/step-80")));
  }

  @Test
  void aRunJsonThatIsNoTextIsRefused() throws IOException {
    Files.write(out.resolve("run.json"), new byte[] {(byte) 0xff, (byte) 0xfe});
    assertRefused(out, "run.json");
    assertTrue(Files.exists(out.resolve("adapter")));
  }

  @Test
  void linksAreRemovedAndNotFollowed() throws IOException {
    Path elsewhere = Files.createDirectories(temp.resolve("elsewhere"));
    Files.writeString(elsewhere.resolve("weights"), "keep me");
    Files.createSymbolicLink(out.resolve("model"), elsewhere);
    DemoFolder.clear(out);
    assertFalse(Files.isSymbolicLink(out.resolve("model")));
    assertEquals("keep me", Files.readString(elsewhere.resolve("weights")));
  }

  @Test
  void anAbsentFolderIsFine() {
    DemoFolder.clear(temp.resolve("new"));
    assertFalse(Files.exists(temp.resolve("new")));
  }
}
