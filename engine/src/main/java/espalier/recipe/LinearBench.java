package espalier.recipe;

import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.device.Device;
import espalier.device.DeviceChoice;
import espalier.device.ElementType;
import espalier.device.LinearWay;
import espalier.device.LowRankTerms;
import espalier.format.ModelConfig;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.Collections;
import java.util.EnumMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.function.Consumer;
import java.util.function.Function;

/**
 * The linear layers of a model with their low-rank terms, forward and backward, in every way that
 * the device has. The rule that chooses a way is made of estimates and must not time anything
 * itself (see native/cuda/linear.cu); this shows where it is wrong.
 */
final class LinearBench {

  private static final int REPEATS = 9;
  private static final int RANK = 64;

  /** Medians differ by less from one measurement to the next. */
  private static final double NOISE = 1.05;

  private final Consumer<ObjectNode> results;
  private final Function<Device, ObjectNode> line;
  private final int tokens;

  /**
   * @param line what every result begins with
   */
  LinearBench(Consumer<ObjectNode> results, Function<Device, ObjectNode> line, int tokens) {
    this.results = results;
    this.line = line;
    this.tokens = tokens;
  }

  /** The outputs of projections that read the same {@code in} columns. */
  private record Layer(String name, long in, long... out) {
    long allOut() {
      long sum = 0;
      for (long n : out) sum += n;
      return sum;
    }

    long allRanks() {
      return RANK * (long) out.length;
    }
  }

  void run() {
    ModelConfig config =
        BenchShape.of(
            switch (DeviceChoice.current().kind()) {
              case CUDA -> "gemma-2-2b";
              case CPU -> "gemma-like";
              case EMULATOR -> "tiny";
            });
    long hidden = config.hiddenSize();
    long inner = config.intermediateSize();
    long heads = (long) config.numHeads() * config.headDim();
    long kvHeads = (long) config.numKvHeads() * config.headDim();
    for (Layer layer :
        List.of(
            new Layer("query, key, value", hidden, heads, kvHeads, kvHeads),
            new Layer("attention out", heads, hidden),
            new Layer("gate, up", hidden, inner, inner),
            new Layer("down", inner, hidden))) {
      try (Device device = Device.open()) {
        forward(device, layer);
      }
      try (Device device = Device.open()) {
        backward(device, layer);
      }
    }
  }

  /** y = x W^T + u_p B_p^T, a term for each projection. */
  private void forward(Device device, Layer layer) {
    long inner = layer.in + layer.allRanks();
    MemorySegment x = new Rates(device).random(tokens * inner, 1);
    MemorySegment w = new Rates(device).random(layer.allOut() * inner, 2);
    LowRankTerms terms = new LowRankTerms(layer.out.length);
    long size = device.type().bytes();
    long from = 0;
    for (int p = 0; p < layer.out.length; p++) {
      long at = layer.in + (long) p * RANK;
      MemorySegment v = w.asSlice((from * inner + at) * size);
      terms.set(p, x.asSlice(at * size), inner, v, inner, from, layer.out[p], RANK, 1);
      from += layer.out[p];
    }
    measure(device, layer, true, layer.allOut(), layer.in, x, w, inner, terms);
  }

  /** dx = dy W + du A, one term for all projections. */
  private void backward(Device device, Layer layer) {
    long inner = layer.allOut() + layer.allRanks();
    MemorySegment dy = new Rates(device).random(tokens * inner, 1);
    MemorySegment w = new Rates(device).random(inner * layer.in, 2);
    LowRankTerms terms = new LowRankTerms(1);
    long size = device.type().bytes();
    MemorySegment du = dy.asSlice(layer.allOut() * size);
    MemorySegment a = w.asSlice(layer.allOut() * layer.in * size);
    terms.set(0, du, inner, a, layer.in, 0, layer.in, layer.allRanks(), 1);
    measure(device, layer, false, layer.in, layer.allOut(), dy, w, layer.in, terms);
  }

  /**
   * Beside v, where zeros belong, random numbers lie: times alone are looked at.
   *
   * @param ldw of w; rows of x hold their k elements and those of all u
   */
  private void measure(
      Device device,
      Layer layer,
      boolean transposed,
      long n,
      long k,
      MemorySegment x,
      MemorySegment w,
      long ldw,
      LowRankTerms terms) {
    Rates rates = new Rates(device);
    long ldx = k + layer.allRanks();
    MemorySegment y = rates.random((long) tokens * n, 3);
    LowRankTerms none = new LowRankTerms(0);
    double frozen =
        rates.seconds(
            REPEATS,
            () -> device.kernels().linear(transposed, tokens, n, k, x, ldx, w, ldw, none, 0, y, n));
    Map<LinearWay, Double> seconds = new EnumMap<>(LinearWay.class);
    for (LinearWay way : ways(device)) {
      seconds.put(
          way,
          rates.seconds(
              REPEATS,
              () ->
                  device
                      .kernels()
                      .linear(transposed, tokens, n, k, x, ldx, w, ldw, terms, 0, y, n, way)));
    }
    LinearWay chosen =
        device.kernels().linearByShape(transposed, tokens, n, k, x, ldx, w, ldw, terms, y, n);
    LinearWay fastest = Collections.min(seconds.entrySet(), Map.Entry.comparingByValue()).getKey();
    ObjectNode result =
        line.apply(device)
            .put("layer", layer.name)
            .put("direction", transposed ? "forward" : "backward")
            .put("tokens", tokens)
            .put("k", k)
            .put("n", n)
            .put("rank", RANK)
            .put("frozen_ms", frozen * 1e3);
    seconds.forEach((way, time) -> result.put(name(way) + "_ms", time * 1e3));
    results.accept(
        result
            .put("chosen", name(chosen))
            .put("fastest", name(fastest))
            .put("rule_holds", seconds.get(chosen) <= NOISE * seconds.get(fastest))
            .put("ratio", seconds.get(chosen) / frozen));
  }

  private static List<LinearWay> ways(Device device) {
    List<LinearWay> ways = new ArrayList<>(List.of(LinearWay.SEPARATE, LinearWay.EXTRA_COLUMNS));
    if (device.type() == ElementType.BF16 && !device.isHost()) {
      ways.add(LinearWay.FUSED_NARROW);
      ways.add(LinearWay.FUSED_WIDE);
    }
    return ways;
  }

  private static String name(LinearWay way) {
    return way.name().toLowerCase(Locale.ROOT);
  }
}
