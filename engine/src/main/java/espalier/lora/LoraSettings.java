package espalier.lora;

import java.util.Set;
import java.util.SortedSet;

/**
 * Which layers are adapted, and how.
 *
 * @param rank inner dimension of each update
 * @param alpha the update is scaled by alpha / rank
 * @param dropout in [0, 1), of the update's input
 * @param targets names of linear layers within a block, such as {@code q_proj}
 * @param layers blocks, counted from 0
 */
public record LoraSettings(
    int rank, double alpha, double dropout, Set<String> targets, SortedSet<Integer> layers) {

  public double scale() {
    return alpha / rank;
  }
}
