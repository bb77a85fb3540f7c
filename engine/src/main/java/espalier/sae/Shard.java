package espalier.sae;

import espalier.distributed.Ranks;
import espalier.tensor.Tensor;
import java.util.function.Supplier;

/**
 * What one rank holds of a frozen SAE that all ranks hold together: of the encoder the rows of its
 * own latents, of the decoder its own columns, each about 1 / N of the matrix.
 *
 * <p>So one rank computes each number, from the same numbers and in the same order as where the SAE
 * is whole: the rank with a latent's row computes its z, and the rank with a column computes that
 * element of the output, which is a sum over latents in their order. A sum of the ranks' partial
 * sums would round differently. Gradients need the other halves: those of the latents need rows of
 * the decoder, that of the input needs columns of the encoder. These are read when a tape records
 * such a gradient, and not before.
 */
public final class Shard {

  /**
   * Columns are cut in units of 32 or 64 bytes, so that kernels compute a column of a slice as they
   * do in the whole row.
   */
  private static final long COLUMN_UNIT = 16;

  private final Ranks ranks;
  private final Slices latents;
  private final Tensor bias;
  private final Supplier<Backward> reader;
  private Backward backward;

  /**
   * The other halves, which only gradients need.
   *
   * @param decoderRows {@code [own latents, dOut]}
   * @param encoderColumns {@code [m, columns of dIn]}
   */
  record Backward(Tensor decoderRows, Tensor encoderColumns) {}

  /**
   * @param bias {@code [1, columns of dOut]}: of bDec what belongs to the decoder's columns
   * @param reader called once, if gradients are asked for
   */
  Shard(Ranks ranks, Slices latents, Tensor bias, Supplier<Backward> reader) {
    this.ranks = ranks;
    this.latents = latents;
    this.bias = bias;
    this.reader = reader;
  }

  /**
   * How many of {@code width} columns a rank has: the same number for each, so that messages are
   * equally long. Some or all columns of the last ranks lie beyond the width; these are zero.
   */
  static long columns(long width, int ranks) {
    long units = (width + COLUMN_UNIT - 1) / COLUMN_UNIT;
    return (units + ranks - 1) / ranks * COLUMN_UNIT;
  }

  Ranks ranks() {
    return ranks;
  }

  /** How the latents are cut. */
  Slices slices() {
    return latents;
  }

  /** The first of this rank's latents. */
  public long firstLatent() {
    return latents.first(ranks.rank());
  }

  /** How many latents are this rank's. */
  public long latents() {
    return latents.first(ranks.rank() + 1) - firstLatent();
  }

  Tensor bias() {
    return bias;
  }

  Backward backward() {
    if (backward == null) {
      backward = reader.get();
    }
    return backward;
  }

  /** Elements of the matrices that were read for gradients. */
  long backwardSize() {
    return backward == null ? 0 : backward.decoderRows.size() + backward.encoderColumns.size();
  }

  /**
   * How latents are cut into one slice a rank, in their order, as evenly as whole units allow.
   *
   * @param latents m
   * @param unit latents that stay together; the last may be fewer
   */
  record Slices(long latents, long unit, int ranks) {

    /** Ranks that there can be. */
    long units() {
      return (latents + unit - 1) / unit;
    }

    /** The first latent of a rank's slice; m for the rank behind the last. */
    long first(int rank) {
      return Math.min(latents, units() * rank / ranks * unit);
    }
  }
}
