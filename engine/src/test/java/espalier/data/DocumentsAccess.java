package espalier.data;

import java.io.Writer;
import java.nio.file.Path;

/** What fuzzing needs of this package's inside. */
public final class DocumentsAccess {

  private DocumentsAccess() {}

  public static void read(Path file) {
    Documents.read(file, document -> document.transferTo(Writer.nullWriter()));
  }
}
