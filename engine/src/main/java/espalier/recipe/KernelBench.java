package espalier.recipe;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.autograd.LanguageModelHead;
import espalier.autograd.LinearMap;
import espalier.autograd.LowRank;
import espalier.autograd.Parameter;
import espalier.autograd.ParameterSet;
import espalier.autograd.Tape;
import espalier.autograd.Var;
import espalier.autograd.WeightBlock;
import espalier.device.Device;
import espalier.device.DeviceChoice;
import espalier.device.ElementType;
import espalier.device.Kernels;
import espalier.device.Transfer;
import espalier.sae.Sae;
import espalier.tensor.Tensor;
import java.lang.foreign.MemorySegment;
import java.util.List;
import java.util.Map;
import java.util.function.Consumer;

/**
 * Measures the kernels that decide how long a step takes, each against what bounds it: attention
 * against the rate of a large product, SAE encoding against the product alone, decoding against
 * copying, an adapted linear layer against the frozen one, the head with its loss against its three
 * products.
 */
public final class KernelBench {

  private static final int REPEATS = 9;
  private static final int L0 = 70;
  private static final int CAPACITY = 256;
  private static final int RANK = 64;

  /**
   * @param context tokens of a sequence
   * @param batch sequences of attention alone; all else takes one
   * @param d width of the residual stream
   * @param inner outputs of the linear layer
   * @param widths of SAEs
   */
  private record Sizes(int context, int batch, long d, long inner, long vocab, int[] widths) {

    /** Those of Gemma-2-2B on a GPU; smaller ones for a CPU and for the emulator. */
    static Sizes ofDevice() {
      return switch (DeviceChoice.current().kind()) {
        case CUDA ->
            new Sizes(
                1024, 4, 2304, 18_432, 256_000, new int[] {1 << 14, 1 << 16, 1 << 18, 1 << 20});
        case CPU -> new Sizes(256, 1, 512, 4096, 16_384, new int[] {1 << 12, 1 << 14});
        case EMULATOR -> new Sizes(32, 1, 64, 128, 256, new int[] {1 << 9});
      };
    }
  }

  private final Consumer<ObjectNode> results;
  private final Sizes sizes = Sizes.ofDevice();

  /**
   * @param results told of each figure as soon as it is there
   */
  public KernelBench(Consumer<ObjectNode> results) {
    this.results = results;
  }

  public void run() {
    double gemm;
    double copy;
    try (Device device = Device.open()) {
      Rates rates = new Rates(device);
      gemm = rates.gemm(REPEATS);
      copy = rates.copy(REPEATS);
      results.accept(line(device, "gemm").put("edge", Rates.edge()).put("tflops", gemm * 1e-12));
      results.accept(line(device, "copy").put("gb_per_second", copy * 1e-9));
    }
    attention(gemm, 64, 32, 8, 0);
    attention(gemm, 128, 16, 8, 0);
    attention(gemm, 256, 8, 4, 50);
    for (int width : sizes.widths) {
      sae(copy, width);
    }
    loraLinear();
    new LinearBench(results, device -> line(device, "linear with terms"), sizes.context).run();
    headKl();
  }

  private static ObjectNode line(Device device, String kernel) {
    return JsonNodeFactory.instance
        .objectNode()
        .put("measured", "kernel")
        .put("side", "espalier")
        .put("kernel", kernel)
        .put("device", device.describe())
        .put("dtype", device.type().label())
        .put("revision", Versions.revision());
  }

  private void attention(double gemm, int headDim, int heads, int kvHeads, float softcap) {
    try (Device device = Device.open()) {
      Rates rates = new Rates(device);
      Kernels k = device.kernels();
      int seq = sizes.context;
      int batch = sizes.batch;
      long tokens = (long) seq * batch;
      long ld = (long) (heads + 2 * kvHeads) * headDim;
      long row = (long) heads * headDim;
      int size = device.type().bytes();
      MemorySegment qkv = rates.random(tokens * ld, 1);
      MemorySegment keys = qkv.asSlice(row * size);
      MemorySegment values = qkv.asSlice((row + (long) kvHeads * headDim) * size);
      MemorySegment dQkv = rates.random(tokens * ld, 2);
      MemorySegment dKeys = dQkv.asSlice(row * size);
      MemorySegment dValues = dQkv.asSlice((row + (long) kvHeads * headDim) * size);
      MemorySegment out = rates.random(tokens * row, 3);
      MemorySegment dOut = rates.random(tokens * row, 4);
      MemorySegment lse = device.allocate(tokens * heads * Float.BYTES);
      MemorySegment delta = device.allocate(tokens * heads * Float.BYTES);
      float scale = (float) (1 / Math.sqrt(headDim));
      double forward =
          rates.seconds(
              REPEATS,
              () ->
                  k.attentionForward(
                      qkv, ld, keys, values, ld, out, row, lse, batch, seq, heads, kvHeads, headDim,
                      scale, softcap, 0));
      double backward =
          rates.seconds(
              REPEATS,
              () ->
                  k.attentionBackward(
                      qkv, ld, keys, values, ld, out, row, lse, dOut, delta, dQkv, dKeys, dValues,
                      batch, seq, heads, kvHeads, headDim, scale, softcap, 0));
      double flops = 4 * batch * Kernels.visiblePairs(seq, 0) * row;
      String name = "attention %s, head_dim " + headDim;
      share(line(device, name.formatted("forward")), forward, flops, gemm);
      share(line(device, name.formatted("backward")), backward, 2.5 * flops, gemm);
    }
  }

  private void share(ObjectNode line, double seconds, double flops, double gemm) {
    line.put("context", sizes.context).put("batch", sizes.batch).put("ms", seconds * 1e3);
    line.put("tflops", flops / seconds * 1e-12);
    results.accept(line.put("share_of_gemm_rate", flops / seconds / gemm));
  }

  /** Lists of a frozen SAE's active latents, {@link #CAPACITY} entries a token. */
  private record Lists(MemorySegment index, MemorySegment value, MemorySegment count) {

    static Lists allocate(Device device, long tokens) {
      return new Lists(
          device.allocate(tokens * CAPACITY * Integer.BYTES),
          device.allocate(tokens * CAPACITY * Float.BYTES),
          device.allocate(tokens * Integer.BYTES));
    }

    /** Active latents of all tokens together. */
    double active() {
      double active = 0;
      for (int entries : Transfer.ints(count)) {
        active += entries;
      }
      return active;
    }
  }

  private void sae(double copy, int width) {
    try (Device device = Device.open()) {
      Rates rates = new Rates(device);
      long tokens = sizes.context;
      long d = sizes.d;
      Tensor x = Tensor.of(rates.random(tokens * d, 1), tokens, d, device.type());
      Sae sae = RandomSae.of(device, d, width, 2);
      RandomSae.fit(device, sae, x, L0);
      Lists lists = Lists.allocate(device, tokens);

      double encode = encode(device, rates, sae, x, lists);
      double active = lists.active();
      MemorySegment z = rates.random(tokens * width, 3);
      MemorySegment w = sae.wEnc().matrix().data();
      Kernels k = device.kernels();
      double product =
          rates.seconds(
              REPEATS,
              () -> k.gemm(false, true, tokens, width, d, 1, x.data(), d, w, d, 0, z, width));
      against(
          line(device, "SAE encode").put("width", width).put("l0", active / tokens),
          encode,
          product);

      double decode = decode(device, rates, sae, lists);
      double bytes = (active + tokens) * d * device.type().bytes() + active * 8;
      ObjectNode line = line(device, "SAE decode").put("width", width).put("l0", active / tokens);
      line.put("ms", decode * 1e3).put("gb_per_second", bytes / decode * 1e-9);
      results.accept(line.put("share_of_copy_rate", bytes / decode / copy));
    }
  }

  /** Seconds to encode x; its latents are in {@code lists} afterwards. */
  private double encode(Device device, Rates rates, Sae sae, Tensor x, Lists lists) {
    Kernels k = device.kernels();
    long d = x.cols();
    long m = sae.latents();
    MemorySegment scratch = device.allocate(k.saeEncodeScratch(d, m) * Float.BYTES);
    MemorySegment none = MemorySegment.NULL;
    double seconds =
        rates.seconds(
            REPEATS,
            () -> {
              boolean whole =
                  k.saeEncode(
                      x.data(),
                      sae.wEnc().matrix().data(),
                      sae.bEnc().data(),
                      none,
                      sae.activation().ordinal(),
                      sae.threshold().data(),
                      0,
                      0,
                      none,
                      lists.index,
                      lists.value,
                      none,
                      lists.count,
                      CAPACITY,
                      device.control().overflowData(),
                      scratch,
                      x.rows(),
                      d,
                      m);
              requireRoom(whole);
            });
    requireRoom(device.takeOverflow() == 0);
    return seconds;
  }

  private static void requireRoom(boolean enough) {
    if (!enough) {
      throw new IllegalStateException("a token has over " + CAPACITY + " latents");
    }
  }

  private double decode(Device device, Rates rates, Sae sae, Lists lists) {
    Kernels k = device.kernels();
    long tokens = sizes.context;
    MemorySegment out = rates.random(tokens * sizes.d, 4);
    MemorySegment none = MemorySegment.NULL;
    return rates.seconds(
        REPEATS,
        () ->
            k.saeDecode(
                lists.index,
                lists.value,
                lists.count,
                CAPACITY,
                sae.wDec().matrix().data(),
                sae.bDec().data(),
                none,
                none,
                out,
                tokens,
                sizes.d));
  }

  private void against(ObjectNode line, double seconds, double reference) {
    line.put("ms", seconds * 1e3).put("reference_ms", reference * 1e3);
    results.accept(line.put("ratio", seconds / reference));
  }

  private void loraLinear() {
    try (Device device = Device.open()) {
      Rates rates = new Rates(device);
      WeightBlock block = WeightBlock.allocate(device, sizes.inner, sizes.d, RANK);
      ParameterSet lora =
          new ParameterSet(
              device,
              List.of(
                  new ParameterSet.Shape("A", RANK, sizes.d),
                  new ParameterSet.Shape("B", sizes.inner, RANK)),
              Map.of("A", block.a(0, RANK), "B", block.b(0, sizes.inner, 0, RANK)));
      Kernels floats = device.kernels(ElementType.F32);
      floats.fillUniform(lora.values().data(), 0.02f, 1, lora.size());
      lora.round(device.kernels());
      LowRank update = new LowRank(lora.get("A"), lora.get("B"), 2, 0, 0);
      Tensor weight = block.weight();
      device
          .kernels()
          .fillUniform(weight.data(), weight.stride(), 1, 2, weight.rows(), weight.cols());
      Tape frozen = linear(device, weight, List.of());
      Tape adapted = linear(device, weight, List.of(new LinearMap.Update(0, update)));
      against(
          line(device, "LoRA linear").put("rank", RANK),
          rates.seconds(REPEATS, adapted::forward),
          rates.seconds(REPEATS, frozen::forward));
    }
  }

  /**
   * The tape of one linear layer on random inputs, which are there already, as a layer before would
   * leave them.
   */
  private Tape linear(Device device, Tensor weight, List<LinearMap.Update> updates) {
    Tape tape = new Tape(device);
    Var x = tape.output(tape.valueWithRoom(sizes.context, sizes.d, false));
    tape.op("what the layer reads").writes(x);
    Var y =
        LinearMap.apply(
            tape,
            x,
            Parameter.frozen("weight", weight),
            null,
            updates,
            device.control().seedData());
    tape.output(y);
    tape.bind(device);
    Tensor place = x.value();
    device.kernels().fillUniform(place.data(), place.stride(), 1, 3, place.rows(), place.cols());
    return tape;
  }

  private void headKl() {
    try (Device device = Device.open()) {
      Rates rates = new Rates(device);
      Kernels k = device.kernels();
      long tokens = sizes.context;
      long d = sizes.d;
      long vocab = sizes.vocab;
      long chunk = LanguageModelHead.chunk(device, tokens, vocab, 2);
      MemorySegment student = rates.random(tokens * d, 1);
      MemorySegment teacher = rates.random(tokens * d, 2);
      MemorySegment head = device.allocate(vocab * d * device.type().bytes());
      k.fillUniform(head, 0.03f, 3, vocab * d);
      MemorySegment gradient = rates.random(tokens * d, 4);
      MemorySegment kl = device.allocate(tokens * Float.BYTES);
      MemorySegment scratch =
          device.allocate(2 * chunk * (vocab + Kernels.LOGITS_ROOM) * Float.BYTES);
      MemorySegment none = MemorySegment.NULL;
      double fused =
          rates.seconds(
              REPEATS,
              () ->
                  k.headKl(
                      student, teacher, head, 30, none, kl, none, none, gradient, 1, scratch, chunk,
                      tokens, d, vocab));
      double products = headProducts(device, rates, student, teacher, head, gradient, tokens);
      against(line(device, "head with KL").put("chunk", chunk), fused, products);
    }
  }

  /** What the head needs at least: its three products, each of all tokens at once. */
  private double headProducts(
      Device device,
      Rates rates,
      MemorySegment student,
      MemorySegment teacher,
      MemorySegment head,
      MemorySegment gradient,
      long tokens) {
    long d = sizes.d;
    long vocab = sizes.vocab;
    Kernels k = device.kernels();
    MemorySegment logits = device.allocate(tokens * vocab * Float.BYTES);
    MemorySegment ofLogits = rates.random(tokens * vocab, 5);
    return rates.seconds(
        REPEATS,
        () -> {
          for (MemorySegment hidden : new MemorySegment[] {student, teacher}) {
            k.gemm(
                false,
                true,
                tokens,
                vocab,
                d,
                1,
                hidden,
                d,
                head,
                d,
                0,
                logits,
                vocab,
                ElementType.F32);
          }
          k.gemm(false, false, tokens, d, vocab, 1, ofLogits, vocab, head, d, 0, gradient, d);
        });
  }
}
