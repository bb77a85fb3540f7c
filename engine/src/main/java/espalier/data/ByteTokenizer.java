package espalier.data;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;

/**
 * A tokenizer whose tokens are the 256 bytes of UTF-8 and two special ones: ids 0-255 are the
 * bytes, 256 is BOS, 257 is EOS. Its {@code tokenizer.json} is an ordinary byte-pair encoding
 * without merges, which every reader of such files understands.
 */
public final class ByteTokenizer {

  public static final int BOS = 256;
  public static final int EOS = 257;
  public static final int VOCAB = 258;
  private static final String BOS_TEXT = "<s>";
  private static final String EOS_TEXT = "</s>";

  private ByteTokenizer() {}

  /** The content of {@code tokenizer.json}. */
  public static ObjectNode definition() {
    ObjectNode root = new ObjectMapper().createObjectNode();
    root.put("version", "1.0");
    root.putNull("truncation");
    root.putNull("padding");
    root.putArray("added_tokens").add(special(BOS, BOS_TEXT)).add(special(EOS, EOS_TEXT));
    root.putNull("normalizer");
    root.set("pre_tokenizer", byteLevel());
    root.putNull("post_processor");
    root.set("decoder", byteLevel());
    ObjectNode model = root.putObject("model");
    model.put("type", "BPE");
    ObjectNode vocab = model.putObject("vocab");
    for (int b = 0; b < 256; b++) {
      vocab.put(String.valueOf(letter(b)), b);
    }
    model.putArray("merges");
    return root;
  }

  /** The content of {@code tokenizer_config.json}. */
  public static ObjectNode configuration() {
    return JsonNodeFactory.instance
        .objectNode()
        .put("tokenizer_class", "PreTrainedTokenizerFast")
        .put("bos_token", BOS_TEXT)
        .put("eos_token", EOS_TEXT)
        .put("clean_up_tokenization_spaces", false);
  }

  private static ObjectNode special(int id, String content) {
    return JsonNodeFactory.instance
        .objectNode()
        .put("id", id)
        .put("content", content)
        .put("single_word", false)
        .put("lstrip", false)
        .put("rstrip", false)
        .put("normalized", false)
        .put("special", true);
  }

  private static ObjectNode byteLevel() {
    return JsonNodeFactory.instance
        .objectNode()
        .put("type", "ByteLevel")
        .put("add_prefix_space", false)
        .put("trim_offsets", true)
        .put("use_regex", false);
  }

  /**
   * The letter that stands for a byte in byte-level vocabularies (Radford et al. 2019): printable
   * Latin-1 characters stand for themselves, the other bytes, in order, for the characters from 256
   * on.
   */
  private static char letter(int b) {
    if (isPrintable(b)) {
      return (char) b;
    }
    int others = 0;
    for (int i = 0; i < b; i++) {
      others += isPrintable(i) ? 0 : 1;
    }
    return (char) (256 + others);
  }

  private static boolean isPrintable(int b) {
    return (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || (b >= 0xAE && b <= 0xFF);
  }
}
