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
 * A document in pieces: a tokenizer takes about 150 bytes of memory for each byte of what it is
 * given at once.
 */
final class Pieces {

  /** Characters of a piece, where it can be cut. */
  private static final int USUAL = 1 << 18;

  /** Characters of a piece where it cannot: 38 GB of memory. */
  private static final int LARGEST = 256 << 20;

  private final Path file;
  private final Reader document;
  private final Supplier<Cuts> cuts;
  private final int usual;
  private final int largest;
  private char[] text;
  private int size;

  /**
   * @param file that the document is from
   * @param cuts asked for where there is more than a piece
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
   * Refuses a text file that would be too large when it has been read.
   *
   * @param cuts asked for where it depends on them
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
        "a document of %s can only take %.3g MiB at once; .jsonl holds a text as several documents"
            .formatted(what, largest / (double) (1 << 20)));
  }

  /**
   * The next piece; null behind the last.
   *
   * @throws InputException if there is no cut for too long
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

  /** Returns whether there are so many characters now; otherwise they are the last. */
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
