package espalier.format;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.zip.CRC32;
import java.util.zip.DataFormatException;
import java.util.zip.Inflater;

/**
 * The members of a mapped zip file (APPNOTE 6.3.10). Stored ones stay where they are, with any size
 * and alignment; deflated ones are unpacked into native memory. Python's libraries leave the sizes
 * out of local headers, so the central directory is used.
 */
final class ZipMembers {

  private static final int END = 0x06054b50;
  private static final int END_64 = 0x06064b50;
  private static final int LOCATOR_64 = 0x07064b50;
  private static final int CENTRAL = 0x02014b50;
  private static final int LOCAL = 0x04034b50;
  private static final long NOT_HERE = 0xFFFFFFFFL;
  private static final int LONGEST_COMMENT = 0xFFFF;

  /** Deflate can make at most 258 bytes of two bits. */
  private static final long LARGEST_RATIO = 1032;

  /**
   * Larger members are not checked: their checksum would mean to read them twice from disk, instead
   * of once at most.
   */
  private static final long CHECKED = 1L << 30;

  private static final ValueLayout.OfShort SHORT =
      ValueLayout.JAVA_SHORT_UNALIGNED.withOrder(ByteOrder.LITTLE_ENDIAN);
  private static final ValueLayout.OfInt INT =
      ValueLayout.JAVA_INT_UNALIGNED.withOrder(ByteOrder.LITTLE_ENDIAN);
  private static final ValueLayout.OfLong LONG =
      ValueLayout.JAVA_LONG_UNALIGNED.withOrder(ByteOrder.LITTLE_ENDIAN);

  private final Path file;
  private final MemorySegment all;
  private final Arena arena;
  private final Map<String, MemorySegment> members = new LinkedHashMap<>();
  private long packed;

  private ZipMembers(Path file, MemorySegment all, Arena arena) {
    this.file = file;
    this.all = all;
    this.arena = arena;
  }

  /**
   * Reads the directory.
   *
   * @param arena where deflated members are unpacked to
   */
  static Map<String, MemorySegment> read(Path file, MemorySegment all, Arena arena) {
    ZipMembers zip = new ZipMembers(file, all, arena);
    try {
      zip.readDirectory();
    } catch (IndexOutOfBoundsException | ArithmeticException e) {
      throw new InputException(file, "cut off or damaged: its zip directory points outside it");
    }
    return zip.members;
  }

  private void readDirectory() {
    long end = end();
    long count = u16(end + 10);
    long size = u32(end + 12);
    long at = u32(end + 16);
    if (count == 0xFFFF || size == NOT_HERE || at == NOT_HERE) {
      if (all.get(INT, end - 20) != LOCATOR_64) {
        throw new InputException(file, "damaged: its zip64 directory is missing");
      }
      long large = all.get(LONG, end - 12);
      if (all.get(INT, large) != END_64) {
        throw new InputException(file, "damaged: its zip64 directory is missing");
      }
      count = all.get(LONG, large + 32);
      at = all.get(LONG, large + 48);
    }
    if (count < 0 || count > all.byteSize() / 46) {
      throw new InputException(file, "damaged: " + count + " zip members");
    }
    for (long i = 0; i < count; i++) {
      at = readMember(at);
    }
  }

  private long end() {
    long size = all.byteSize();
    for (long at = size - 22; at >= Math.max(0, size - 22 - LONGEST_COMMENT); at--) {
      if (all.get(INT, at) == END && at + 22 + u16(at + 20) == size) {
        return at;
      }
    }
    throw new InputException(file, "no zip file, or cut off");
  }

  /** Returns where the next entry of the directory begins. */
  private long readMember(long at) {
    if (all.get(INT, at) != CENTRAL) {
      throw new InputException(file, "damaged: its zip directory is no directory");
    }
    int nameLength = u16(at + 28);
    int extraLength = u16(at + 30);
    String name = text(at + 46, nameLength);
    if ((u16(at + 8) & 1) != 0) {
      throw fault(name, "is encrypted");
    }
    long[] sizes = {u32(at + 24), u32(at + 20), u32(at + 42)}; // unpacked, packed, local header
    readZip64(name, at + 46 + nameLength, extraLength, sizes);
    long local = sizes[2];
    if (all.get(INT, local) != LOCAL || !text(local + 30, u16(local + 26)).equals(name)) {
      throw fault(name, "is not where the directory says");
    }
    long start = local + 30 + u16(local + 26) + u16(local + 28);
    packed = Math.addExact(packed, sizes[1]);
    if (sizes[0] < 0 || sizes[1] < 0 || packed > all.byteSize()) {
      throw fault(name, "has an impossible size");
    }
    MemorySegment data = all.asSlice(start, sizes[1]);
    if (members.put(name, unpack(name, u16(at + 10), data, sizes[0], all.get(INT, at + 16)))
        != null) {
      throw fault(name, "is there twice");
    }
    return at + 46 + nameLength + extraLength + u16(at + 32);
  }

  /**
   * Reads the sizes that need more than 32 bits. Only these are in the extra field, in this order.
   */
  private void readZip64(String name, long at, int length, long[] sizes) {
    long end = at + length;
    while (at + 4 <= end) {
      int id = u16(at);
      int bytes = u16(at + 2);
      at += 4;
      if (id == 1) {
        long field = at;
        for (int i = 0; i < sizes.length; i++) {
          if (sizes[i] == NOT_HERE) {
            if (field + 8 > at + bytes) {
              throw fault(name, "lacks its 64-bit sizes");
            }
            sizes[i] = all.get(LONG, field);
            field += 8;
          }
        }
      }
      at += bytes;
    }
  }

  private MemorySegment unpack(String name, int method, MemorySegment data, long size, int crc) {
    return switch (method) {
      case 0 -> {
        if (data.byteSize() != size) {
          throw fault(name, "has two sizes");
        }
        if (size <= CHECKED) {
          check(name, data, crc);
        }
        yield data;
      }
      case 8 -> {
        if (size > Math.multiplyExact(data.byteSize(), LARGEST_RATIO)) {
          throw fault(name, "claims more bytes than it can unpack to");
        }
        MemorySegment unpacked = arena.allocate(Math.max(size, 1), 64).asSlice(0, size);
        inflate(name, data, unpacked);
        check(name, unpacked, crc);
        yield unpacked;
      }
      default -> throw fault(name, "is packed by method " + method + ", not by deflate");
    };
  }

  private void inflate(String name, MemorySegment from, MemorySegment to) {
    Inflater inflater = new Inflater(true);
    try {
      long read = 0;
      long written = 0;
      while (!inflater.finished()) {
        if (inflater.needsInput()) {
          ByteBuffer next = piece(from, read);
          if (!next.hasRemaining()) {
            throw fault(name, "is cut off");
          }
          read += next.remaining();
          inflater.setInput(next);
        }
        ByteBuffer target = piece(to, written);
        int done = target.hasRemaining() ? inflater.inflate(target) : inflater.inflate(new byte[1]);
        written += done;
        if (written > to.byteSize() || (done == 0 && inflater.needsDictionary())) {
          throw fault(name, "unpacks to something else than the directory says");
        }
      }
      if (written != to.byteSize()) {
        throw fault(name, "unpacks to something else than the directory says");
      }
    } catch (DataFormatException e) {
      throw fault(name, "is damaged");
    } finally {
      inflater.end();
    }
  }

  private void check(String name, MemorySegment data, int expected) {
    CRC32 crc = new CRC32();
    for (long at = 0; at < data.byteSize(); at += 1 << 28) {
      crc.update(piece(data, at));
    }
    if ((int) crc.getValue() != expected) {
      throw fault(name, "is damaged: its checksum differs");
    }
  }

  private static ByteBuffer piece(MemorySegment data, long at) {
    return data.asSlice(at, Math.min(1 << 28, data.byteSize() - at)).asByteBuffer();
  }

  private String text(long at, int length) {
    return new String(
        all.asSlice(at, length).toArray(ValueLayout.JAVA_BYTE), StandardCharsets.UTF_8);
  }

  private int u16(long at) {
    return Short.toUnsignedInt(all.get(SHORT, at));
  }

  private long u32(long at) {
    return Integer.toUnsignedLong(all.get(INT, at));
  }

  private InputException fault(String member, String what) {
    return new InputException(file, "member " + member + " " + what);
  }
}
