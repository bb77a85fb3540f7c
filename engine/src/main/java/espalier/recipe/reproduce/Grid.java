package espalier.recipe.reproduce;

import java.util.List;
import java.util.stream.IntStream;

/** How many cells an experiment has. The budget decides. */
public enum Grid {
  FULL,
  MEDIUM,
  SMALL;

  private static final int LARGEST_RANK = 256;

  /**
   * The ranks that every SAE of an experiment is adapted with. They are the paper's, as far as they
   * fit.
   */
  List<Integer> ranks(int hidden) {
    List<Integer> ranks =
        switch (this) {
          case FULL -> List.of(1, 4, 16, 64, LARGEST_RANK);
          case MEDIUM -> List.of(1, 16);
          case SMALL -> List.of(16);
        };
    return fitting(ranks, hidden);
  }

  /** The ranks of the experiment {@link Experiment#RANK}. */
  List<Integer> manyRanks(int hidden) {
    List<Integer> ranks =
        switch (this) {
          case FULL -> List.of(1, 2, 4, 8, 16, 32, 64, LARGEST_RANK);
          case MEDIUM -> List.of(1, 4, 16, 64);
          case SMALL -> List.of(1, 16, 64);
        };
    return fitting(ranks, hidden);
  }

  /** The ranks up to half of the width: with more an update is low-rank in name only. */
  private static List<Integer> fitting(List<Integer> ranks, int hidden) {
    return ranks.stream().filter(rank -> rank == 1 || rank <= hidden / 2).toList();
  }

  /** The factors by which a size is multiplied, around the one that the other experiments use. */
  List<Double> factors() {
    return this == SMALL ? List.of(0.25, 1.0, 4.0) : List.of(0.25, 0.5, 1.0, 2.0, 4.0);
  }

  /** The depths of SAEs, as fractions of the model's depth. */
  List<Double> depths() {
    return this == SMALL ? List.of(0.2, 0.5, 0.8) : List.of(0.2, 0.35, 0.5, 0.65, 0.8);
  }

  /** The percentages of the SAE's training after which adapters are trained. */
  List<Integer> forks() {
    return switch (this) {
      case FULL -> IntStream.rangeClosed(1, 10).map(i -> 10 * i).boxed().toList();
      case MEDIUM -> List.of(20, 40, 60, 80, 100);
      case SMALL -> List.of(20, 60, 100);
    };
  }

  /** How often an SAE is measured while it is trained. Every fork is at one of these times. */
  int snapshots() {
    return this == FULL ? 10 : 5;
  }

  /**
   * At most as many elements of {@code all} as this grid allows, evenly spread and including both
   * ends.
   */
  List<Integer> some(List<Integer> all) {
    int most =
        switch (this) {
          case FULL -> all.size();
          case MEDIUM -> 8;
          case SMALL -> 4;
        };
    if (all.size() <= most) {
      return all;
    }
    return IntStream.range(0, most)
        .map(i -> (int) Math.round(i * (all.size() - 1.0) / (most - 1)))
        .mapToObj(all::get)
        .toList();
  }

  /** The most SAEs in one model. */
  int mostSaes() {
    return switch (this) {
      case FULL -> 8;
      case MEDIUM -> 4;
      case SMALL -> 2;
    };
  }
}
