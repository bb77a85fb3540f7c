package espalier.format;

import static espalier.Refused.assertRefused;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import espalier.Abroad;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

class NpyTest {

  @Test
  void isWrittenAlikeEverywhere() throws Exception {
    Path file = folder.resolve("x.npy");
    Abroad.run(() -> Npy.write(file, 2, 1, new float[][] {{1}, {2}}));
    Npy array = Npy.open(file);
    assertEquals(2, array.rows());
    assertEquals(2, array.real(1, 0));
  }

  /** As {@code make_format_fixtures.py} writes them with NumPy. */
  private static final Path FIXTURES = Path.of("src/test/resources/format");

  @TempDir Path folder;

  @ParameterizedTest
  @ValueSource(
      strings = {
        "i1",
        "u1",
        "i2",
        "u2",
        "i4",
        "u4",
        "i8",
        "u8",
        "big-i2",
        "big-u4",
        "big-i8",
        "columns",
        "version2",
        "version3"
      })
  void readsNumPysIntegers(String name) {
    Npy array = Npy.open(FIXTURES.resolve(name + ".npy"));
    assertTrue(array.isInteger());
    assertEquals(2, array.rows());
    assertEquals(3, array.cols());
    long[][] expected = {{0, 1, 2}, {40, 100, 127}};
    for (int r = 0; r < 2; r++) {
      for (int c = 0; c < 3; c++) {
        assertEquals(expected[r][c], array.integer(r, c));
      }
    }
  }

  @ParameterizedTest
  @ValueSource(strings = {"f4", "f8", "big-f4"})
  void readsNumPysReals(String name) {
    Npy array = Npy.open(FIXTURES.resolve(name + ".npy"));
    float[][] expected = {{-1.5f, 0.25f, 3}, {-0.0f, 1024, -0x1p-10f}};
    for (int r = 0; r < 2; r++) {
      for (int c = 0; c < 3; c++) {
        assertEquals(expected[r][c], array.real(r, c));
      }
    }
    assertRefused(
        FIXTURES.resolve("i4.npy"),
        () -> Npy.open(FIXTURES.resolve("i4.npy")).real(0, 0),
        "holds i4, expected f2, f4 or f8");
  }

  @Test
  void keepsSigns() throws IOException {
    Path file = write("{'descr': '|i1', 'fortran_order': False, 'shape': (1, 1), }", (byte) -1);
    assertEquals(-1, Npy.open(file).integer(0, 0));
    Path unsigned = write("{'descr': '|u1', 'fortran_order': False, 'shape': (1, 1), }", (byte) -1);
    assertEquals(255, Npy.open(unsigned).integer(0, 0));
  }

  @Test
  void writesWhatItReads() {
    Path file = folder.resolve("out.npy");
    float[][] values = {{1, -2.5f}, {Float.NaN, 0}, {7, 8}};
    Npy.write(file, 3, 2, values);
    Npy read = Npy.open(file);
    assertEquals(3, read.rows());
    for (int r = 0; r < 3; r++) {
      for (int c = 0; c < 2; c++) {
        assertEquals(values[r][c], read.real(r, c));
      }
    }
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = ';',
      quoteCharacter = '`',
      textBlock =
          """
          {'descr': '<i4', 'fortran_order': False, 'shape': (2, 2), }          ; 8 bytes of data, its shape needs 16
          {'descr': '<i4', 'fortran_order': False, 'shape': (1, 1), }          ; 8 bytes of data, its shape needs 4
          {'descr': '<i4', 'fortran_order': False, 'shape': (2,), }            ; a shape
          {'descr': '<i4', 'fortran_order': False, 'shape': (1, 1, 2), }       ; a shape
          {'descr': '<i4', 'fortran_order': False, 'shape': (-1, 2), }         ; a shape
          {'descr': '<i4', 'fortran_order': False, 'shape': (9999999999999, 9999999999999), } ; an impossible shape
          {'descr': '<i4', 'fortran_order': False, }                           ; a shape
          {'descr': '<i4', 'shape': (1, 2), }                                  ; its order
          {'fortran_order': False, 'shape': (1, 2), }                          ; its type
          {'descr': [('a', '<i4')], 'fortran_order': False, 'shape': (1, 2), } ; its type
          {'descr': '<c8', 'fortran_order': False, 'shape': (1, 1), }          ; elements of type c8
          {'descr': '|b1', 'fortran_order': False, 'shape': (2, 4), }          ; elements of type b1
          {'descr': '|O', 'fortran_order': False, 'shape': (1, 1), }           ; elements of type O
          """)
  void refusesHeadersThatCannotBeUsed(String header, String fault) throws IOException {
    Path file = write(header, new byte[8]);
    assertRefused(file, () -> Npy.open(file), fault);
  }

  @Test
  void refusesFilesThatAreCutOffAnywhere() throws IOException {
    byte[] whole = Files.readAllBytes(FIXTURES.resolve("i4.npy"));
    Path file = folder.resolve("cut.npy");
    for (int length = 0; length < whole.length; length++) {
      Files.write(file, Arrays.copyOf(whole, length));
      assertRefused(file, () -> Npy.open(file));
    }
    assertRefused(file, () -> Npy.open(file), "23 bytes of data, its shape needs 24");
  }

  @Test
  void refusesWhatIsNoArray() throws IOException {
    Path missing = folder.resolve("missing.npy");
    assertRefused(missing, () -> Npy.open(missing), "no such file");
    Path text = Files.writeString(folder.resolve("text.npy"), "a text and not an array");
    assertRefused(text, () -> Npy.open(text), "no .npy file");
    byte[] future = Files.readAllBytes(FIXTURES.resolve("i4.npy"));
    future[6] = 4;
    Path file = Files.write(folder.resolve("future.npy"), future);
    assertRefused(file, () -> Npy.open(file), "version 4");
  }

  private Path write(String header, byte... data) throws IOException {
    byte[] text = header.getBytes(StandardCharsets.US_ASCII);
    ByteBuffer bytes =
        ByteBuffer.allocate(10 + text.length + data.length).order(ByteOrder.LITTLE_ENDIAN);
    bytes.put(new byte[] {(byte) 0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0});
    bytes.putShort((short) text.length).put(text).put(data);
    return Files.write(folder.resolve("array.npy"), bytes.array());
  }
}
