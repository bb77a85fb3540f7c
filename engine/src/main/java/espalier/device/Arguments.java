package espalier.device;

import java.lang.foreign.MemorySegment;

/**
 * Checks of kernel arguments before a downcall: native code trusts sizes, and memory it runs past
 * is gone. Nothing is allocated unless a check fails.
 */
final class Arguments {

  private Arguments() {}

  /** A number of rows or elements: 0 or more. */
  static void size(String kernel, String argument, long given) {
    if (given < 0) throw bad(kernel, argument, "at least 0", given);
  }

  /** A dimension: 1 or more. */
  static void positive(String kernel, String argument, long given) {
    if (given < 1) throw bad(kernel, argument, "at least 1", given);
  }

  static void floats(String kernel, String argument, MemorySegment given, long count) {
    bytes(kernel, argument, given, count, Float.BYTES);
  }

  static void floats(String kernel, String argument, MemorySegment given, long rows, long cols) {
    bytes(kernel, argument, given, Math.multiplyExact(rows, cols), Float.BYTES);
  }

  static void floatsOrNull(String kernel, String argument, MemorySegment given, long count) {
    if (isGiven(given)) floats(kernel, argument, given, count);
  }

  static void floatsOrNull(
      String kernel, String argument, MemorySegment given, long rows, long cols) {
    if (isGiven(given)) floats(kernel, argument, given, rows, cols);
  }

  static void ints(String kernel, String argument, MemorySegment given, long count) {
    bytes(kernel, argument, given, count, Integer.BYTES);
  }

  static void ints(String kernel, String argument, MemorySegment given, long rows, long cols) {
    bytes(kernel, argument, given, Math.multiplyExact(rows, cols), Integer.BYTES);
  }

  static void flagsOrNull(String kernel, String argument, MemorySegment given, long count) {
    if (isGiven(given)) bytes(kernel, argument, given, count, 1);
  }

  /** Rows {@code ld} elements apart; what follows the last row's columns need not exist. */
  static void matrix(
      String kernel,
      String argument,
      MemorySegment given,
      long rows,
      long cols,
      long ld,
      int size) {
    if (ld < cols) {
      throw new IllegalArgumentException(
          kernel + ": rows of " + argument + " need " + cols + " elements, ld is " + ld);
    }
    long count = rows == 0 || cols == 0 ? 0 : Math.addExact(Math.multiplyExact(rows - 1, ld), cols);
    bytes(kernel, argument, given, count, size);
  }

  static void bytes(String kernel, String argument, MemorySegment given, long count, int size) {
    long needed = Math.multiplyExact(count, (long) size);
    if (!given.isNative()) {
      throw new IllegalArgumentException(
          kernel + ": " + argument + " must be native memory, given a Java array");
    }
    if (given.byteSize() < needed) {
      throw bad(kernel, argument, needed + " bytes", given.byteSize());
    }
  }

  /** What depends on another argument: both are given, or neither. */
  static void together(String kernel, String arguments, MemorySegment one, MemorySegment other) {
    if (isGiven(one) != isGiven(other)) {
      throw new IllegalArgumentException(
          kernel + ": " + arguments + " must be given together or not at all");
    }
  }

  static boolean isGiven(MemorySegment segment) {
    return segment.address() != 0;
  }

  private static IllegalArgumentException bad(
      String kernel, String argument, String needed, long given) {
    return new IllegalArgumentException(
        kernel + ": " + argument + " needs " + needed + ", given " + given);
  }
}
