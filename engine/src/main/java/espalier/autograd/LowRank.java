package espalier.autograd;

/**
 * A low-rank update of a linear map (Hu et al. 2021): y += scale * B (A dropout(x)).
 *
 * @param a {@code [rank, in]}
 * @param b {@code [out, rank]}
 * @param scale alpha / rank, or alpha / sqrt(rank) for rank-stabilised LoRA
 * @param dropout probability that an input element is left out of the update, in [0, 1)
 * @param stream number of this adapter among all, so that each draws its own dropout
 */
public record LowRank(Parameter a, Parameter b, float scale, float dropout, long stream) {

  public LowRank {
    if (a.rows() != b.cols()) {
      throw new IllegalArgumentException(
          a.name() + " has rank " + a.rows() + ", " + b.name() + " has rank " + b.cols());
    }
    if (!(dropout >= 0 && dropout < 1)) {
      throw new IllegalArgumentException("dropout " + dropout + " is not in [0, 1)");
    }
  }

  /** The same update without gradients and without dropout. */
  public LowRank frozen() {
    return new LowRank(a.frozen(), b.frozen(), scale, 0, stream);
  }

  public boolean isTrainable() {
    return a.isTrainable();
  }

  public long rank() {
    return a.rows();
  }
}
