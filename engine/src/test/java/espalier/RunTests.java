package espalier;

import static org.junit.platform.engine.discovery.DiscoverySelectors.selectClass;
import static org.junit.platform.engine.discovery.DiscoverySelectors.selectMethod;

import java.util.Arrays;
import java.util.stream.Stream;
import org.junit.platform.engine.DiscoverySelector;
import org.junit.platform.engine.TestExecutionResult;
import org.junit.platform.launcher.TestExecutionListener;
import org.junit.platform.launcher.TestIdentifier;
import org.junit.platform.launcher.core.LauncherDiscoveryRequestBuilder;
import org.junit.platform.launcher.core.LauncherFactory;
import org.junit.platform.launcher.listeners.SummaryGeneratingListener;

/**
 * Runs the tests named, without Maven, up to the first failure; prints that and exits with 1, or
 * with 2 if nothing ran. For what runs tests many times over: CI, fuzz.sh, remove_barriers.sh.
 */
final class RunTests {
  private RunTests() {}

  /**
   * @param names {@code CLASS} or {@code CLASS#METHOD}, as seen from package espalier
   */
  public static void main(String[] names) throws ClassNotFoundException {
    var request = LauncherDiscoveryRequestBuilder.request();
    for (String name : names) selectors(name).forEach(request::selectors);
    var summary = new SummaryGeneratingListener();
    LauncherFactory.create().execute(request.build(), summary, new StopAtFailure());
    System.exit(summary.getSummary().getTestsSucceededCount() > 0 ? 0 : 2);
  }

  private static Stream<? extends DiscoverySelector> selectors(String name)
      throws ClassNotFoundException {
    String[] parts = name.split("#");
    Class<?> tests = Class.forName("espalier." + parts[0]);
    if (parts.length == 1) return Stream.of(selectClass(tests));
    return Arrays.stream(tests.getDeclaredMethods())
        .filter(method -> method.getName().equals(parts[1]))
        .map(method -> selectMethod(tests, method));
  }

  private static final class StopAtFailure implements TestExecutionListener {
    @Override
    public void executionFinished(TestIdentifier test, TestExecutionResult result) {
      if (result.getStatus() != TestExecutionResult.Status.FAILED) return;
      System.out.print(test.getDisplayName() + ": ");
      result.getThrowable().ifPresent(thrown -> thrown.printStackTrace(System.out));
      System.out.flush();
      Runtime.getRuntime().halt(1);
    }
  }
}
