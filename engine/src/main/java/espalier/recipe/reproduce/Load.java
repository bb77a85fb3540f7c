package espalier.recipe.reproduce;

import java.lang.management.ManagementFactory;

/** How busy the machine is. */
final class Load {

  private Load() {}

  /**
   * The number of processes that ran or waited, averaged over the last minute; negative if the
   * system does not say.
   */
  static double average() {
    return ManagementFactory.getOperatingSystemMXBean().getSystemLoadAverage();
  }
}
