package espalier.data;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import espalier.format.AtomicFiles;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.List;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.zip.ZipEntry;
import java.util.zip.ZipInputStream;

/**
 * Java source text to learn from: that of Apache Commons Lang, whose sources jar of a fixed version
 * is on the class path. A document is a file without the licence at its head, which a model would
 * otherwise learn by heart.
 */
public final class JavaCorpus {

  private static final String SOURCES = "/espalier/demo/commons-lang3-sources.jar";

  private static final int HELD_OUT_EVERY = 16;
  private static final int HELD_OUT_CHARS = 1000;

  private JavaCorpus() {}

  /**
   * Writes {@code train.jsonl} and {@code eval.jsonl}. Every 16th file is held out, and its
   * beginning is used for evaluation.
   */
  public static void write(Path folder) {
    List<String> documents = documents();
    StringBuilder train = new StringBuilder();
    StringBuilder eval = new StringBuilder();
    for (int i = 0; i < documents.size(); i++) {
      boolean heldOut = i % HELD_OUT_EVERY == 0;
      String text = documents.get(i);
      text = heldOut ? text.substring(0, Math.min(text.length(), HELD_OUT_CHARS)) : text;
      StringBuilder target = heldOut ? eval : train;
      target.append(JsonNodeFactory.instance.objectNode().put("text", text)).append('\n');
    }
    AtomicFiles.write(folder.resolve("train.jsonl"), train.toString());
    AtomicFiles.write(folder.resolve("eval.jsonl"), eval.toString());
  }

  /** The documents, in the order of their names. */
  private static List<String> documents() {
    SortedMap<String, String> byName = new TreeMap<>();
    try (InputStream resource = JavaCorpus.class.getResourceAsStream(SOURCES)) {
      if (resource == null) {
        throw new IllegalStateException("the demo's corpus is not on the class path: " + SOURCES);
      }
      ZipInputStream jar = new ZipInputStream(resource);
      for (ZipEntry entry = jar.getNextEntry(); entry != null; entry = jar.getNextEntry()) {
        if (entry.getName().endsWith(".java")) {
          String source = new String(jar.readAllBytes(), StandardCharsets.UTF_8);
          byName.put(entry.getName(), withoutLicence(source));
        }
      }
    } catch (IOException e) {
      throw new UncheckedIOException("the demo's corpus cannot be read", e);
    }
    return List.copyOf(byName.values());
  }

  private static String withoutLicence(String source) {
    int start = source.indexOf("package ");
    return start < 0 ? source : source.substring(start);
  }
}
