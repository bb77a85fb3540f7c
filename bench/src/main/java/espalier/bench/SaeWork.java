package espalier.bench;

import espalier.device.Device;
import espalier.device.ElementType;
import espalier.device.Transfer;
import espalier.tensor.Tensor;
import java.lang.foreign.MemorySegment;

/**
 * What an SAE computes for a batch of tokens, on lists of active latents and on dense matrices with
 * a column a latent. The products are the device's own in both.
 */
public final class SaeWork implements AutoCloseable {

  /** Which latents are active. */
  public enum Kind {
    JUMPRELU(1),
    TOPK(2);

    final int code; // of esp_sae_kind

    Kind(int code) {
      this.code = code;
    }
  }

  /** As {@code native/include/espalier.h} numbers it. */
  private static final int RELU = 3;

  final long tokens;
  final long d;
  final long m;
  final long k;
  final Tensor out; // [tokens, d], of decode and backward

  private final Device device;
  private final Operands operands;
  private final Kind kind;
  private final long capacity;
  private final Tensor x;
  private final Tensor wEnc;
  private final Tensor bEnc;
  private final Tensor wDec;
  private final Tensor bDec;
  private final Tensor threshold;
  private final Tensor dOut;
  private final Tensor dense; // [tokens, m]
  private final Tensor dDense;
  private final Tensor scratch;
  private final Tensor value;
  private final Tensor pre;
  private final Tensor dValue;
  private final MemorySegment index;
  private final MemorySegment count;

  /**
   * @param k active latents of a token, exactly or on average
   */
  SaeWork(Device device, Kind kind, long tokens, long d, long m, long k) {
    this.device = device;
    this.kind = kind;
    this.tokens = tokens;
    this.d = d;
    this.m = m;
    this.k = k;
    operands = new Operands(device);
    x = operands.random(tokens, d, 1);
    wEnc = operands.random(m, d, 1 / Math.sqrt(d));
    bEnc = operands.floats(1, m);
    wDec = operands.random(m, d, 1 / Math.sqrt(d));
    bDec = operands.floats(1, d);
    dOut = operands.random(tokens, d, 1);
    device.kernels().fill(bEnc.data(), 0, m);
    device.kernels().fill(bDec.data(), 0, d);
    // Pre-activations, sums of d products, are about normal: the share k / m is above this.
    threshold = Tensor.allocate(device, 1, m);
    device.kernels().fill(threshold.data(), (float) upperQuantile((double) k / m), m);
    capacity = kind == Kind.TOPK ? k : Math.min(m, 4 * k);
    out = operands.empty(tokens, d);
    dense = operands.empty(tokens, m);
    dDense = operands.empty(tokens, m);
    scratch = Tensor.allocate(device, 1, device.kernels().saeEncodeScratch(d, m));
    value = Tensor.allocate(device, tokens, capacity);
    pre = Tensor.allocate(device, tokens, capacity);
    dValue = Tensor.allocate(device, tokens, capacity);
    index = device.allocate(tokens * capacity * Integer.BYTES);
    count = device.allocate(tokens * Integer.BYTES);
    encode();
    Tensor exact = operands.floats(tokens, m);
    exact.copyFrom(denseLatents());
    device.kernels().convert(exact.data(), ElementType.F32.code(), dense.data(), dense.size());
  }

  /** Latents above their thresholds, or the k largest, as lists. */
  void encode() {
    boolean fits =
        device
            .kernels()
            .saeEncode(
                x.data(),
                wEnc.data(),
                bEnc.data(),
                MemorySegment.NULL,
                kind.code,
                kind == Kind.JUMPRELU ? threshold.data() : MemorySegment.NULL,
                0,
                kind == Kind.TOPK ? k : 0,
                MemorySegment.NULL,
                index,
                value.data(),
                kind == Kind.JUMPRELU ? pre.data() : MemorySegment.NULL,
                count,
                capacity,
                MemorySegment.NULL,
                scratch.data(),
                tokens,
                d,
                m);
    if (!fits) {
      throw new IllegalStateException("more than four times as many latents as on average");
    }
  }

  /** The product alone, without any choice: less than a dense encoder must do. */
  void encodeProduct() {
    operands.productTransposed(x, wEnc, 1, 0, dDense);
  }

  void decodeLists() {
    device
        .kernels()
        .saeDecode(
            index,
            value.data(),
            count,
            capacity,
            wDec.data(),
            bDec.data(),
            MemorySegment.NULL,
            MemorySegment.NULL,
            out.data(),
            tokens,
            d);
  }

  void decodeDense() {
    operands.product(dense, wDec, 1, 0, out);
  }

  /** The gradient of x from that of the output. */
  void backwardLists() {
    device
        .kernels()
        .saeDecodeBackward(
            dOut.data(), index, count, capacity, wDec.data(), dValue.data(), tokens, d);
    device
        .kernels()
        .saeEncodeBackward(
            dValue.data(),
            index,
            count,
            capacity,
            wEnc.data(),
            MemorySegment.NULL,
            MemorySegment.NULL,
            out.data(),
            false,
            tokens,
            d);
  }

  void backwardDense() {
    operands.productTransposed(dOut, wDec, 1, 0, dDense);
    // 1 where a latent is positive: those that are active
    device
        .kernels()
        .activationBackward(dense.data(), RELU, dDense.data(), dDense.data(), tokens * m);
    operands.product(dDense, wEnc, 1, 0, out);
  }

  /** Active latents of all tokens. */
  long active() {
    long active = 0;
    for (int entries : Transfer.ints(count)) {
      active += entries;
    }
    return active;
  }

  /** {@code [tokens, m]}: what the lists say, with all zeros. */
  float[] denseLatents() {
    float[] all = new float[Math.toIntExact(tokens * m)];
    int[] counts = Transfer.ints(count);
    int[] indices = Transfer.ints(index);
    float[] values = value.toArray();
    for (int t = 0; t < tokens; t++) {
      for (int j = 0; j < counts[t]; j++) {
        int at = Math.toIntExact(t * capacity + j);
        all[Math.toIntExact(t * m + indices[at])] = values[at];
      }
    }
    return all;
  }

  /** {@code [tokens, m]}, after {@link #encodeProduct}. */
  float[] preActivations() {
    return dDense.toArray();
  }

  /** z with P(Z > z) = share: bisection on the tail, Abramowitz and Stegun 26.2.17. */
  private static double upperQuantile(double share) {
    double low = 0;
    double high = 8;
    for (int i = 0; i < 60; i++) {
      double z = (low + high) / 2;
      double t = 1 / (1 + 0.2316419 * z);
      double tail =
          Math.exp(-z * z / 2)
              / Math.sqrt(2 * Math.PI)
              * t
              * (0.319381530
                  + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))));
      if (tail > share) {
        low = z;
      } else {
        high = z;
      }
    }
    return low;
  }

  @Override
  public void close() {
    device.close();
  }
}
