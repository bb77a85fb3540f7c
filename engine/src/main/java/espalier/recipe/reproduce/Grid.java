package espalier.recipe.reproduce;

import java.util.List;
import java.util.stream.IntStream;

/** How many cells an experiment has: as many as its budget pays for. */
public enum Grid {
  FULL,
  MEDIUM,
  SMALL;

  private static final int LARGEST_RANK = 256;

  /** Ranks that every SAE of an experiment is adapted with; the paper's, as far as they fit. */
  List<Integer> ranks(int hidden) {
    List<Integer> ranks =
        switch (this) {
          case FULL -> List.of(1, 4, 16, 64, LARGEST_RANK);
          case MEDIUM -> List.of(1, 16);
          case SMALL -> List.of(16);
        };
    return fitting(ranks, hidden);
  }

  /** Ranks of the experiment about ranks. */
  List<Integer> manyRanks(int hidden) {
    List<Integer> ranks =
        switch (this) {
          case FULL -> List.of(1, 2, 4, 8, 16, 32, 64, LARGEST_RANK);
          case MEDIUM -> List.of(1, 4, 16, 64);
          case SMALL -> List.of(1, 16, 64);
        };
    return fitting(ranks, hidden);
  }

  /** An update of more than half of the width is low-rank in name only. */
  private static List<Integer> fitting(List<Integer> ranks, int hidden) {
    return ranks.stream().filter(rank -> rank == 1 || rank <= hidden / 2).toList();
  }

  /** What a size is multiplied with, around the one that other experiments use. */
  List<Double> factors() {
    return this == SMALL ? List.of(0.25, 1.0, 4.0) : List.of(0.25, 0.5, 1.0, 2.0, 4.0);
  }

  /** Depths of SAEs, as shares of the model. */
  List<Double> depths() {
    return this == SMALL ? List.of(0.2, 0.5, 0.8) : List.of(0.2, 0.35, 0.5, 0.65, 0.8);
  }

  /** Shares of the SAE's training after which adapters are trained, in percent. */
  List<Integer> forks() {
    return switch (this) {
      case FULL -> IntStream.rangeClosed(1, 10).map(i -> 10 * i).boxed().toList();
      case MEDIUM -> List.of(20, 40, 60, 80, 100);
      case SMALL -> List.of(20, 60, 100);
    };
  }

  /** Measurements of an SAE while it is trained; every fork is one of them. */
  int snapshots() {
    return this == FULL ? 10 : 5;
  }

  /** At most so many of {@code all}, evenly spread, the ends among them. */
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

  /** SAEs in one model at most. */
  int mostSaes() {
    return switch (this) {
      case FULL -> 8;
      case MEDIUM -> 4;
      case SMALL -> 2;
    };
  }
}
