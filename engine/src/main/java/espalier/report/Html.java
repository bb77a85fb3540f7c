package espalier.report;

import com.fasterxml.jackson.databind.JsonNode;

/** Text and data in a page, whatever is in them. */
final class Html {

  private Html() {}

  static String text(String text) {
    return text.replace("&", "&amp;")
        .replace("<", "&lt;")
        .replace(">", "&gt;")
        .replace("\"", "&quot;");
  }

  /** For a script element, which only {@code </script>} or {@code <!--} in it could upset. */
  static String json(JsonNode json) {
    return json.toString().replace("<", "\\u003c");
  }
}
