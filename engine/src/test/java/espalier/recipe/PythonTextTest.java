package espalier.recipe;

import static org.junit.jupiter.api.Assertions.assertEquals;

import org.junit.jupiter.api.Test;

class PythonTextTest {

  /** What str.isspace is true of, by Python 3.13 (Unicode 15.1). */
  private static final String SPACES =
      "\t\n\u000b\f\r\u001c\u001d\u001e\u001f \u0085\u00a0\u1680\u2000\u2001\u2002\u2003\u2004"
          + "\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000";

  @Test
  void whatPythonTakesForWhiteSpaceGoesAndNothingElse() {
    for (int c = 0; c <= Character.MAX_CODE_POINT; c++) {
      String one = Character.toString(c);
      boolean space = SPACES.contains(one);
      assertEquals(space ? "" : one, PythonText.strip(one), "U+%04X".formatted(c));
    }
  }

  @Test
  void onlyTheEndsAreStripped() {
    assertEquals("a \u00a0b", PythonText.strip("\u202f a \u00a0b\u0085 "));
    assertEquals(" a", PythonText.rstrip(" a\u2007\n"));
    assertEquals("", PythonText.strip(" \u00a0"));
    assertEquals("", PythonText.rstrip(""));
  }
}
