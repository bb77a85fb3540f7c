package espalier.data;

import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;

/** The documents of one file, one at a time, as {@link TokenRows} reads them. */
public final class Texts {

  private Texts() {}

  public static List<String> read(Path file) {
    List<String> texts = new ArrayList<>();
    Documents.read(
        file,
        document -> {
          String text = new Pieces(file, document, () -> Cuts.NONE).next();
          texts.add(text == null ? "" : text);
        });
    return texts;
  }
}
