package espalier.data;

import static espalier.Refused.assertRefused;
import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.format.StrictJson;
import java.io.IOException;
import java.io.RandomAccessFile;
import java.io.StringReader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.SplittableRandom;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.ValueSource;

class CutRulesTest {

  private static final Path FIXTURE = Path.of("src/test/resources/format/tokenizer");
  private static final ObjectMapper JSON = new ObjectMapper();
  private static final String LLAMA3 =
      "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}"
          + "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
  private static final String TEKKEN =
      "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+"
          + "|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*"
          + "|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

  /** What comes together in texts, most of it beside a space. */
  private static final List<String> ODD =
      List.of(
          " ",
          " ",
          " ",
          " ",
          "  ",
          "   ",
          "\n",
          "\n\n",
          "\r\n",
          "\t",
          "\u00a0",
          "\u3000",
          "\u2028",
          "\u200b",
          "\u0000",
          "\u001c",
          "\u0085",
          "a",
          "the",
          "The",
          "er",
          "int",
          "I",
          "x1",
          "12",
          "3456",
          "'s",
          "'LL",
          "don't",
          ".",
          "...",
          "/",
          "//",
          "_",
          "-",
          "é",
          "e\u0301",
          "\u0301",
          "ﷺ",
          "ﹰ",
          "①",
          "½",
          "Σ",
          "日本",
          "。",
          "각",
          "\u1100\u1161",
          "\u11a8",
          "ไทย",
          "नमस्ते",
          "ـًا",
          "🌿",
          "👩‍👩‍👧",
          "𝐀",
          "▁",
          "▁▁",
          "Ġ",
          "Ċ",
          "<bos>",
          "<eos>",
          "<s>",
          "</s>",
          "<0x20>",
          "<bos",
          " <eos> ",
          "1 2",
          "a b",
          " a ");

  @TempDir Path folder;

  /** Kinds of tokenizers, as the families that are read have them. */
  enum Kind {
    BYTES(Cuts.BEFORE_SPACE),
    SMOLLM(Cuts.BEFORE_SPACE),
    GPT2(Cuts.BEFORE_SPACE),
    GPT_NEOX(Cuts.BEFORE_SPACE),
    ROBERTA(Cuts.BEFORE_SPACE),
    LLAMA3(Cuts.BEFORE_SPACE),
    QWEN2(Cuts.BEFORE_SPACE),
    TEKKEN(Cuts.BEFORE_SPACE),
    METASPACE(Cuts.BEFORE_SPACE),
    METASPACE_FIRST(Cuts.BEFORE_SPACE),
    METASPACE_TOGETHER(Cuts.BEFORE_SPACE),
    GEMMA(Cuts.BEFORE_SPACE),
    LLAMA2(Cuts.AT_SPACE);

    final Cuts cuts;

    Kind(Cuts cuts) {
      this.cuts = cuts;
    }

    ObjectNode definition() {
      ObjectNode root = this == BYTES ? ByteTokenizer.definition() : fixture();
      ArrayNode bytes = (ArrayNode) parse("[{\"type\": \"ByteLevel\", \"use_regex\": false}]");
      switch (this) {
        case BYTES, SMOLLM -> {}
        case GPT2 -> root.set("pre_tokenizer", byteLevel(false));
        case GPT_NEOX -> {
          root.set("normalizer", parse("{\"type\": \"NFC\"}"));
          root.set("pre_tokenizer", byteLevel(false));
          ((ObjectNode) root.get("model")).put("ignore_merges", true);
          addToken(root, "  ").put("normalized", true);
          addToken(root, "   ").put("normalized", true);
        }
        case ROBERTA -> root.set("pre_tokenizer", byteLevel(true));
        case LLAMA3 -> root.set("pre_tokenizer", split(CutRulesTest.LLAMA3, bytes));
        case QWEN2 -> {
          root.set("normalizer", parse("{\"type\": \"NFKC\"}"));
          root.set("pre_tokenizer", split(CutRulesTest.LLAMA3.replace("{1,3}", ""), bytes));
        }
        case TEKKEN -> root.set("pre_tokenizer", split(CutRulesTest.TEKKEN, bytes));
        case METASPACE -> metaspace(root, "always", true);
        case METASPACE_FIRST -> metaspace(root, "first", true);
        case METASPACE_TOGETHER -> metaspace(root, "first", false);
        case GEMMA -> {
          sentencePiece(root);
          root.set("normalizer", parse(REPLACE));
          root.set(
              "pre_tokenizer",
              parse(
                  "{\"type\": \"Split\", \"pattern\": {\"String\": \" \"},"
                      + "\"behavior\": \"MergedWithPrevious\", \"invert\": false}"));
          addToken(root, "▁▁");
        }
        case LLAMA2 -> {
          sentencePiece(root);
          root.set(
              "normalizer",
              parse(
                  "{\"type\": \"Sequence\", \"normalizers\":"
                      + "[{\"type\": \"Prepend\", \"prepend\": \"▁\"}, %s]}".formatted(REPLACE)));
          root.putNull("pre_tokenizer");
        }
      }
      return root;
    }

    private static final String REPLACE =
        "{\"type\": \"Replace\", \"pattern\": {\"String\": \" \"}, \"content\": \"▁\"}";

    private static ObjectNode byteLevel(boolean prefix) {
      return ((ObjectNode) parse("{\"type\": \"ByteLevel\"}"))
          .put("add_prefix_space", prefix)
          .put("trim_offsets", true);
    }

    private static ObjectNode split(String pattern, ArrayNode then) {
      ObjectNode split =
          (ObjectNode)
              parse("{\"type\": \"Split\", \"behavior\": \"Isolated\", \"invert\": false}");
      split.putObject("pattern").put("Regex", pattern);
      ObjectNode bytes = (ObjectNode) then.get(0);
      bytes.put("add_prefix_space", false).put("trim_offsets", true);
      ObjectNode sequence = JSON.createObjectNode().put("type", "Sequence");
      sequence.putArray("pretokenizers").add(split).add(bytes);
      return sequence;
    }

    private static void metaspace(ObjectNode root, String scheme, boolean split) {
      sentencePiece(root);
      root.set(
          "pre_tokenizer",
          ((ObjectNode) parse("{\"type\": \"Metaspace\", \"replacement\": \"▁\"}"))
              .put("prepend_scheme", scheme)
              .put("split", split));
    }

    /** The fixture's vocabulary with SentencePiece's space, and what it does not know joined. */
    private static void sentencePiece(ObjectNode root) {
      ObjectNode model = (ObjectNode) parse(root.get("model").toString().replace('Ġ', '▁'));
      root.set("model", model.put("unk_token", "<eos>").put("fuse_unk", true));
    }
  }

  private static ObjectNode fixture() {
    try {
      return (ObjectNode) parse(Files.readString(FIXTURE.resolve("tokenizer.json")));
    } catch (IOException e) {
      throw new AssertionError(e);
    }
  }

  private static JsonNode parse(String json) {
    try {
      return JSON.readTree(json);
    } catch (IOException e) {
      throw new AssertionError(e);
    }
  }

  private static ObjectNode addToken(ObjectNode root, String content) {
    ArrayNode tokens = (ArrayNode) root.get("added_tokens");
    ObjectNode token = ((ObjectNode) tokens.get(0)).deepCopy();
    int id = root.get("model").get("vocab").size() + tokens.size();
    tokens.add(token.put("id", id).put("content", content).put("special", false));
    return token;
  }

  private Tokenizer open(ObjectNode definition) throws IOException {
    Files.writeString(folder.resolve("tokenizer.json"), definition.toString());
    return Tokenizer.open(folder);
  }

  @ParameterizedTest
  @EnumSource
  void idsOfPiecesAreThoseOfTheWhole(Kind kind) throws IOException {
    SplittableRandom random = new SplittableRandom(7);
    try (Tokenizer tokenizer = open(kind.definition())) {
      assertEquals(kind.cuts, tokenizer.cuts());
      int cuts = 0;
      for (int n = 0; n < 2000; n++) {
        cuts += checkEveryCut(tokenizer, odd(random, 14));
      }
      assertTrue(cuts > 1000, cuts + " cuts");
      cuts = checkEveryCut(tokenizer, Files.readString(FIXTURE.resolve("expected.json")));
      assertTrue(cuts >= 10, cuts + " cuts");
    }
  }

  private static String odd(SplittableRandom random, int parts) {
    StringBuilder text = new StringBuilder();
    for (int i = 0; i < parts; i++) {
      text.append(ODD.get(random.nextInt(ODD.size())));
    }
    return text.toString();
  }

  /** Cuts in two at every place where that is allowed; returns their number. */
  static int checkEveryCut(Tokenizer tokenizer, String text) {
    int[] whole = tokenizer.encode(text);
    int cuts = 0;
    int end = tokenizer.cuts().last(text);
    for (; end > 0; end = tokenizer.cuts().last(text.substring(0, end + 1))) {
      int[] left = tokenizer.encode(text.substring(0, end));
      int[] right = tokenizer.encode(text.substring(end + tokenizer.cuts().between()));
      int[] both = IntStream.concat(IntStream.of(left), IntStream.of(right)).toArray();
      assertArrayEquals(whole, both, "cut at " + end + " of " + text);
      cuts++;
    }
    return cuts;
  }

  @ParameterizedTest
  @EnumSource
  void manyPiecesAreTheWhole(Kind kind) throws IOException {
    try (Tokenizer tokenizer = open(kind.definition())) {
      SplittableRandom random = new SplittableRandom(8);
      String text = odd(random, 3000);
      for (int usual : new int[] {2, 3, 10, 100, 5000}) {
        Pieces pieces =
            new Pieces(folder, new StringReader(text), tokenizer::cuts, usual, text.length());
        List<Integer> ids = new ArrayList<>();
        int number = 0;
        for (String piece = pieces.next(); piece != null; piece = pieces.next()) {
          IntStream.of(tokenizer.encode(piece)).forEach(ids::add);
          number++;
        }
        assertArrayEquals(
            tokenizer.encode(text), ids.stream().mapToInt(Integer::intValue).toArray());
        assertTrue(number > 1, "" + number);
      }
    }
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = ';',
      textBlock =
          """
          SMOLLM; /normalizer; {"type": "Strip", "strip_left": true, "strip_right": true}
          SMOLLM; /normalizer; {"type": "Lowercase"}
          SMOLLM; /normalizer; {"type": "Replace", "pattern": {"Regex": " +"}, "content": "▁"}
          SMOLLM; /normalizer; {"type": "Prepend", "prepend": "▁"}
          SMOLLM; /pre_tokenizer; {"type": "Whitespace"}
          SMOLLM; /pre_tokenizer/pretokenizers/0; {"type": "Future"}
          SMOLLM; /model/type; "Unigram"
          SMOLLM; /model/dropout; 0.1
          SMOLLM; /model/end_of_word_suffix; "</w>"
          SMOLLM; /added_tokens/0/rstrip; true
          SMOLLM; /added_tokens/0/lstrip; true
          SMOLLM; /added_tokens/0/single_word; true
          SMOLLM; /added_tokens/0/content; "two words"
          LLAMA3; /pre_tokenizer/pretokenizers/0/pattern/Regex; "\\\\p{N}+"
          LLAMA3; /pre_tokenizer/pretokenizers/0/pattern/Regex; "[a-z]+ [a-z]+|\\\\s+"
          LLAMA3; /pre_tokenizer/pretokenizers/0/behavior; "Removed"
          METASPACE_TOGETHER; /model/merges/0; ["t", "▁"]
          METASPACE_TOGETHER; /model/merges/0; "t ▁o"
          METASPACE_TOGETHER; /model/ignore_merges; true
          GEMMA; /pre_tokenizer/pattern/String; "e"
          BYTES; /model/merges; [["t", "Ġ"]]
          LLAMA2; /added_tokens/0/content; "bos"
          LLAMA2; /pre_tokenizer; {"type": "Metaspace", "replacement": "▁"}
          """)
  void doesNotCutForWhatItDoesNotKnow(Kind kind, String pointer, String value) throws IOException {
    ObjectNode definition = kind.definition();
    int at = pointer.lastIndexOf('/');
    JsonNode parent = definition.at(pointer.substring(0, at));
    String key = pointer.substring(at + 1);
    if (parent instanceof ArrayNode array) {
      array.set(Integer.parseInt(key), parse(value));
    } else {
      ((ObjectNode) parent).set(key, parse(value));
    }
    StrictJson json = StrictJson.parse(folder, definition.toString());
    assertEquals(Cuts.NONE, CutRules.of(json));
  }

  @ParameterizedTest
  @ValueSource(ints = {1, 4, 1000})
  void aDocumentWithoutCutsIsTakenWholeUpToALimit(int usual) throws IOException {
    String text = "word word ".repeat(100);
    for (Cuts cuts : List.of(Cuts.NONE, Cuts.BEFORE_SPACE)) {
      String whole = cuts == Cuts.NONE ? text : text.replace(' ', '\n');
      Pieces pieces = new Pieces(folder, new StringReader(whole), () -> cuts, usual, 1000);
      assertEquals(whole, pieces.next());
      assertEquals(null, pieces.next());
      Pieces more = new Pieces(folder, new StringReader(whole + "x"), () -> cuts, usual, 1000);
      assertRefused(folder, more::next, "at once", ".jsonl");
    }
  }

  /** Sparse, so that it takes no room. */
  @Test
  void aTextFileThatIsTooLargeIsRefusedEarly() throws IOException {
    Path file = folder.resolve("a.txt");
    try (var sparse = new RandomAccessFile(file.toFile(), "rw")) {
      sparse.setLength((256L << 20) + 1);
    }
    Pieces.check(file, () -> Cuts.AT_SPACE);
    assertRefused(
        file, () -> Pieces.check(file, () -> Cuts.NONE), "256 MiB", "this tokenizer", ".jsonl");
  }
}
