package espalier.data;

import espalier.format.InputException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;

/**
 * Comma-separated values according to RFC 4180: quoted fields may hold commas, line breaks and "".
 */
final class Csv {

  private final Path file;
  private final String text;
  private int at;

  private Csv(Path file, String text) {
    this.file = file;
    this.text = text;
  }

  static List<List<String>> parse(Path file, String text) {
    Csv csv = new Csv(file, text);
    List<List<String>> rows = new ArrayList<>();
    while (csv.at < text.length()) {
      rows.add(csv.row());
    }
    return rows;
  }

  private List<String> row() {
    List<String> fields = new ArrayList<>();
    while (true) {
      fields.add(at < text.length() && text.charAt(at) == '"' ? quoted() : plain());
      if (at == text.length()) {
        return fields;
      }
      char end = text.charAt(at++);
      if (end == '\r' && at < text.length() && text.charAt(at) == '\n') {
        at++;
      }
      if (end != ',') {
        return fields;
      }
    }
  }

  private String plain() {
    int start = at;
    while (at < text.length() && ",\r\n".indexOf(text.charAt(at)) < 0) {
      at++;
    }
    return text.substring(start, at);
  }

  private String quoted() {
    StringBuilder field = new StringBuilder();
    int start = at++;
    while (true) {
      int quote = text.indexOf('"', at);
      if (quote < 0) {
        long line = text.substring(0, start).lines().count() + 1;
        throw new InputException(file, "line " + line + ": a quoted field does not end");
      }
      field.append(text, at, quote);
      at = quote + 1;
      if (at < text.length() && text.charAt(at) == '"') {
        field.append('"');
        at++;
      } else if (at == text.length() || ",\r\n".indexOf(text.charAt(at)) >= 0) {
        return field.toString();
      } else {
        long line = text.substring(0, at).lines().count();
        throw new InputException(file, "line " + line + ": text after a quoted field");
      }
    }
  }
}
