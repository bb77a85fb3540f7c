import static org.junit.platform.engine.discovery.DiscoverySelectors.selectClass;

import org.junit.platform.launcher.core.LauncherDiscoveryRequestBuilder;
import org.junit.platform.launcher.core.LauncherFactory;
import org.junit.platform.launcher.listeners.SummaryGeneratingListener;

/**
 * Runs the kernel tests named, without Maven; prints the first failure and exits with 1 if there is
 * one, with 2 if nothing ran. For remove_barriers.sh, which does so dozens of times.
 */
final class RunTests {
  public static void main(String[] classes) {
    var request = LauncherDiscoveryRequestBuilder.request();
    for (String name : classes) request.selectors(selectClass("espalier.kernels." + name));
    var listener = new SummaryGeneratingListener();
    LauncherFactory.create().execute(request.build(), listener);
    var summary = listener.getSummary();
    summary.getFailures().stream()
        .limit(1)
        .forEach(failure -> System.out.println(failure.getException()));
    boolean ran = summary.getTestsSucceededCount() > 0 || summary.getTotalFailureCount() > 0;
    System.exit(summary.getTotalFailureCount() > 0 ? 1 : ran ? 0 : 2);
  }
}
