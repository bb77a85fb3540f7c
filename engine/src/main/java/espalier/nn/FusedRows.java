package espalier.nn;

import espalier.device.Transfer;
import espalier.tensor.Tensor;

/**
 * Rows of a fused query, key and value projection that files group by head: the query of head 0,
 * its key, its value, then head 1. The engine holds all queries, then all keys, then all values.
 */
public record FusedRows(long heads, long headDim) {

  /** Where files have the engine's row {@code row}. */
  long stored(long row) {
    long part = row / (heads * headDim);
    long head = row / headDim % heads;
    return (3 * head + part) * headDim + row % headDim;
  }

  /** From the order of files to the engine's. */
  public void fromFile(Tensor stored, Tensor held) {
    for (long row = 0; row < held.rows(); row++) {
      copyRow(stored, stored(row), held, row);
    }
  }

  /** From the engine's order to that of files. */
  public void toFile(Tensor held, Tensor stored) {
    for (long row = 0; row < held.rows(); row++) {
      copyRow(held, row, stored, stored(row));
    }
  }

  private static void copyRow(Tensor from, long fromRow, Tensor to, long toRow) {
    Transfer.copy(from.rows(fromRow, 1).bytes(), to.rows(toRow, 1).bytes());
  }
}
