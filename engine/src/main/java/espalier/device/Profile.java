package espalier.device;

import java.util.ArrayList;
import java.util.List;

/**
 * The time that each kernel call took, by the device's own clock, with what it had to compute and
 * to move according to its shape. While a profile is taken, work goes call by call, and calls may
 * allocate.
 */
public final class Profile {

  /**
   * A dense product {@code c[m, n] = op(a) op(b)}, op(a) {@code [m, k]}, op(b) {@code [k, n]}.
   *
   * @param transA whether a is stored as {@code [k, m]}
   * @param transB whether b is stored as {@code [n, k]}
   */
  public record Product(boolean transA, boolean transB, long m, long n, long k) {

    double flops() {
      return 2.0 * m * n * k;
    }
  }

  /**
   * @param operation that the call was made for, such as "attention backward"; empty where none
   * @param start seconds after the profile's begin
   * @param flops that the result needs, NaN where the data decide
   * @param bytes read and written, each counted once; NaN likewise
   * @param products that the call had to make; attention's, tile by tile, are not among them
   */
  public record Call(
      String operation,
      String kernel,
      double start,
      double seconds,
      double flops,
      double bytes,
      List<Product> products) {}

  private record Marked(
      String operation,
      String kernel,
      long start,
      long end,
      double flops,
      double bytes,
      List<Product> products) {}

  private final Clock clock;
  private final List<Marked> marked = new ArrayList<>();
  private String operation = "";
  private boolean begun;
  private long start;
  private double flops;
  private double bytes;
  private List<Product> products;

  Profile(Clock clock) {
    this.clock = clock;
  }

  void within(String name, String pass) {
    operation = name.isEmpty() ? "" : name + " " + pass;
  }

  void begin(double flopsOfCall, double bytesOfCall) {
    flops = flopsOfCall;
    bytes = bytesOfCall;
    products = new ArrayList<>();
    start = clock.mark();
    begun = true;
  }

  void product(Product product) {
    products.add(product);
    flops += product.flops();
  }

  void end(String kernel) {
    if (!begun) {
      throw new IllegalStateException(kernel + " does not say what it costs");
    }
    begun = false;
    marked.add(new Marked(operation, kernel, start, clock.mark(), flops, bytes, products));
  }

  /** Waits for the device. */
  List<Call> calls() {
    clock.settle();
    return marked.stream()
        .map(
            m -> {
              double from = clock.seconds(m.start);
              double took = clock.seconds(m.end) - from;
              return new Call(m.operation, m.kernel, from, took, m.flops, m.bytes, m.products);
            })
        .toList();
  }
}
