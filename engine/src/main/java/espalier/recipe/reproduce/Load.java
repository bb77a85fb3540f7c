package espalier.recipe.reproduce;

import java.lang.management.ManagementFactory;

/** How busy the machine is. */
final class Load {

  private Load() {}

  /** Processes that ran or waited, over the last minute; negative where the system does not say. */
  static double average() {
    return ManagementFactory.getOperatingSystemMXBean().getSystemLoadAverage();
  }
}
