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
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.zip.CRC32;
import java.util.zip.ZipEntry;
import java.util.zip.ZipOutputStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** Files of torch.save, their pickles written by hand. */
class TorchFileTest {

  @TempDir Path folder;

  private final Map<String, byte[]> members = new LinkedHashMap<>();

  /** The opcodes that put one tensor of six floats into the dictionary that is being made. */
  private static String tensor(String name, String shape, String strides) {
    return "X"
        + length(name)
        + name
        + "ctorch._utils\n_rebuild_tensor_v2\n((X"
        + length("storage")
        + "storagectorch\n"
        + "FloatStorage\nX"
        + length("0")
        + "0X"
        + length("cpu")
        + "cpuK\u0006tQK\u0000"
        + shape
        + strides
        + "\u0089ccollections\nOrderedDict\n)RtR";
  }

  private static String length(String text) {
    return (char) text.length() + "\0\0\0";
  }

  private static String dictionary(String items) {
    return "\u0080\u0002}(" + items + "u.";
  }

  private Path write(String pickle) throws IOException {
    members.put("ae/data.pkl", pickle.getBytes(StandardCharsets.ISO_8859_1));
    ByteBuffer floats = ByteBuffer.allocate(24).order(ByteOrder.LITTLE_ENDIAN);
    for (int i = 0; i < 6; i++) {
      floats.putFloat(i + 1);
    }
    members.putIfAbsent("ae/data/0", floats.array());
    ByteArrayOutputStream bytes = new ByteArrayOutputStream();
    try (ZipOutputStream zip = new ZipOutputStream(bytes)) {
      for (Map.Entry<String, byte[]> member : members.entrySet()) {
        ZipEntry entry = new ZipEntry(member.getKey());
        CRC32 crc = new CRC32();
        crc.update(member.getValue());
        entry.setMethod(ZipEntry.STORED);
        entry.setSize(member.getValue().length);
        entry.setCrc(crc.getValue());
        zip.putNextEntry(entry);
        zip.write(member.getValue());
      }
    }
    return Files.write(folder.resolve("ae.pt"), bytes.toByteArray());
  }

  @Test
  void readsTensorsByRowsAndByColumns() throws IOException {
    String rows = tensor("rows", "K\u0002K\u0003\u0086", "K\u0003K\u0001\u0086");
    String columns = tensor("columns", "K\u0002K\u0003\u0086", "K\u0001K\u0002\u0086");
    String scalar = tensor("scalar", ")", ")");
    try (TensorFile file = TorchFile.open(write(dictionary(rows + columns + scalar)))) {
      assertEquals(3, file.tensors().size());
      assertArrayEquals(new long[] {2, 3}, file.tensor("rows").shape());
      assertFalse(file.tensor("rows").columnMajor());
      assertTrue(file.tensor("columns").columnMajor());
      assertEquals(6, file.tensor("rows", 2, 3).value(5));
      assertEquals(1, file.tensor("scalar", new long[0]).value(0));
    }
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      quoteCharacter = '`',
      textBlock =
          """
          K\\u0002K\\u0004\\u0086 | K\\u0004K\\u0001\\u0086 | tensor w: [2, 4] does not fit its storage
          K\\u0002K\\u0002\\u0086 | K\\u0003K\\u0001\\u0086 | has strides [3, 1]
          K\\u0006\\u0085         | K\\u0002\\u0085         | has strides [2]
          K\\u0006\\u0085         | )                       | has strides []
          J\\u00ff\\u00ff\\u00ff\\u00ff\\u0085 | K\\u0001\\u0085 | does not fit its storage
          """)
  void refusesTensorsOutsideTheirStorage(String shape, String strides, String fault)
      throws IOException {
    Path file = write(dictionary(tensor("w", unescaped(shape), unescaped(strides))));
    assertRefused(file, () -> TorchFile.open(file), fault);
  }

  /** Bytes as \\uXXXX, which a text block cannot hold themselves. */
  private static String unescaped(String text) {
    return Pattern.compile("\\\\u([0-9a-f]{4})")
        .matcher(text)
        .replaceAll(
            match ->
                Matcher.quoteReplacement(
                    String.valueOf((char) Integer.parseInt(match.group(1), 16))));
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      textBlock =
          """
          cos\\u000asystem\\u000a(X\\u0004\\u0000\\u0000\\u0000exittR. | its pickle calls os.system, which is not allowed
          cbuiltins\\u000aeval\\u000a)R.      | its pickle calls builtins.eval
          ctorch\\u000aFloatStorage\\u000a.   | holds no dictionary
          ]K\\u0001a.                         | holds no dictionary
          i.                                  | opcode 0x69
          o.                                  | opcode 0x6f
          }h\\u0005.                          | its pickle is damaged
          s.                                  | its pickle is damaged
          t.                                  | its pickle is damaged
          q\\u0000.                           | its pickle is damaged
          }(K                                 | its pickle is damaged
          X\\u00ff\\u00ff\\u00ff\\u00ff       | its pickle is damaged
          }(X\\u0001\\u0000\\u0000\\u0000aK\\u0001X\\u0001\\u0000\\u0000\\u0000aK\\u0002u. | key a appears twice
          }(NK\\u0001u.                       | a key that is neither text nor a number
          }(X\\u0001\\u0000\\u0000\\u0000a]u. | key a is no tensor
          X\\u0001\\u0000\\u0000\\u0000a}b.   | a state to an object of its own
          ccollections\\u000aOrderedDict\\u000a]\\u0085R. | fills an OrderedDict
          """)
  void runsNothing(String pickle, String fault) throws IOException {
    Path file = write("\u0080\u0002" + unescaped(pickle));
    assertRefused(file, () -> TorchFile.open(file), fault);
  }

  @Test
  void refusesWhatIsNoFileOfTorchSave() throws IOException {
    Path file = folder.resolve("ae.pt");
    Files.writeString(file, "no zip at all, but long enough to look for an end");
    assertRefused(file, () -> TorchFile.open(file), "no zip file");
    Files.write(file, new byte[] {'P', 'K'});
    assertRefused(file, () -> TorchFile.open(file), "no zip file");
    members.put("ae/byteorder", "big".getBytes(StandardCharsets.UTF_8));
    Path big = write(dictionary(""));
    assertRefused(big, () -> TorchFile.open(big), "is big-endian");
  }
}
