package espalier.format;

import static espalier.Refused.assertRefused;
import static org.junit.jupiter.api.Assertions.assertEquals;

import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

class PythonRegexTest {

  private static final Path FILE = Path.of("adapter_config.json");
  private static final StrictJson JSON = StrictJson.parse(FILE, "{}");

  /** What Python's re.fullmatch says of each, checked there: expression, match, no match. */
  @ParameterizedTest
  @CsvSource(
      delimiter = ' ',
      quoteCharacter = '`',
      textBlock =
          """
          .*\\.q_proj a.q_proj aq_proj
          (?:a|ab)c abc ab
          (?P<kind>q|v)_proj v_proj k_proj
          (?P<a_b>q) q a
          x{2} xx x
          x{,2}y xxy xxxy
          x{1,}y xxy y
          x{,}y xxxy xz
          x{2,3} xxx xxxx
          { { a
          x{} x{} x
          x{y} x{y} xy
          a}] a}] a
          []a]+ ]a b
          [^]a] b ]
          [a[b]+ [ab ]
          [a&&b]+ &ab c
          [a-c-]+ b- d
          [\\w.-]+ a.b-c a/b
          [\\]^]+ ^] a
          (?i)Q_PROJ q_proj r_proj
          (?i:Q)_proj q_proj q_PROJ
          a(?!b). ac ab
          a(?=b). ab ac
          .(?<=a)b ab cb
          .(?<!a)b cb ab
          \\Aa\\b\\.b\\Z a.b ab
          ^a$ a b
          a\\_\\-b a_-b ab
          \\d+\\D\\w 12.a 1.
          """)
  void matchesAsPythonDoes(String expression, String match, String none) {
    PythonRegex regex = PythonRegex.whole(JSON, "k", expression);
    assertEquals(List.of(true, false), List.of(regex.matches(match), regex.matches(none)));
  }

  @Test
  void aSuffixBeginsAfterADot() {
    PythonRegex regex = PythonRegex.suffix(JSON, "k", "q_proj|up");
    assertEquals(
        List.of(true, true, true, false, false),
        List.of("q_proj", "a.q_proj", "a.b.up", "a.xup", "a.q_proj.b").stream()
            .map(regex::matches)
            .toList());
  }

  @ParameterizedTest
  @ValueSource(
      strings = {
        "(?P=a)",
        "(?<a>b)",
        "(?(1)a|b)",
        "(?#c)",
        "(?x)a",
        "a(?i)b",
        "(?-i:a)",
        "(a)\\1",
        "\\p{L}",
        "\\Qa\\E",
        "\\x41",
        "\\N{DIGIT ONE}",
        "[\\b]",
        "\\",
        "(",
        ")",
        "a)(b",
        "[a",
        "*",
        "x{2,1}",
        "x{1000000}",
        "((x{1000}){1000})",
        "[z-a]"
      })
  void refuses(String expression) {
    assertRefused(
        FILE,
        () -> PythonRegex.whole(JSON, "k", expression),
        "k is the regular expression " + expression);
  }

  @Test
  void refusesDepthAndLength() {
    String deep = "(".repeat(200) + ")".repeat(200);
    assertRefused(FILE, () -> PythonRegex.whole(JSON, "k", deep), "parentheses");
    assertRefused(FILE, () -> PythonRegex.whole(JSON, "k", "a".repeat(20_000)), "20000 characters");
  }

  @Test
  void endsAMatchThatWouldTakeForever() {
    PythonRegex regex = PythonRegex.whole(JSON, "k", "(.*.*.*.*.*.*.*.*)*b");
    assertRefused(FILE, () -> regex.matches("a".repeat(60)), "takes too long");
  }

  @Test
  void endsAMatchThatWouldOverflowTheStack() {
    PythonRegex regex = PythonRegex.whole(JSON, "k", "(a|b|c)*");
    assertRefused(FILE, () -> regex.matches("ab".repeat(100_000)), "takes too long");
  }
}
