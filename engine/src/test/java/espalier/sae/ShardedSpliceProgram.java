package espalier.sae;

import espalier.autograd.Tape;
import espalier.autograd.Var;
import espalier.device.Device;
import espalier.device.Transfer;
import espalier.distributed.Launch;
import espalier.distributed.Ranks;
import espalier.format.SaeFile;
import espalier.format.SaeWeights;
import espalier.tensor.Tensor;
import java.lang.foreign.MemorySegment;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Random;

/**
 * What each rank of {@link ShardedSpliceTest} does: SAEs that all hold together, on tokens of its
 * own, against the same SAEs whole.
 */
final class ShardedSpliceProgram {

  private ShardedSpliceProgram() {}

  /**
   * @param arguments {@code narrow} to cut SAEs too that are too narrow for it otherwise; tokens of
   *     each rank; SAEs
   */
  public static void main(String[] arguments) {
    try (Ranks started = Ranks.join(Launch.detect(System.getenv()))) {
      try (Device device = Device.open()) {
        Ranks ranks = started.on(device);
        boolean narrow = arguments[0].equals("narrow");
        int tokens = Integer.parseInt(arguments[1]);
        for (int i = 2; i < arguments.length; i++) {
          compare(device, ranks, narrow, tokens, Path.of(arguments[i]));
        }
        ranks.gather(new byte[] {1}); // all have come this far
        if (ranks.isFirst()) {
          System.out.println(ranks.size() + " ranks are content");
        }
        ranks.detach();
      } catch (RuntimeException | Error e) {
        e.printStackTrace();
        started.fail(e.toString(), 1);
      }
    }
  }

  /** One SAE, whole or this rank's part, on a tape of its own. */
  private record Spliced(Tape tape, Var in, Splice splice, Var out) {

    static Spliced of(Device device, Sae sae, Tensor x, Tensor weight, MemorySegment keep) {
      Tape tape = new Tape(device);
      Var in = tape.output(tape.value(x.rows(), x.cols(), true));
      tape.op("input")
          .writes(in)
          .forward(k -> k.copy(x.data(), in.data(), x.size()))
          .backward(List.of(), List.of(), k -> {});
      Splice splice = Splice.into(tape, in, sae, keep);
      Var out = tape.output(splice.output());
      tape.op("loss")
          .reads(out)
          .givesInForward(out)
          .forward(
              k -> {
                out.accumulates();
                k.copy(weight.data(), out.gradientData(), weight.size());
              });
      tape.bind(device);
      return new Spliced(tape, in, splice, out);
    }
  }

  static void compare(Device device, Ranks ranks, boolean narrow, int tokens, Path path) {
    Sae whole;
    Sae part;
    try (SaeFile file = SaeFile.open(path)) {
      SaeWeights weights = file.weights();
      whole = SaeLoader.load(device, weights, warning -> {});
      part =
          narrow
              ? SaeLoader.loadShard(
                  device,
                  weights,
                  ranks,
                  SaeLoader.group(weights),
                  () -> SaeFile.open(path),
                  warning -> {})
              : SaeLoader.loadShard(
                  device, weights, ranks, () -> SaeFile.open(path), warning -> {});
    }
    Random random = new Random(ranks.rank() + 1);
    Tensor x = Tensor.allocate(device, tokens, whole.inputs(), device.type());
    Tensor weight = Tensor.allocate(device, tokens, whole.outputs(), device.type());
    write(device, gaussians(random, weight.size()), weight);
    MemorySegment keep = MemorySegment.NULL;
    if (whole.inputs() == whole.outputs()) {
      byte[] flags = new byte[tokens];
      flags[ranks.rank()] = 1;
      flags[tokens - 1] = 1;
      keep = device.allocate(tokens);
      Transfer.write(keep, flags);
    }
    Spliced expected = Spliced.of(device, whole, x, weight, keep);
    Spliced given = Spliced.of(device, part, x, weight, keep);
    for (int batch = 0; batch < 3; batch++) {
      float[] values = gaussians(random, x.size());
      if (batch == 2 && ranks.rank() == 1) {
        values[(tokens / 2) * (int) whole.inputs()] = Float.NaN;
      }
      write(device, values, x);
      String what = "%s, batch %d, rank %d: ".formatted(path, batch, ranks.rank());
      expected.tape.forward();
      given.tape.forward();
      compareLists(what, expected.splice, given.splice);
      compare(what + "output", expected.out.value(), given.out.value());
      if (batch == 1) { // an odd one out: others go on without
        if (ranks.isFirst()) {
          given.tape.join();
        } else {
          given.tape.forward();
          compare(what + "output", expected.out.value(), given.out.value());
        }
        given.tape.forward();
      }
      expected.tape.backward();
      given.tape.backward();
      compare(what + "gradient", expected.in.gradient(), given.in.gradient());
    }
    long all = 0;
    for (double bytes : ranks.gather((double) part.bytes())) {
      all += (long) bytes;
    }
    long type = device.type().bytes();
    long matrices = (whole.inputs() + whole.outputs()) * whole.latents() * type;
    // Rows and columns of both, and what is not divided; columns come in sixteens.
    long vectors = ranks.size() * (whole.bytes() - matrices);
    long most = 2 * matrices + vectors + 4 * 16 * ranks.size() * whole.latents() * type;
    if (all > most) {
      throw new AssertionError(path + ": ranks hold " + all + " bytes, not " + most);
    }
  }

  private static void compareLists(String what, Splice expected, Splice given) {
    Latents.Lists one = expected.latents().read();
    Latents.Lists other = given.latents().read();
    for (int t = 0; t < one.count().length; t++) {
      compare(what + "latents of token " + t, one.dense(t), other.dense(t));
      if (one.count()[t] != other.count()[t]) {
        throw new AssertionError(what + "entries of token " + t);
      }
    }
  }

  private static void compare(String what, Tensor expected, Tensor given) {
    compare(what, expected.toArray(), given.toArray());
  }

  private static void compare(String what, float[] expected, float[] given) {
    if (Arrays.equals(expected, given)) {
      return;
    }
    for (int i = 0; i < expected.length; i++) {
      if (Float.compare(expected[i], given[i]) != 0) {
        throw new AssertionError(
            "%s [%d]: %s, sharded %s".formatted(what, i, expected[i], given[i]));
      }
    }
  }

  private static void write(Device device, float[] values, Tensor target) {
    Tensor floats = Tensor.allocate(device, target.rows(), target.cols());
    floats.copyFrom(values);
    int from = floats.type().code();
    device.kernels().convert(floats.data(), from, target.data(), target.size(), target.type());
  }

  private static float[] gaussians(Random random, long n) {
    float[] values = new float[(int) n];
    for (int i = 0; i < values.length; i++) {
      values[i] = (float) random.nextGaussian();
    }
    return values;
  }
}
