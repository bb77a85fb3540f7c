package espalier.recipe;

import espalier.data.RowOrder;

/** In what order a run takes the rows of its data. */
public enum RowOrdering {
  SHUFFLED,
  SEQUENTIAL;

  RowOrder over(int rows, long seed) {
    return this == SHUFFLED ? RowOrder.shuffled(rows, seed) : RowOrder.sequential(rows);
  }
}
