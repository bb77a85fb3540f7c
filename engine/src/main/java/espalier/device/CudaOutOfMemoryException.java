package espalier.device;

import java.util.Comparator;
import java.util.Map;
import java.util.stream.Collectors;

/** The GPU's memory does not suffice: what was asked for, what is free, who holds the rest. */
public final class CudaOutOfMemoryException extends CudaException {
  private static final long serialVersionUID = 1L;

  private static final int HOLDERS_NAMED = 3;

  /**
   * @param holders bytes by what they are held for
   */
  CudaOutOfMemoryException(
      String what, long needed, long free, long total, Map<String, Long> holders) {
    super(
        "%s: needs %s, %s of %s free%s; try %s"
            .formatted(
                what,
                gibibytes(needed),
                gibibytes(free),
                gibibytes(total),
                held(holders),
                "--dtype bf16, a smaller --batch (with --accumulate) or a shorter --context"));
  }

  private static String held(Map<String, Long> holders) {
    if (holders.isEmpty()) {
      return "";
    }
    return "; held: "
        + holders.entrySet().stream()
            .sorted(Map.Entry.<String, Long>comparingByValue(Comparator.reverseOrder()))
            .limit(HOLDERS_NAMED)
            .map(holder -> holder.getKey() + " " + gibibytes(holder.getValue()))
            .collect(Collectors.joining(", "));
  }

  private static String gibibytes(long bytes) {
    return "%.2f GiB".formatted(bytes / (double) (1L << 30));
  }
}
