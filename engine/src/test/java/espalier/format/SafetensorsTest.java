package espalier.format;

import static espalier.Refused.assertRefused;
import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import espalier.tensor.Tensor;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.ValueLayout;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;

class SafetensorsTest {

  /** As {@code make_format_fixtures.py} writes it with the reference library. */
  private static final Path EVERY_TYPE = Path.of("src/test/resources/format/types.safetensors");

  @TempDir Path folder;

  @ParameterizedTest
  @EnumSource(
      value = DType.class,
      names = {"F64", "F32", "F16", "BF16"})
  void readsTheReferenceLibrarysReals(DType type) {
    try (Safetensors file = Safetensors.open(EVERY_TYPE)) {
      TensorEntry entry = file.tensor(type.name(), 2, 3);
      assertEquals(type, entry.dtype());
      double[] values = IntStream.range(0, 6).mapToDouble(entry::value).toArray();
      assertArrayEquals(new double[] {-1.5, 0.25, 3, -0.0, 1024, -0x1p-10}, values);
    }
  }

  @ParameterizedTest
  @EnumSource(
      value = DType.class,
      names = {"I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8"})
  void readsTheReferenceLibrarysIntegers(DType type) {
    try (Safetensors file = Safetensors.open(EVERY_TYPE)) {
      TensorEntry entry = file.tensor(type.name());
      assertArrayEquals(new long[] {2, 3}, entry.shape());
      assertEquals(6L * type.bytes(), entry.data().byteSize());
      byte[] bytes = entry.data().toArray(ValueLayout.JAVA_BYTE);
      int[] expected = {0, 1, 2, 40, 100, 127};
      for (int i = 0; i < expected.length; i++) {
        for (int b = 0; b < type.bytes(); b++) {
          assertEquals(b == 0 ? expected[i] : 0, bytes[i * type.bytes() + b]);
        }
      }
    }
  }

  @Test
  void readsScalarsEmptyTensorsAndMetadata() {
    try (Safetensors file = Safetensors.open(EVERY_TYPE)) {
      assertEquals(0.5, file.tensor("scalar", new long[0]).value(0));
      assertEquals(0, file.tensor("empty", 0, 3).size());
      assertEquals(7, file.tensor("näme.with.dots", 1).value(0));
      assertEquals(3, file.tensor("BOOL").data().byteSize());
      assertEquals(Map.of("format", "pt", "note", "every type"), file.metadata());
      assertEquals(16, file.tensors().size());
    }
  }

  @Test
  void refusesWhatIsMissingOrOfAnotherShapeOrType() {
    try (Safetensors file = Safetensors.open(EVERY_TYPE)) {
      assertRefused(EVERY_TYPE, () -> file.tensor("W_enc"), "tensor W_enc is missing");
      assertRefused(
          EVERY_TYPE, () -> file.tensor("F32", 3, 2), "tensor F32", "[2, 3]", "expected [3, 2]");
      assertRefused(EVERY_TYPE, () -> file.tensor("F32", 6), "[2, 3]", "[6]");
      assertRefused(EVERY_TYPE, () -> file.tensor("I32", 2, 3), "tensor I32 has dtype I32");
    }
  }

  @Test
  void writesWhatItReadsInTheReferenceLibrarysOrder() throws IOException {
    Path file = folder.resolve("weights.safetensors");
    float[] matrix = {1, -2, 3.5f, Float.MIN_VALUE, Float.NaN, Float.NEGATIVE_INFINITY};
    float[] vector = {0.1f};
    Safetensors.write(
        file,
        List.of(
            Safetensors.Output.vector("z", tensor(1, 1, vector)),
            Safetensors.Output.matrix("a.weight", tensor(2, 3, matrix)),
            new Safetensors.Output("a", tensor(1, 1, vector))),
        Map.of("format", "pt"));
    try (Safetensors read = Safetensors.open(file)) {
      assertEquals(List.of("a", "a.weight", "z"), List.copyOf(read.tensors().keySet()));
      assertArrayEquals(
          matrix, read.tensor("a.weight", 2, 3).data().toArray(ValueLayout.JAVA_FLOAT_UNALIGNED));
      assertEquals(0.1f, read.tensor("z", 1).value(0));
      assertEquals(0.1f, read.tensor("a", new long[0]).value(0));
      assertEquals(Map.of("format", "pt"), read.metadata());
    }
    ByteBuffer bytes = ByteBuffer.wrap(Files.readAllBytes(file)).order(ByteOrder.LITTLE_ENDIAN);
    assertEquals(0, bytes.getLong() % 8, "data must be aligned");
  }

  @Test
  void writesTheSameBytesWhateverTheOrderOfTheMetadata() throws IOException {
    List<Safetensors.Output> outputs =
        List.of(Safetensors.Output.vector("a", tensor(1, 1, new float[1])));
    Map<String, String> kindFirst = new LinkedHashMap<>();
    kindFirst.put("kind", "mlp");
    kindFirst.put("format", "pt");
    Map<String, String> formatFirst = new LinkedHashMap<>();
    formatFirst.put("format", "pt");
    formatFirst.put("kind", "mlp");
    Safetensors.write(folder.resolve("one"), outputs, kindFirst);
    Safetensors.write(folder.resolve("other"), outputs, formatFirst);
    assertEquals(-1, Files.mismatch(folder.resolve("one"), folder.resolve("other")));
  }

  @Test
  void writesNoNameTwice() {
    Safetensors.Output output = Safetensors.Output.vector("a", tensor(1, 1, new float[1]));
    assertThrows(
        IllegalArgumentException.class,
        () -> Safetensors.write(folder.resolve("f"), List.of(output, output), Map.of()));
    assertTrue(Files.notExists(folder.resolve("f")));
  }

  /** Headers in short: N stands for {@code "dtype":"F32","shape":[2],"data_offsets":}. */
  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      quoteCharacter = '`',
      textBlock =
          """
          {"a":{N[0,8]},"b":{N[4,12]}}                             | 12 | tensors a and b overlap
          {"a":{N[0,8]},"b":{N[0,8]}}                              |  8 | overlap
          {"a":{N[0,8]},"b":{N[12,20]}}                            | 20 | unused bytes before tensor b
          {"a":{N[0,8]}}                                           | 12 | 12 bytes of data, its tensors have 8
          {}                                                       |  4 | 4 bytes of data
          {"a":{N[4,12]}}                                          | 12 | unused bytes before tensor a
          {"a":{N[0,8]}}                                           |  7 | cut off: tensor a ends at byte 8 of 7
          {"a":{N[0,9223372036854775807]}}                         |  8 | cut off: tensor a
          {"a":{N[0,9223372036854775808]}}                         |  8 | tensor a has an invalid data_offsets
          {"a":{N[-8,0]}}                                          |  8 | tensor a has an invalid data_offsets
          {"a":{N[8,0]}}                                           |  8 | tensor a has no valid data_offsets
          {"a":{N[0,8,8]}}                                         |  8 | tensor a has no valid data_offsets
          {"a":{N"0"}}                                             |  8 | tensor a has no data_offsets
          {"a":{"dtype":"F32","shape":[2]}}                        |  8 | tensor a has no data_offsets
          {"a":{"dtype":"F32","data_offsets":[0,8]}}               |  8 | tensor a has no shape
          {"a":{"shape":[2],"data_offsets":[0,8]}}                 |  8 | a.dtype is missing
          {"a":{"dtype":"F33","shape":[2],"data_offsets":[0,8]}}   |  8 | tensor a has unknown dtype F33
          {"a":{"dtype":32,"shape":[2],"data_offsets":[0,8]}}      |  8 | a.dtype is not a string
          {"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}   |  8 | tensor a needs 12 bytes
          {"a":{"dtype":"F64","shape":[2],"data_offsets":[0,8]}}   |  8 | tensor a needs 16 bytes
          {"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}  |  8 | tensor a has an invalid shape
          {"a":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}} |  8 | tensor a has an invalid shape
          {"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}} | 0 | impossible shape
          {"a":{N[0,8]},"a":{N[0,8]}}                              |  8 | key a appears twice
          {"a\\n\\u001b":null}                                      |  8 | a?? is null
          {"a":null}                                               |  8 | a is null
          {"a":[1]}                                                |  8 | a is not an object
          {"__metadata__":{"step":1}}                              |  0 | __metadata__.step is not a string
          {"a":{N[0,8]}} {}                                        |  8 | not valid JSON
          {"a":{N[0,8]}                                            |  8 | not valid JSON
          [1]                                                      |  0 | its header is no JSON object
          """)
  void refusesImpossibleHeaders(String header, int dataBytes, String fault) throws IOException {
    String json = header.replace("N", "\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":");
    Path file = write(json.getBytes(StandardCharsets.UTF_8), json.length(), dataBytes);
    assertRefused(file, () -> Safetensors.open(file), fault);
  }

  @Test
  void refusesHeadersThatDoNotFit() throws IOException {
    byte[] header = "{}".getBytes(StandardCharsets.UTF_8);
    for (long claimed : new long[] {3, 99_999_999}) {
      Path file = write(header, claimed, 0);
      assertRefused(
          file, () -> Safetensors.open(file), "cut off: a header of " + claimed, "in a file of 10");
    }
    for (long claimed : new long[] {0, -1, Long.MIN_VALUE, Long.MAX_VALUE, 100_000_001}) {
      Path file = write(header, claimed, 0);
      assertRefused(file, () -> Safetensors.open(file), "no safetensors file", "" + claimed);
    }
    Path file = write(new byte[] {'{', '"', (byte) 0xFF, '"', '}'}, 5, 0);
    assertRefused(file, () -> Safetensors.open(file), "not UTF-8");
  }

  @Test
  void refusesFilesThatAreCutOffAnywhere() throws IOException {
    byte[] whole = Files.readAllBytes(EVERY_TYPE);
    Path file = folder.resolve("cut.safetensors");
    for (int length = 0; length < whole.length; length += 13) {
      Files.write(file, Arrays.copyOf(whole, length));
      assertRefused(file, () -> Safetensors.open(file), "cut off");
    }
  }

  @Test
  void refusesWhatIsNoFile() {
    Path missing = folder.resolve("missing");
    assertRefused(missing, () -> Safetensors.open(missing), "no such file");
    assertRefused(folder, () -> Safetensors.open(folder), "no such file");
  }

  private Path write(byte[] header, long claimedLength, int dataBytes) throws IOException {
    ByteBuffer bytes =
        ByteBuffer.allocate(Long.BYTES + header.length + dataBytes)
            .order(ByteOrder.LITTLE_ENDIAN)
            .putLong(claimedLength)
            .put(header);
    return Files.write(folder.resolve("bad.safetensors"), bytes.array());
  }

  private static Tensor tensor(long rows, long cols, float[] values) {
    Tensor tensor =
        Tensor.of(Arena.ofAuto().allocate(ValueLayout.JAVA_FLOAT, rows * cols), rows, cols);
    tensor.copyFrom(values);
    return tensor;
  }
}
