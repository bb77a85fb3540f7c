package espalier.recipe;

import espalier.data.RowOrder;
import espalier.data.TokenRows;
import espalier.model.TokenBatch;

/** Which rows of a data set make up which batch of a run: a pure function of the batch's number. */
final class BatchSource {

  private final TokenRows rows;
  private final RowOrder order;
  private final int[] row;

  BatchSource(TokenRows rows, RowOrder order) {
    this.rows = rows;
    this.order = order;
    row = new int[rows.context()];
  }

  /** Batch {@code index} of the run, passing over the data as often as needed. */
  void load(long index, TokenBatch batch) {
    prepare(index, batch, 0);
    batch.upload(0);
  }

  /** Which rows batch {@code index} is made of. */
  int[] rows(long index, int batch) {
    int[] numbers = new int[batch];
    for (int i = 0; i < batch; i++) {
      numbers[i] = order.at(index * batch + i);
    }
    return numbers;
  }

  /** The same, but only into a slot of the host's. */
  void prepare(long index, TokenBatch batch, int slot) {
    for (int i = 0; i < batch.batch(); i++) {
      rows.copyRow(order.at(index * batch.batch() + i), row);
      batch.prepare(slot, i, row);
    }
  }
}
