package espalier.recipe;

/**
 * Strings as Python's methods of the same names treat them, for prompts that must be those of
 * programs in Python. Unlike Java, Python takes no-break spaces and U+0085 for white space.
 */
final class PythonText {

  private PythonText() {}

  static String strip(String text) {
    int from = 0;
    while (from < text.length() && isSpace(text.charAt(from))) {
      from++;
    }
    return rstrip(text.substring(from));
  }

  static String rstrip(String text) {
    int to = text.length();
    while (to > 0 && isSpace(text.charAt(to - 1))) {
      to--;
    }
    return text.substring(0, to);
  }

  /** Python's {@code str.isspace}; it holds of no character beyond U+FFFF. */
  private static boolean isSpace(char c) {
    return Character.isWhitespace(c) || Character.isSpaceChar(c) || c == '\u0085';
  }
}
