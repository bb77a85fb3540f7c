package espalier.format;

import static espalier.Refused.assertRefused;
import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.zip.CRC32;
import java.util.zip.ZipEntry;
import java.util.zip.ZipOutputStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

class NpzTest {

  @TempDir Path folder;

  private static byte[] array(String type, String order, String shape, int bytes) {
    byte[] header =
        "{'descr': '%s', 'fortran_order': %s, 'shape': (%s), }"
            .formatted(type, order, shape)
            .getBytes(StandardCharsets.US_ASCII);
    ByteBuffer buffer =
        ByteBuffer.allocate(10 + header.length + bytes).order(ByteOrder.LITTLE_ENDIAN);
    buffer.put(new byte[] {(byte) 0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0});
    buffer.putShort((short) header.length).put(header);
    for (int i = 0; i < bytes / Float.BYTES; i++) {
      buffer.putFloat(i + 1);
    }
    return buffer.array();
  }

  private static byte[] zip(Map<String, byte[]> members, int method) throws IOException {
    ByteArrayOutputStream bytes = new ByteArrayOutputStream();
    try (ZipOutputStream zip = new ZipOutputStream(bytes)) {
      for (Map.Entry<String, byte[]> member : members.entrySet()) {
        ZipEntry entry = new ZipEntry(member.getKey());
        CRC32 crc = new CRC32();
        crc.update(member.getValue());
        entry.setMethod(method);
        entry.setSize(member.getValue().length);
        entry.setCrc(crc.getValue());
        zip.putNextEntry(entry);
        zip.write(member.getValue());
      }
    }
    return bytes.toByteArray();
  }

  private Path write(byte[] bytes) throws IOException {
    return Files.write(folder.resolve("params.npz"), bytes);
  }

  @ParameterizedTest
  @ValueSource(ints = {ZipEntry.STORED, ZipEntry.DEFLATED})
  void readsStoredAndDeflatedArrays(int method) throws IOException {
    Map<String, byte[]> members = new LinkedHashMap<>();
    members.put("a.npy", array("<f4", "False", "2, 3", 24));
    members.put("b.npy", array("<f4", "True", "2, 3", 24));
    members.put("c.npy", array("<f4", "False", "4,", 16));
    members.put("d.npy", array("<f4", "True", "", 4));
    try (TensorFile file = Npz.open(write(zip(members, method)))) {
      assertArrayEquals(new long[] {2, 3}, file.tensor("a").shape());
      assertFalse(file.tensor("a").columnMajor());
      assertTrue(file.tensor("b").columnMajor());
      assertFalse(file.tensor("d").columnMajor());
      assertEquals(6, file.tensor("a").value(5));
      assertEquals(4, file.tensor("c", 4).value(3));
      assertEquals(1, file.tensor("d", new long[0]).value(0));
    }
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      textBlock =
          """
          >f4 | 2, 3  | 24 | member a.npy is big-endian
          <c8 | 2, 3  | 48 | member a.npy: elements of type c8
          <f4 | 2, 4  | 24 | member a.npy: 24 bytes of data, its shape needs 32
          <f4 | 999999999999999999, 999999999999999999 | 24 | member a.npy: has an impossible shape
          <f4 | -1    | 24 | member a.npy: its header does not give a shape
          """)
  void refusesOtherArrays(String type, String shape, int bytes, String fault) throws IOException {
    Path file = write(zip(Map.of("a.npy", array(type, "False", shape, bytes)), ZipEntry.STORED));
    assertRefused(file, () -> Npz.open(file), fault);
  }

  @Test
  void refusesMembersThatAreNoArrays() throws IOException {
    Path file = write(zip(Map.of("a.txt", new byte[3]), ZipEntry.STORED));
    assertRefused(file, () -> Npz.open(file), "member a.txt is no array");
  }

  /**
   * Every byte of a zip file matters: cut off, or with one byte changed, it is refused or equal.
   */
  @ParameterizedTest
  @ValueSource(ints = {ZipEntry.STORED, ZipEntry.DEFLATED})
  void noDamageGoesUnnoticed(int method) throws IOException {
    byte[] whole = zip(Map.of("a.npy", array("<f4", "False", "2, 3", 24)), method);
    for (int length = 0; length < whole.length; length++) {
      Path file = write(Arrays.copyOf(whole, length));
      assertRefused(file, () -> Npz.open(file), "");
    }
    for (int i = 0; i < whole.length; i++) {
      byte[] damaged = whole.clone();
      damaged[i] ^= 0x41;
      Path file = write(damaged);
      try (TensorFile npz = Npz.open(file)) {
        assertEquals(6, npz.tensor("a", 2, 3).value(5), "byte " + i);
      } catch (InputException e) {
        assertTrue(e.getMessage().contains("params.npz"), e.getMessage());
      }
    }
  }

  /** A directory may claim what it likes: nothing is allocated for it. */
  @Test
  void aClaimOfManyBytesIsRefused() throws IOException {
    byte[] whole = zip(Map.of("a.npy", array("<f4", "False", "2, 3", 24)), ZipEntry.DEFLATED);
    ByteBuffer bytes = ByteBuffer.wrap(whole).order(ByteOrder.LITTLE_ENDIAN);
    int central = bytes.getInt(whole.length - 6);
    bytes.putInt(central + 24, 0x7FFFFFFF);
    Path file = write(whole);
    assertRefused(file, () -> Npz.open(file), "claims more bytes than it can unpack to");
    bytes.putInt(central + 24, 200);
    Path longer = write(whole);
    assertRefused(longer, () -> Npz.open(longer), "unpacks to something else");
  }

  @Test
  void refusesSaesWithoutLatents() throws IOException {
    Map<String, byte[]> members = new LinkedHashMap<>();
    members.put("W_enc.npy", array("<f4", "False", "2, 0", 0));
    members.put("W_dec.npy", array("<f4", "False", "0, 2", 0));
    members.put("b_enc.npy", array("<f4", "False", "0,", 0));
    members.put("b_dec.npy", array("<f4", "False", "2,", 8));
    members.put("threshold.npy", array("<f4", "False", "0,", 0));
    Path file = folder.resolve("params.npz");
    Files.write(file, zip(members, ZipEntry.STORED));
    assertRefused(file, () -> SaeFile.open(folder), "number of latents is 0, not in [1, 2^31)");
  }
}
