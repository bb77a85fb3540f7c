package espalier.format;

import java.util.regex.Pattern;
import java.util.regex.PatternSyntaxException;

/**
 * A regular expression of Python's {@code re} for names of modules, run by Java's engine. Syntax
 * that Java reads differently is translated; syntax without an equivalent is refused.
 *
 * <p>Names are ASCII without line breaks. So nothing depends on what either language takes for a
 * letter or for the end of a line. Syntax: docs.python.org/3/library/re.html.
 */
final class PythonRegex {

  private static final int LONGEST = 10_000;
  private static final int DEEPEST = 100;
  private static final long MOST_REPETITIONS = 100_000;
  private static final int MOST_STEPS = 1_000_000;

  private final StrictJson json;
  private final String key;
  private final Pattern pattern;

  private PythonRegex(StrictJson json, String key, Pattern pattern) {
    this.json = json;
    this.key = key;
    this.pattern = pattern;
  }

  /** An expression that must match whole names. {@code key} is where the file has it. */
  static PythonRegex whole(StrictJson json, String key, String expression) {
    return compile(json, key, "", expression);
  }

  /** An expression that must match a whole name, or what comes after one of its dots. */
  static PythonRegex suffix(StrictJson json, String key, String expression) {
    return compile(json, key, "(?:.*\\.)?", expression);
  }

  private static PythonRegex compile(
      StrictJson json, String key, String before, String expression) {
    if (expression.length() > LONGEST) {
      throw json.fault(key, "is a regular expression of " + expression.length() + " characters");
    }
    try {
      String java = new Translation(expression).run();
      return new PythonRegex(json, key, Pattern.compile(before + "(?:" + java + ")"));
    } catch (PatternSyntaxException e) {
      throw json.fault(
          key, "is the regular expression %s: %s".formatted(expression, e.getDescription()));
    }
  }

  boolean matches(String name) {
    try {
      return pattern.matcher(new Bounded(name, new int[1])).matches();
    } catch (TooManySteps | StackOverflowError e) { // the engine recurses where groups repeat
      throw json.fault(key, "is a regular expression that takes too long to match " + name);
    }
  }

  private static final class TooManySteps extends RuntimeException {
    private static final long serialVersionUID = 1L;
  }

  /**
   * A name that ends a match once it has been read too often, as backtracking may take exponential
   * time.
   */
  private record Bounded(String name, int[] steps) implements CharSequence {
    @Override
    public int length() {
      return name.length();
    }

    @Override
    public char charAt(int index) {
      if (++steps[0] > MOST_STEPS) {
        throw new TooManySteps();
      }
      return name.charAt(index);
    }

    @Override
    public CharSequence subSequence(int start, int end) {
      return name.subSequence(start, end);
    }

    @Override
    public String toString() {
      return name;
    }
  }

  /** Translates an expression from Python's syntax to Java's, one character at a time. */
  private static final class Translation {
    private final String in;
    private final StringBuilder out = new StringBuilder();
    private int at;
    private int depth;
    private long repetitions = 1;

    Translation(String in) {
      this.in = in;
    }

    String run() {
      while (at < in.length()) {
        char c = in.charAt(at++);
        switch (c) {
          case '\\' -> escape(false);
          case '[' -> set();
          case '(' -> group();
          case ')' -> {
            out.append(c);
            if (--depth < 0) {
              throw fault("unbalanced parenthesis");
            }
          }
          case '{' -> braces();
          case '}', ']' -> out.append('\\').append(c);
          default -> out.append(c);
        }
      }
      return out.toString();
    }

    private void group() {
      if (++depth > DEEPEST) {
        throw fault("more than " + DEEPEST + " parentheses within each other");
      }
      if (!in.startsWith("?", at)) {
        out.append('(');
        return;
      }
      if (at == 1 && in.startsWith("?i)", at)) { // flags stand at the beginning alone
        depth--;
        at += 3;
        out.append("(?i)");
        return;
      }
      for (String same : new String[] {"?:", "?=", "?!", "?<=", "?<!", "?>", "?i:"}) {
        if (in.startsWith(same, at)) {
          at += same.length();
          out.append('(').append(same);
          return;
        }
      }
      int end = in.indexOf('>', at);
      if (in.startsWith("?P<", at) && end > 0 && in.substring(at + 3, end).matches("\\w+")) {
        at = end + 1; // nothing refers to names
        out.append('(');
        return;
      }
      throw fault("(" + in.substring(at, Math.min(at + 2, in.length())) + " is not supported");
    }

    /**
     * Translates a brace. {@code {m}}, {@code {m,}}, {@code {,n}} and {@code {m,n}} repeat; any
     * other brace stands for itself.
     */
    private void braces() {
      int end = in.indexOf('}', at);
      String body = end < 0 ? "" : in.substring(at, end);
      if (!body.matches("\\d*,?\\d*") || body.isEmpty()) {
        out.append("\\{");
        return;
      }
      int most = 1;
      for (String count : body.split(",")) {
        if (count.length() > 5) {
          throw fault("{" + body + "} repeats too often");
        }
        most = Math.max(most, count.isEmpty() ? 0 : Integer.parseInt(count));
      }
      repetitions *= most;
      if (repetitions > MOST_REPETITIONS) {
        throw fault("{" + body + "} repeats too often");
      }
      at = end + 1;
      out.append('{').append(body.startsWith(",") ? "0" : "").append(body).append('}');
    }

    /**
     * Translates a set. In Java sets can be nested and intersected, so every sign except - is
     * escaped.
     */
    private void set() {
      out.append('[');
      if (in.startsWith("^", at)) {
        at++;
        out.append('^');
      }
      for (int first = at; at < in.length(); ) {
        char c = in.charAt(at++);
        if (c == ']' && at - 1 > first) {
          out.append(c);
          return;
        }
        if (c == '\\') {
          escape(true);
        } else {
          out.append(Character.isLetterOrDigit(c) || c == '-' ? "" : "\\").append(c);
        }
      }
      throw fault("unterminated set");
    }

    private void escape(boolean inSet) {
      if (at == in.length()) {
        throw fault("ends with a backslash");
      }
      char c = in.charAt(at++);
      if (!Character.isLetterOrDigit(c) || "dDwWsS".indexOf(c) >= 0) {
        out.append('\\').append(c);
      } else if (!inSet && "bBA".indexOf(c) >= 0) {
        out.append('\\').append(c);
      } else if (!inSet && c == 'Z') { // which Java lets match before a line break, too
        out.append("\\z");
      } else {
        throw fault("\\" + c + " is not supported");
      }
    }

    private PatternSyntaxException fault(String what) {
      return new PatternSyntaxException(what, in, at);
    }
  }
}
