package espalier.data;

import static espalier.Refused.assertRefused;
import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.format.InputException;
import espalier.format.ModelConfig;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.OptionalInt;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class TokenRowsTest {

  private static final int BOS = ByteTokenizer.BOS;
  private static final int EOS = ByteTokenizer.EOS;

  @TempDir Path folder;

  @BeforeEach
  void writeTokenizer() {
    TokenizerTest.writeByteTokenizer(folder);
  }

  @Test
  void packsDocumentsIntoRowsThatBeginWithBos() throws IOException {
    Path first =
        Files.writeString(folder.resolve("1.jsonl"), "{\"text\":\"abcde\"}\n{\"text\":\"f\"}");
    Path second = Files.writeString(folder.resolve("2.txt"), "ghi");
    assertArrayEquals(
        new int[][] {
          {BOS, 'a', 'b', 'c'}, {BOS, 'd', 'e', EOS}, {BOS, 'f', EOS, 'g'}, {BOS, 'h', 'i', EOS}
        },
        rows(TokenRows.read(List.of(first, second), config(EOS), folder, 4)));
  }

  /** Larger than a piece: no end of text, and nothing lost, between them. */
  @Test
  void aLargeTextIsOneDocument() throws IOException {
    byte[] text = new byte[700_000];
    for (int i = 0; i < text.length; i++) {
      text[i] = (byte) (i % 7 == 0 ? ' ' : 'a' + i % 26);
    }
    Path file = Files.write(folder.resolve("a.txt"), text);
    int[][] rows = rows(TokenRows.read(List.of(file), config(EOS), folder, 51));
    assertEquals(14_000, rows.length);
    for (int i = 0; i < text.length; i++) {
      assertEquals(text[i], rows[i / 50][1 + i % 50], "byte " + i);
    }
  }

  @Test
  void dropsWhatDoesNotFillARow() throws IOException {
    Path file = Files.writeString(folder.resolve("a.txt"), "abcdef");
    assertArrayEquals(
        new int[][] {{BOS, 'a', 'b', 'c', 'd'}},
        rows(TokenRows.read(List.of(file), config(EOS), folder, 5)));
  }

  @Test
  void leavesOutBosAndEosWhereThereAreNone() throws IOException {
    Path file =
        Files.writeString(folder.resolve("a.jsonl"), "{\"text\":\"abc\"}\n{\"text\":\"d\"}");
    int[][] plain = {{'a', 'b'}, {'c', 'd'}};
    assertArrayEquals(
        plain, rows(TokenRows.read(List.of(file), config(OptionalInt.empty()), folder, 2)));
    Files.writeString(folder.resolve("tokenizer_config.json"), "{\"bos_token\": null}");
    assertArrayEquals(
        plain, rows(TokenRows.read(List.of(file), config(OptionalInt.of(BOS)), folder, 2)));
  }

  @Test
  void allRowsOrNoneBeginWithBos() throws IOException {
    Path file = Files.writeString(folder.resolve("a.txt"), "abcdef");
    assertTrue(read(file).beginWith(OptionalInt.of(BOS)));
    assertFalse(read(file).beginWith(OptionalInt.of('a')));
    assertFalse(read(file).beginWith(OptionalInt.empty()));
    Files.writeString(folder.resolve("tokenizer_config.json"), "{\"bos_token\": null}");
    assertFalse(read(file).beginWith(OptionalInt.of(BOS)));
    Path some = npy("some.npy", "<i8", new long[][] {{BOS, 1, 2}, {3, BOS, 5}});
    assertFalse(read(some).beginWith(OptionalInt.of(BOS)));
  }

  @Test
  void takesTheFirstOfSeveralEos() throws IOException {
    Path file = Files.writeString(folder.resolve("a.txt"), "a");
    assertArrayEquals(
        new int[][] {{BOS, 'a', 7}},
        rows(TokenRows.read(List.of(file), config(7, EOS), folder, 3)));
  }

  @Test
  void tokenRowsAreUsedAsTheyAreWithoutATokenizer() throws IOException {
    Path first = npy("1.npy", "<i8", new long[][] {{1, 2, 3}, {0, 257, 0}});
    Path second = npy("2.npy", "<u2", new long[][] {{9, 9, 9}});
    assertArrayEquals(
        new int[][] {{1, 2, 3}, {0, 257, 0}, {9, 9, 9}},
        rows(TokenRows.read(List.of(first, second), config(EOS), folder.resolve("none"), 512)));
  }

  @Test
  void refusesIdsOutsideTheVocabulary() throws IOException {
    for (long id : new long[] {258, -1, 1L << 32, Long.MIN_VALUE}) {
      Path file = npy("a.npy", "<i8", new long[][] {{0, 1, 2}, {3, id, 5}});
      assertRefused(file, () -> read(file), "row 1, column 1", "id " + id, "the vocabulary of 258");
    }
  }

  @Test
  void refusesTokenRowsOfTheWrongKindOrLength() throws IOException {
    Path reals = npy("reals.npy", "<f8", new long[][] {{1, 2}});
    assertRefused(reals, () -> read(reals), "holds f8, expected integer ids");
    Path none = npy("none.npy", "<i8", new long[0][]);
    assertRefused(
        none, () -> read(none), "has the shape [0, 2]; at least one row of two ids is needed");
    Path narrow = npy("narrow.npy", "<i8", new long[][] {{1}});
    assertRefused(
        narrow, () -> read(narrow), "has the shape [1, 1]; at least one row of two ids is needed");
    Path wide = npy("wide.npy", "<i8", new long[1][65]);
    assertRefused(
        wide,
        () -> read(wide),
        "rows of 65 ids are longer than the model's max_position_embeddings, 64");
    Path three = npy("three.npy", "<i8", new long[1][3]);
    Path two = npy("two.npy", "<i8", new long[1][2]);
    assertRefused(
        two,
        () -> read(three, two),
        "has rows of 2 ids, but those of",
        "have 3; all rows must have one length");
  }

  @Test
  void refusesContextsThatDoNotFit() throws IOException {
    Path file = Files.writeString(folder.resolve("a.txt"), "abc");
    assertRefused(
        Path.of("--context"),
        () -> read(65, file),
        "are longer than the model's max_position_embeddings, 64");
    assertRefused(Path.of("--context"), () -> read(1, file), "predict nothing");
    assertRefused(
        file, () -> read(64, file), "too little text: it has 5 tokens in all, but a row needs 64");
  }

  @Test
  void refusesMixedKinds() throws IOException {
    Path text = Files.writeString(folder.resolve("a.txt"), "abc");
    Path ids = npy("a.npy", "<i8", new long[1][2]);
    String message = assertThrows(InputException.class, () -> read(text, ids)).getMessage();
    assertEquals("--data: token files (.npy) and text cannot be mixed", message);
  }

  @Test
  void refusesATokenizerOfALargerVocabulary() throws IOException {
    Path file = Files.writeString(folder.resolve("a.txt"), "az");
    ModelConfig small = config('z', OptionalInt.empty(), List.of());
    assertRefused(
        folder.resolve("tokenizer.json"),
        () -> TokenRows.read(List.of(file), small, folder, 2),
        "gives id 122, but the model's vocabulary has only 122 ids");
  }

  private TokenRows read(Path... files) {
    return read(4, files);
  }

  private TokenRows read(int context, Path... files) {
    return TokenRows.read(List.of(files), config(EOS), folder, context);
  }

  private static int[][] rows(TokenRows data) {
    int[][] rows = new int[data.count()][data.context()];
    for (int i = 0; i < rows.length; i++) {
      data.copyRow(i, rows[i]);
    }
    return rows;
  }

  private static ModelConfig config(Integer... eos) {
    return config(ByteTokenizer.VOCAB, OptionalInt.of(BOS), Arrays.asList(eos));
  }

  private static ModelConfig config(OptionalInt bos) {
    return config(ByteTokenizer.VOCAB, bos, List.of());
  }

  private static ModelConfig config(int vocab, OptionalInt bos, List<Integer> eos) {
    ObjectNode json =
        JsonNodeFactory.instance
            .objectNode()
            .put("model_type", "llama")
            .put("hidden_size", 4)
            .put("num_hidden_layers", 1)
            .put("num_attention_heads", 2)
            .put("intermediate_size", 3)
            .put("vocab_size", vocab)
            .put("max_position_embeddings", 64)
            .put("bos_token_id", bos.isPresent() ? bos.getAsInt() : null);
    eos.forEach(json.putArray("eos_token_id")::add);
    return ModelConfig.of(Path.of("config.json"), json);
  }

  /** Writes rows of 8- or 2-byte elements. */
  private Path npy(String name, String type, long[][] rows) throws IOException {
    int cols = rows.length == 0 ? 2 : rows[0].length;
    byte[] header =
        "{'descr': '%s', 'fortran_order': False, 'shape': (%d, %d), }"
            .formatted(type, rows.length, cols)
            .getBytes(StandardCharsets.US_ASCII);
    int width = type.charAt(2) - '0';
    ByteBuffer bytes =
        ByteBuffer.allocate(10 + header.length + width * rows.length * cols)
            .order(ByteOrder.LITTLE_ENDIAN);
    bytes.put(new byte[] {(byte) 0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0});
    bytes.putShort((short) header.length).put(header);
    for (long[] row : rows) {
      for (long value : row) {
        if (width == 8) {
          bytes.putLong(value);
        } else {
          bytes.putShort((short) value);
        }
      }
    }
    return Files.write(folder.resolve(name), bytes.array());
  }
}
