package espalier.kernels;

/**
 * What a reference in double precision keeps its tensors in. Each is a plain chain of operations
 * that stores every tensor between two of them, as PyTorch does: exactly, or in bfloat16.
 */
enum Storage {
  EXACT,
  BFLOAT16;

  /** The value as it is read back. */
  double keep(double value) {
    return this == EXACT ? value : Bfloat16.round(value);
  }
}
