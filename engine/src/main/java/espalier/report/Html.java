package espalier.report;

import com.fasterxml.jackson.databind.JsonNode;

/** Puts text and data into a page, whatever characters they have. */
final class Html {

  private Html() {}

  static String text(String text) {
    return text.replace("&", "&amp;")
        .replace("<", "&lt;")
        .replace(">", "&gt;")
        .replace("\"", "&quot;");
  }

  /** JSON for a script element, in which only {@code </script>} or {@code <!--} could do harm. */
  static String json(JsonNode json) {
    return json.toString().replace("<", "\\u003c");
  }
}
