package espalier.recipe;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.nio.file.Path;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class ModelNameTest {

  private static final String COMMIT = "0123456789abcdef0123456789abcdef01234567";

  /** The folder's last name is the commit there. */
  @ParameterizedTest
  @CsvSource({
    "/hub/models--google--gemma-2-2b/snapshots/%s, google/gemma-2-2b",
    "/hub/models--google--gemma-2-2b/snapshots/%s/., google/gemma-2-2b",
    "hub/models--a-b--c.d-e/snapshots/%s, a-b/c.d-e",
  })
  void aSnapshotIsOfItsRepository(String folder, String name) {
    Path snapshot = Path.of(folder.formatted(COMMIT));
    assertEquals(name, ModelName.ofAdapter(snapshot));
    assertEquals(name, ModelName.ofSae(snapshot));
  }

  @ParameterizedTest
  @CsvSource({
    "/data/my-model, /data/my-model, my-model",
    "/data/my-model/x/.., /data/my-model, my-model",
    "/hub/models--a--b, /hub/models--a--b, models--a--b",
  })
  void anotherFolderIsItself(String folder, String adapter, String sae) {
    assertEquals(adapter, ModelName.ofAdapter(Path.of(folder)));
    assertEquals(sae, ModelName.ofSae(Path.of(folder)));
  }

  @Test
  void theCurrentFolderHasAName() {
    Path here = Path.of("").toAbsolutePath();
    assertEquals(here.toString(), ModelName.ofAdapter(Path.of(".")));
    assertEquals(here.getFileName().toString(), ModelName.ofSae(Path.of(".")));
  }
}
