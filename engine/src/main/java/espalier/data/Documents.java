package espalier.data;

import static java.nio.charset.StandardCharsets.UTF_8;

import com.fasterxml.jackson.databind.JsonNode;
import espalier.format.InputException;
import espalier.format.StrictJson;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.Reader;
import java.io.StringReader;
import java.nio.charset.CharacterCodingException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.function.Consumer;

/**
 * Reads texts from files. A {@code .txt} file is one document. A {@code .jsonl} file has one on
 * each line, in the field {@code text}. Both may be packed as {@code .gz} or {@code .zst}. A {@code
 * .parquet} file has one in each row, in the column {@code text}.
 */
final class Documents {

  private static final String PARQUET = ".parquet";

  private Documents() {}

  /** Refuses a file that does not exist or has an unknown ending, before any work is done. */
  static void check(Path file) {
    String name = file.getFileName().toString();
    if (!Files.isRegularFile(file)) {
      throw new InputException(file, "no such file");
    }
    boolean text = isText(file) || Unpacked.name(file).endsWith(".jsonl");
    if (!text && !name.endsWith(PARQUET)) {
      int dot = name.lastIndexOf('.');
      throw new InputException(
          file,
          "%s is not supported; data is .txt, .jsonl (both also as .gz or .zst), .parquet or .npy"
              .formatted(dot < 0 ? "a name without a kind" : name.substring(dot)));
    }
  }

  /** Whether a file is a single document, which may be read in pieces. */
  private static boolean isText(Path file) {
    return Unpacked.name(file).endsWith(".txt");
  }

  /** What is done with a document. It must be read to its end. */
  interface Use {
    void accept(Reader document) throws IOException;
  }

  /** Hands each document of a file to {@code use}, in order. */
  static void read(Path file, Use use) {
    check(file);
    if (file.getFileName().toString().endsWith(PARQUET)) {
      ParquetTexts.read(file, text -> accept(use, text));
      return;
    }
    try (BufferedReader reader =
        new BufferedReader(
            new InputStreamReader(Unpacked.open(file), UTF_8.newDecoder()), 1 << 16)) {
      if (isText(file)) {
        reader.mark(1);
        if (reader.read() < 0) {
          throw new InputException(file, "is empty");
        }
        reader.reset();
        use.accept(reader);
      } else {
        readLines(file, reader, text -> accept(use, text));
      }
    } catch (CharacterCodingException e) {
      throw new InputException(file, "not UTF-8 text");
    } catch (IOException e) {
      throw new InputException(
          file,
          Unpacked.isDamage(e) ? "damaged or cut off: it cannot be unpacked" : "cannot be read");
    }
  }

  private static void accept(Use use, String text) {
    try {
      use.accept(new StringReader(text));
    } catch (IOException e) {
      throw new IllegalStateException("text in memory can be read", e);
    }
  }

  private static void readLines(Path file, BufferedReader reader, Consumer<String> use)
      throws IOException {
    int number = 0;
    boolean empty = true;
    for (String line = reader.readLine(); line != null; line = reader.readLine()) {
      number++;
      if (!line.isBlank()) {
        use.accept(text(file, number, line));
        empty = false;
      }
    }
    if (empty) {
      throw new InputException(file, "is empty");
    }
  }

  private static String text(Path file, int number, String line) {
    JsonNode node = StrictJson.valueOfLine(file, number, line);
    if (!node.path("text").isTextual()) {
      throw new InputException(file, "line " + number + ": has no field \"text\" with a string");
    }
    return node.get("text").textValue();
  }
}
