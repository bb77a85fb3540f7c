package espalier.data;

import espalier.format.InputException;
import java.io.IOException;
import java.io.Reader;
import java.io.UncheckedIOException;
import java.nio.CharBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.function.Supplier;

/**
 * Reads a document in pieces, because a tokenizer takes about 150 bytes of memory for each byte of
 * text that it is given at once.
 */
final class Pieces {

  /** The characters in a piece, if the text can be cut. */
  private static final int USUAL = 1 << 18;

  /** The most characters in a piece if it cannot be cut: they take 38 GB of memory. */
  private static final int LARGEST = 256 << 20;

  private final Path file;
  private final Reader document;
  private final Supplier<Cuts> cuts;
  private final int usual;
  private final int largest;
  private char[] text;
  private int size;

  /**
   * Prepares to read a document.
   *
   * @param file that the document is from
   * @param cuts asked for if there is more than one piece
   */
  Pieces(Path file, Reader document, Supplier<Cuts> cuts) {
    this(file, document, cuts, USUAL, LARGEST);
  }

  Pieces(Path file, Reader document, Supplier<Cuts> cuts, int usual, int largest) {
    this.file = file;
    this.document = document;
    this.cuts = cuts;
    this.usual = usual;
    this.largest = largest;
    text = new char[usual];
  }

  /**
   * Refuses a text file that will turn out to be too large when it is read.
   *
   * @param cuts asked for if it depends on them
   */
  static void check(Path file, Supplier<Cuts> cuts) {
    try {
      long bytes = Files.size(file);
      if (file.toString().endsWith(".txt") && bytes > LARGEST && cuts.get() == Cuts.NONE) {
        throw tooLarge(file, "%d MiB, of which this tokenizer".formatted(bytes >> 20), LARGEST);
      }
    } catch (IOException e) {
      throw new UncheckedIOException(file + " cannot be read", e);
    }
  }

  private static InputException tooLarge(Path file, String what, int largest) {
    return new InputException(
        file,
        "a document of %s can take only %.3g MiB at once; give the text as several documents, in .jsonl"
            .formatted(what, largest / (double) (1 << 20)));
  }

  /**
   * The next piece; null behind the last.
   *
   * @throws InputException if there is no cut in too long a stretch
   */
  String next() throws IOException {
    for (int wanted = usual; fill(wanted); wanted = Math.min(2 * size, largest + 1)) {
      int end = cuts.get().last(CharBuffer.wrap(text, 0, size));
      if (end > 0) {
        return take(end, cuts.get().between());
      }
      if (size > largest) {
        throw tooLarge(file, "more, without a place to cut, and this tokenizer", largest);
      }
    }
    return size == 0 ? null : take(size, 0);
  }

  /**
   * Reads on until there are {@code wanted} characters. Returns whether there are; if not, these
   * are the last ones.
   */
  private boolean fill(int wanted) throws IOException {
    text = wanted > text.length ? Arrays.copyOf(text, wanted) : text;
    while (size < wanted) {
      int read = document.read(text, size, wanted - size);
      if (read < 0) {
        return false;
      }
      size += read;
    }
    return true;
  }

  private String take(int end, int between) {
    String piece = new String(text, 0, end);
    size -= end + between;
    System.arraycopy(text, end + between, text, 0, size);
    return piece;
  }
}
