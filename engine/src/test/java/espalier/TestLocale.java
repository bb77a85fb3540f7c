package espalier;

import java.util.Locale;
import org.junit.platform.launcher.LauncherSession;
import org.junit.platform.launcher.LauncherSessionListener;

/**
 * Tests call the library in the locale that commands run in, wherever they are run; {@link Abroad}
 * is where they ask for another.
 */
public final class TestLocale implements LauncherSessionListener {

  @Override
  public void launcherSessionOpened(LauncherSession session) {
    Locale.setDefault(Locale.ROOT);
  }
}
