package espalier;

import java.util.Locale;

/** Where digits are not those of this source text, as they are for who sets {@code fa_IR.UTF-8}. */
public final class Abroad {

  private static final Locale PERSIAN = Locale.forLanguageTag("fa-IR");

  private Abroad() {}

  /** A piece of work that may throw. */
  @FunctionalInterface
  public interface Work {
    void run() throws Exception;
  }

  public static void run(Work work) throws Exception {
    Locale before = Locale.getDefault();
    Locale.setDefault(PERSIAN);
    try {
      work.run();
    } finally {
      Locale.setDefault(before);
    }
  }
}
