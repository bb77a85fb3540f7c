package espalier.sae;

import espalier.autograd.Parameter;
import espalier.device.Control;
import espalier.device.Device;
import espalier.device.ElementType;
import espalier.distributed.NodeMemory;
import espalier.distributed.Ranks;
import espalier.format.InputException;
import espalier.format.SaeFile;
import espalier.format.SaeSite;
import espalier.format.SaeSite.Kind;
import espalier.format.SaeWeights;
import espalier.format.SaeWeights.Activation;
import espalier.tensor.Tensor;
import java.lang.foreign.MemorySegment;
import java.util.Arrays;
import java.util.Optional;
import java.util.function.Consumer;
import java.util.function.Supplier;

/** Reads an SAE from its files into device memory, in the one layout that the engine uses. */
public final class SaeLoader {

  /** Elements: 64 MB. */
  private static final long CHECKED_AT_ONCE = 1 << 24;

  private SaeLoader() {}

  /**
   * @param warn told of what is odd but can be used
   */
  public static Sae load(Device device, SaeWeights weights, Consumer<String> warn) {
    return load(device, weights, Ranks.alone(), warn);
  }

  /**
   * As above, for a job whose processes all hold the SAE: those of one machine share one copy of
   * its matrices, if they can.
   */
  public static Sae load(Device device, SaeWeights weights, Ranks job, Consumer<String> warn) {
    weights.warnings().forEach(warning -> warn.accept(weights.path() + ": " + warning));
    String what = "SAE " + weights.path();
    device.require(what, (weights.dIn() + weights.dOut()) * weights.dSae() * device.type().bytes());
    device.holder(what);
    Sae sae = upload(device, weights, job, warn);
    for (Parameter parameter : sae.parameters()) {
      warnUnless(isFinite(device, parameter.value()), weights, parameter, warn);
    }
    return sae;
  }

  private static void warnUnless(
      boolean finite, SaeWeights weights, Parameter parameter, Consumer<String> warn) {
    if (!finite) {
      warn.accept(weights.path() + ": " + parameter.name() + " holds NaN or infinite values");
    }
  }

  /**
   * Reads this rank's part of an SAE that all ranks hold together. All ranks call this at the same
   * time.
   *
   * @param again opens the same files once more, if gradients need the other halves of the matrices
   * @param warn told the same on all ranks
   * @throws InputException if there are more ranks than there is to hold
   */
  public static Sae loadShard(
      Device device,
      SaeWeights weights,
      Ranks ranks,
      Supplier<SaeFile> again,
      Consumer<String> warn) {
    long unit = device.kernels().saeEncodePanel(group(weights));
    return loadShard(device, weights, ranks, unit, again, warn);
  }

  /**
   * How many latents the activation compares with each other: those of a GroupMax group; 1
   * elsewhere.
   */
  static long group(SaeWeights weights) {
    return weights.activation() == Activation.GROUPMAX ? weights.dSae() / weights.k() : 1;
  }

  /**
   * @param unit latents that stay together: whole groups
   */
  static Sae loadShard(
      Device device,
      SaeWeights weights,
      Ranks ranks,
      long unit,
      Supplier<SaeFile> again,
      Consumer<String> warn) {
    weights.warnings().forEach(warning -> warn.accept(weights.path() + ": " + warning));
    device.holder("SAE " + weights.path());
    Sae sae = shard(device, weights, ranks, unit, again);
    for (Parameter parameter : sae.parameters()) {
      boolean finite = true;
      for (double rank : ranks.gather(isFinite(device, parameter.value()) ? 1.0 : 0.0)) {
        finite &= rank == 1;
      }
      warnUnless(finite, weights, parameter, warn);
    }
    return sae;
  }

  private static Sae shard(
      Device device, SaeWeights w, Ranks ranks, long unit, Supplier<SaeFile> again) {
    Shard.Slices slices = new Shard.Slices(w.dSae(), unit, ranks.size());
    if (ranks.size() > slices.units()) {
      throw new InputException(
          "--shard-sae: %s has %d latents, of which %d stay together: too few for %d ranks"
              .formatted(w.path(), w.dSae(), unit, ranks.size()));
    }
    long first = slices.first(ranks.rank());
    long own = slices.first(ranks.rank() + 1) - first;
    long elements = own * w.dIn() + w.dSae() * Shard.columns(w.dOut(), ranks.size());
    device.require("a part of SAE " + w.path(), elements * device.type().bytes());
    Tensor encoder = Tensor.allocate(device, own, w.dIn(), device.type());
    copyPart(device, w.encoder(), w.dSae(), w.dIn(), first, 0, encoder);
    Tensor bias = Tensor.allocate(device, 1, Shard.columns(w.dOut(), ranks.size()));
    bias.copyFrom(ownColumns(w.bDec(), (int) bias.cols(), ranks.rank()));
    Shard shard =
        new Shard(
            ranks,
            slices,
            bias,
            () -> {
              try (SaeFile file = again.get()) {
                return forGradients(device, file.weights(), ranks, first, own);
              }
            });
    return sae(
        device,
        w,
        Parameter.frozen("W_enc", encoder),
        Parameter.frozen("W_dec", columns(device, w.decoder(), w.dSae(), w.dOut(), ranks)),
        shard);
  }

  private static Shard.Backward forGradients(
      Device device, SaeWeights w, Ranks ranks, long first, long own) {
    String what = "gradients through a part of SAE " + w.path();
    long elements = own * w.dOut() + w.dSae() * Shard.columns(w.dIn(), ranks.size());
    device.require(what, elements * device.type().bytes());
    device.holder("SAE " + w.path());
    Tensor rows = Tensor.allocate(device, own, w.dOut(), device.type());
    copyPart(device, w.decoder(), w.dSae(), w.dOut(), first, 0, rows);
    return new Shard.Backward(rows, columns(device, w.encoder(), w.dSae(), w.dIn(), ranks));
  }

  /** A rank's columns of {@code [m, width]}, zeros beyond the width. */
  private static Tensor columns(
      Device device, SaeWeights.Matrix matrix, long m, long width, Ranks ranks) {
    Tensor own = Tensor.allocate(device, m, Shard.columns(width, ranks.size()), device.type());
    long col = ranks.rank() * own.cols();
    if (col + own.cols() > width) {
      device.kernels().fill(own.data(), 0, own.size() * own.type().bytes() / Float.BYTES);
    }
    if (col < width) {
      Tensor real = own.columns(0, Math.min(own.cols(), width - col));
      copyPart(device, matrix, m, width, 0, col, real);
    }
    return own;
  }

  private static float[] ownColumns(float[] values, int count, int rank) {
    float[] own = new float[count];
    int from = rank * count;
    if (from < values.length) {
      System.arraycopy(values, from, own, 0, Math.min(count, values.length - from));
    }
    return own;
  }

  private static void copyPart(
      Device device,
      SaeWeights.Matrix matrix,
      long rows,
      long cols,
      long row,
      long col,
      Tensor target) {
    matrix
        .entry()
        .copyPartTo(
            device, matrix.transposed(), scale(device, matrix), rows, cols, row, col, target);
  }

  private static MemorySegment scale(Device device, SaeWeights.Matrix matrix) {
    Parameter scale = vector(device, "scale", matrix.rowScale());
    return scale == null ? MemorySegment.NULL : scale.data();
  }

  private static Sae upload(Device device, SaeWeights w, Ranks job, Consumer<String> warn) {
    long decoderAt = (w.dSae() * w.dIn() * device.type().bytes() + 63) / 64 * 64;
    long bytes = decoderAt + w.dSae() * w.dOut() * device.type().bytes();
    Optional<NodeMemory> common = device.isHost() ? job.share(bytes, warn) : Optional.empty();
    Tensor encoder = matrix(device, common, 0, w.dSae(), w.dIn());
    Tensor decoder = matrix(device, common, decoderAt, w.dSae(), w.dOut());
    if (common.isEmpty() || common.get().isWriter()) {
      read(device, w.encoder(), encoder);
      read(device, w.decoder(), decoder);
    }
    common.ifPresent(NodeMemory::settle);
    return sae(
        device, w, Parameter.frozen("W_enc", encoder), Parameter.frozen("W_dec", decoder), null);
  }

  /**
   * @param at bytes before it in the memory in common, if there is any
   */
  private static Tensor matrix(
      Device device, Optional<NodeMemory> common, long at, long rows, long cols) {
    return common
        .map(memory -> memory.bytes().asSlice(at))
        .map(memory -> Tensor.of(memory, rows, cols, device.type()))
        .orElseGet(() -> Tensor.allocate(device, rows, cols, device.type()));
  }

  private static Sae sae(
      Device device, SaeWeights w, Parameter encoder, Parameter decoder, Shard shard) {
    Parameter bEnc = vector(device, "b_enc", w.bEnc());
    Parameter bDec = vector(device, "b_dec", w.bDec());
    boolean tied = w.bPre() != null && Arrays.equals(w.bPre(), w.bDec());
    Parameter bPre = tied ? bDec : vector(device, "b_pre", w.bPre());
    if (bPre != null && device.type() == ElementType.BF16) {
      fold(device, encoder, shard == null ? 0 : shard.firstLatent(), bEnc, bPre);
      bPre = null;
    }
    return new Sae(
        site(w),
        w.activation(),
        w.k(),
        encoder,
        bEnc,
        bPre,
        decoder,
        bDec,
        vector(device, "threshold", w.threshold()),
        w.skip() == null ? null : skip(device, w),
        w.normalisation(),
        w.restoresScale(),
        shard);
  }

  /** x - bPre in bfloat16 would be rounded once more: see esp_sae_encode. */
  private static void fold(
      Device device, Parameter encoder, long firstLatent, Parameter bEnc, Parameter bPre) {
    MemorySegment bias = bEnc.value().data().asSlice(firstLatent * Float.BYTES);
    device
        .kernels()
        .saeFoldBias(
            encoder.value().data(),
            bias,
            bPre.value().data(),
            bias,
            encoder.cols(),
            encoder.rows());
  }

  /** The site that the files name; the residual stream, as for most SAEs, where they name none. */
  private static Kind site(SaeWeights w) {
    return w.site().map(SaeSite::kind).filter(k -> k != Kind.UNNAMED).orElse(Kind.RESIDUAL);
  }

  private static Parameter skip(Device device, SaeWeights w) {
    Tensor skip = matrix(device, Optional.empty(), 0, w.dOut(), w.dIn());
    read(device, w.skip(), skip);
    return Parameter.frozen("W_skip", skip);
  }

  /** In one pass over the mapped file. */
  private static void read(Device device, SaeWeights.Matrix matrix, Tensor target) {
    matrix.entry().copyTo(device, matrix.transposed(), scale(device, matrix), target);
  }

  private static Parameter vector(Device device, String name, float[] values) {
    if (values == null) {
      return null;
    }
    Tensor tensor = Tensor.allocate(device, 1, values.length);
    tensor.copyFrom(values);
    return Parameter.frozen(name, tensor);
  }

  /** A norm is finite exactly if every value is: squares of float32 do not overflow float64. */
  private static boolean isFinite(Device device, Tensor tensor) {
    long step = Math.clamp(CHECKED_AT_ONCE / tensor.cols(), 1, tensor.rows());
    Tensor exact =
        tensor.type() == ElementType.F32 ? null : Tensor.allocate(device, step, tensor.cols());
    for (long row = 0; row < tensor.rows(); row += step) {
      Tensor part = tensor.rows(row, Math.min(step, tensor.rows() - row));
      Tensor values = part;
      if (exact != null) {
        values = exact.rows(0, part.rows());
        device
            .kernels()
            .convert(part.data(), part.type().code(), values.data(), part.size(), ElementType.F32);
      }
      Control control = device.control();
      device.kernels().globalNorm(values.data(), values.size(), control.data());
      control.download();
      device.synchronize();
      if (!Double.isFinite(control.gradientNorm())) {
        return false;
      }
    }
    return true;
  }
}
