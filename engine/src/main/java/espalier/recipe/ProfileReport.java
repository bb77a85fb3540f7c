package espalier.recipe;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.device.Device;
import espalier.device.Profile;
import espalier.distributed.Ranks;
import espalier.format.InputException;
import espalier.train.StepProfiler;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Collection;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Where the time of a step goes: a table by operation and kernel against the device's measured
 * rates, and every call on a time line, in the JSON that chrome://tracing and ui.perfetto.dev open.
 */
record ProfileReport(List<StepProfiler.Step> steps, double gemm, double copy) {

  private static final int REPEATS = 9;

  /**
   * Prints a training loop's profile on the console and writes its time line. All ranks measure the
   * same steps, and the first one reports: a rank that goes call by call while others replay a
   * recording would not send what they receive.
   */
  static StepProfiler profiler(Device device, Ranks ranks, Path file, Console console) {
    return new StepProfiler(
        device,
        steps -> {
          if (!ranks.isFirst()) {
            return;
          }
          Rates rates = new Rates(device);
          ProfileReport report = new ProfileReport(steps, rates.gemm(REPEATS), rates.copy(REPEATS));
          report.table().lines().forEach(console::info);
          report.writeTimeline(file);
        });
  }

  /** Calls of one operation to one kernel, in all steps. */
  private static final class Row {
    final String operation;
    final String kernel;
    int calls;
    double seconds;
    double flops;
    double bytes;

    Row(Profile.Call first) {
      operation = first.operation();
      kernel = first.kernel();
    }

    void add(Profile.Call call) {
      calls++;
      seconds += call.seconds();
      flops += call.flops();
      bytes += call.bytes();
    }
  }

  /** Means of a step, the longest first; what takes less than a thousandth is left out. */
  String table() {
    double whole = steps.stream().mapToDouble(StepProfiler.Step::seconds).sum();
    Collection<Row> rows = rows();
    double inKernels = rows.stream().mapToDouble(row -> row.seconds).sum();
    StringBuilder table = new StringBuilder();
    table.append(
        "profile: %d steps of %.2f ms; a large product reaches %.1f GFLOP/s, a copy %.1f GB/s%n"
            .formatted(steps.size(), whole / steps.size() * 1e3, gemm * 1e-9, copy * 1e-9));
    table.append(
        "%-26s %-28s %6s %9s %7s %9s %5s %8s %5s%n"
            .formatted("operation", "kernel", "calls", "ms", "share", "GFLOP/s", "", "GB/s", ""));
    rows.stream()
        .filter(row -> row.seconds >= 1e-3 * whole)
        .sorted(Comparator.comparingDouble((Row row) -> row.seconds).reversed())
        .forEach(row -> table.append(line(row, whole)));
    table.append(
        "%-26s %-28s %6s %9.3f %6.1f%%%n"
            .formatted(
                "outside kernels",
                "",
                "",
                (whole - inKernels) / steps.size() * 1e3,
                (whole - inKernels) / whole * 100));
    return table.toString();
  }

  private Collection<Row> rows() {
    Map<String, Row> rows = new LinkedHashMap<>();
    for (StepProfiler.Step step : steps) {
      for (Profile.Call call : step.calls()) {
        rows.computeIfAbsent(call.operation() + "/" + call.kernel(), key -> new Row(call))
            .add(call);
      }
    }
    return rows.values();
  }

  private String line(Row row, double whole) {
    return "%-26s %-28s %6d %9.3f %6.1f%% %9s %5s %8s %5s%n"
        .formatted(
            row.operation.isEmpty() ? "–" : row.operation,
            row.kernel,
            row.calls / steps.size(),
            row.seconds / steps.size() * 1e3,
            row.seconds / whole * 100,
            rate(row.flops / row.seconds),
            share(row.flops / row.seconds / gemm),
            rate(row.bytes / row.seconds),
            share(row.bytes / row.seconds / copy));
  }

  /** A rate as text; empty where nothing is computed, or where the data decide how much. */
  private static String rate(double perSecond) {
    return perSecond > 0 ? "%.1f".formatted(perSecond * 1e-9) : "–";
  }

  private static String share(double share) {
    return share > 0 ? "%.0f%%".formatted(share * 100) : "";
  }

  /** Steps, within them operations, within these calls. */
  private void writeTimeline(Path file) {
    ObjectNode trace = JsonNodeFactory.instance.objectNode();
    trace.put("displayTimeUnit", "ms");
    ObjectNode rates = trace.putObject("otherData");
    rates.put("gemm_flops_per_second", gemm);
    rates.put("copy_bytes_per_second", copy);
    ArrayNode events = trace.putArray("traceEvents");
    double begin = 0;
    for (int s = 0; s < steps.size(); s++) {
      StepProfiler.Step step = steps.get(s);
      List<Profile.Call> calls = step.calls();
      double end = Math.max(step.seconds(), calls.getLast().start() + calls.getLast().seconds());
      event(events, "step", "step " + s, begin, end); // the profile begins just before the step
      for (int i = 0, first = 0; i < calls.size(); i++) {
        Profile.Call call = calls.get(i);
        boolean ends =
            i + 1 == calls.size() || !calls.get(i + 1).operation().equals(call.operation());
        if (ends && !call.operation().isEmpty()) {
          double from = calls.get(first).start();
          event(
              events,
              "operation",
              call.operation(),
              begin + from,
              call.start() + call.seconds() - from);
        }
        ObjectNode arguments =
            event(events, "kernel", call.kernel(), begin + call.start(), call.seconds())
                .putObject("args");
        if (call.flops() > 0) arguments.put("flops", call.flops());
        if (call.bytes() > 0) arguments.put("bytes", call.bytes());
        if (!call.products().isEmpty()) {
          ArrayNode products = arguments.putArray("products");
          call.products().forEach(product -> products.add(shape(product)));
        }
        if (ends) first = i + 1;
      }
      begin += end;
    }
    try {
      Files.writeString(file, new ObjectMapper().writeValueAsString(trace));
    } catch (IOException e) {
      throw new InputException("--profile %s: %s".formatted(file, e.getMessage()));
    }
  }

  /** As BLAS names a product: N or T of each operand, then m, n, k. */
  private static String shape(Profile.Product product) {
    return "%s%s %d %d %d"
        .formatted(
            product.transA() ? "T" : "N",
            product.transB() ? "T" : "N",
            product.m(),
            product.n(),
            product.k());
  }

  /** A complete event ("X") of the trace event format: microseconds. */
  private static ObjectNode event(
      ArrayNode events, String category, String name, double start, double seconds) {
    return events
        .addObject()
        .put("ph", "X")
        .put("pid", 1)
        .put("tid", 1)
        .put("cat", category)
        .put("name", name)
        .put("ts", start * 1e6)
        .put("dur", seconds * 1e6);
  }
}
