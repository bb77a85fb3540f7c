package espalier.format;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.NoSuchElementException;

/**
 * Reads the pickles of state dictionaries that torch.save writes, and runs nothing. It knows the
 * opcodes that make numbers, strings, tuples, lists and dictionaries, and only those callables that
 * stand for a tensor. Everything else is refused by name.
 *
 * <p>A pickle is a program for a stack machine (Python's pickletools documents each opcode). What
 * it makes here is no larger than the pickle itself.
 */
final class Pickle {

  private static final long LARGEST = 16 << 20;

  /** A named object of Python, which is never called. */
  private record Global(String name) {}

  private record Mark() {}

  /**
   * A storage, whose bytes are in a file of its own.
   *
   * @param type such as {@code FloatStorage}
   */
  record Storage(String type, String key, long elements) {}

  /** A view of a storage. Offset and strides are in elements. */
  record Tensor(Storage storage, long offset, long[] shape, long[] strides) {}

  private static final Object NONE = new Object();

  private final Path file;
  private final MemorySegment code;
  private final List<Object> stack = new ArrayList<>();
  private final Map<Long, Object> memo = new HashMap<>();
  private long at;

  private Pickle(Path file, MemorySegment code) {
    this.file = file;
    this.code = code;
  }

  /**
   * Returns what the pickle makes: a dictionary of {@link Tensor}, Long, Double, Boolean or String.
   */
  static Map<?, ?> read(Path file, MemorySegment code) {
    if (code.byteSize() > LARGEST) {
      throw new InputException(file, "its pickle is larger than that of any state dictionary");
    }
    try {
      Object result = new Pickle(file, code).run();
      if (result instanceof Map<?, ?> map) {
        return map;
      }
    } catch (IndexOutOfBoundsException
        | ClassCastException
        | ArithmeticException
        | NoSuchElementException e) {
      throw new InputException(file, "its pickle is damaged");
    }
    throw new InputException(file, "its pickle holds no dictionary of tensors");
  }

  private Object run() {
    while (true) {
      int opcode = u8();
      switch (opcode) {
        case 0x80 -> u8(); // PROTO
        case 0x95 -> skip(8); // FRAME
        case '(' -> stack.add(new Mark());
        case '}' -> stack.add(new LinkedHashMap<>());
        case ']' -> stack.add(new ArrayList<>());
        case ')' -> stack.add(new ArrayList<>());
        case 't' -> stack.add(toMark());
        case 0x85, 0x86, 0x87 -> stack.add(pop(opcode - 0x84)); // TUPLE1 to TUPLE3
        case 'N' -> stack.add(NONE);
        case 0x88 -> stack.add(true);
        case 0x89 -> stack.add(false);
        case 'J' -> stack.add((long) i32());
        case 'K' -> stack.add((long) u8());
        case 'M' -> stack.add((long) (u8() | u8() << 8));
        case 0x8a -> stack.add(bigInteger(u8())); // LONG1
        case 'G' -> stack.add(float64());
        case 'X' -> stack.add(text(Integer.toUnsignedLong(i32())));
        case 0x8c -> stack.add(text(u8())); // SHORT_BINUNICODE
        case 'c' -> stack.add(new Global(line() + "." + line()));
        case 0x93 -> { // STACK_GLOBAL
          List<Object> names = pop(2);
          stack.add(new Global((String) names.get(0) + "." + (String) names.get(1)));
        }
        case 'q' -> memo.put((long) u8(), top());
        case 'r' -> memo.put(Integer.toUnsignedLong(i32()), top());
        case 0x94 -> memo.put((long) memo.size(), top()); // MEMOIZE
        case 'h' -> stack.add(remembered(u8()));
        case 'j' -> stack.add(remembered(Integer.toUnsignedLong(i32())));
        case 'Q' -> stack.add(storage((List<?>) pop()));
        case 'R' -> {
          List<Object> call = pop(2);
          stack.add(called((Global) call.get(0), (List<?>) call.get(1)));
        }
        case 'b' -> build();
        case 's' -> {
          List<Object> item = pop(2);
          set(item);
        }
        case 'u' -> set(toMark());
        case 'a' -> {
          Object item = pop();
          list(top()).add(item);
        }
        case 'e' -> {
          List<Object> items = toMark();
          list(top()).addAll(items);
        }
        case '.' -> {
          return pop();
        }
        default ->
            throw new InputException(
                file,
                "its pickle uses opcode 0x%02x, which no state dictionary needs".formatted(opcode));
      }
    }
  }

  /** What a call would build. These are the only calls that are known, and none of them is made. */
  private Object called(Global callable, List<?> arguments) {
    return switch (callable.name) {
      case "collections.OrderedDict" -> {
        if (!arguments.isEmpty()) {
          throw new InputException(file, "its pickle fills an OrderedDict when making it");
        }
        yield new LinkedHashMap<>();
      }
      case "torch._utils._rebuild_tensor_v2" ->
          new Tensor(
              (Storage) arguments.get(0),
              (Long) arguments.get(1),
              longs((List<?>) arguments.get(2)),
              longs((List<?>) arguments.get(3)));
      case "torch._utils._rebuild_parameter" -> (Tensor) arguments.get(0);
      default ->
          throw new InputException(
              file, "its pickle calls " + callable.name + ", which is not allowed");
    };
  }

  private Storage storage(List<?> id) {
    if (id.size() != 5 || !id.get(0).equals("storage")) {
      throw new InputException(file, "its pickle refers to something that is no storage");
    }
    String type = ((Global) id.get(1)).name;
    if (!type.startsWith("torch.")) {
      throw new InputException(file, "its pickle refers to " + type + ", which is no storage");
    }
    return new Storage(type.substring("torch.".length()), (String) id.get(2), (Long) id.get(4));
  }

  /**
   * Skips attributes of the state dictionary's object, such as _metadata: they say nothing about
   * values.
   */
  private void build() {
    pop();
    if (!(top() instanceof Map)) {
      throw new InputException(file, "its pickle gives a state to an object of its own");
    }
  }

  private void set(List<Object> items) {
    @SuppressWarnings("unchecked")
    Map<Object, Object> map = (Map<Object, Object>) top();
    for (int i = 0; i < items.size(); i += 2) {
      if (!(items.get(i) instanceof String || items.get(i) instanceof Long)) {
        throw new InputException(file, "its pickle has a key that is neither text nor a number");
      }
      if (map.put(items.get(i), items.get(i + 1)) != null) {
        throw new InputException(file, "key " + items.get(i) + " appears twice");
      }
    }
  }

  private static long[] longs(List<?> values) {
    return values.stream().mapToLong(value -> (Long) value).toArray();
  }

  @SuppressWarnings("unchecked")
  private static List<Object> list(Object object) {
    return (List<Object>) object;
  }

  private Object remembered(long index) {
    if (!memo.containsKey(index)) {
      throw new InputException(file, "its pickle is damaged");
    }
    return memo.get(index);
  }

  private Object top() {
    return stack.getLast();
  }

  private Object pop() {
    if (stack.isEmpty()) {
      throw new IndexOutOfBoundsException();
    }
    return stack.removeLast();
  }

  private List<Object> pop(int count) {
    List<Object> items = new ArrayList<>(stack.subList(stack.size() - count, stack.size()));
    stack.subList(stack.size() - count, stack.size()).clear();
    return items;
  }

  private List<Object> toMark() {
    int mark = stack.size() - 1;
    while (mark >= 0 && !(stack.get(mark) instanceof Mark)) {
      mark--;
    }
    List<Object> items = pop(stack.size() - 1 - mark);
    pop();
    return items;
  }

  private int u8() {
    return Byte.toUnsignedInt(code.get(ValueLayout.JAVA_BYTE, at++));
  }

  private int i32() {
    at += Integer.BYTES;
    return code.get(
        ValueLayout.JAVA_INT_UNALIGNED.withOrder(ByteOrder.LITTLE_ENDIAN), at - Integer.BYTES);
  }

  private double float64() {
    at += Double.BYTES;
    return code.get(
        ValueLayout.JAVA_DOUBLE_UNALIGNED.withOrder(ByteOrder.BIG_ENDIAN), at - Double.BYTES);
  }

  /** An integer of any size, in two's complement with the lowest byte first. */
  private long bigInteger(int bytes) {
    if (bytes > Long.BYTES) {
      throw new InputException(file, "its pickle holds a number beyond 64 bits");
    }
    long value = 0;
    for (int i = 0; i < bytes; i++) {
      value |= (long) u8() << 8 * i;
    }
    int unused = 64 - 8 * bytes;
    return bytes == 0 ? 0 : value << unused >> unused;
  }

  private void skip(long bytes) {
    at = Math.addExact(at, bytes);
  }

  private String text(long length) {
    skip(length);
    return new String(
        code.asSlice(at - length, length).toArray(ValueLayout.JAVA_BYTE), StandardCharsets.UTF_8);
  }

  private String line() {
    long from = at;
    while (u8() != '\n') {}
    return new String(
        code.asSlice(from, at - 1 - from).toArray(ValueLayout.JAVA_BYTE), StandardCharsets.UTF_8);
  }
}
