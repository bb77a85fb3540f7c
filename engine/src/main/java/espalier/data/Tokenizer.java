package espalier.data;

import ai.djl.huggingface.tokenizers.HuggingFaceTokenizer;
import espalier.format.InputException;
import espalier.format.StrictJson;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;

/**
 * A model's {@code tokenizer.json}. Special tokens are never added: packing decides where they
 * stand.
 */
public final class Tokenizer implements AutoCloseable {

  private static final String FILE = "tokenizer.json";
  private static final String CONFIG = "tokenizer_config.json";

  static {
    // The library would otherwise ask the network whether it may send usage data.
    System.setProperty("OPT_OUT_TRACKING", "true");
    System.setProperty("ai.djl.offline", "true");
  }

  private final Path file;
  private final HuggingFaceTokenizer tokenizer;
  private final boolean bos;
  private Cuts cuts; // null until somebody asks

  private Tokenizer(Path file, HuggingFaceTokenizer tokenizer, boolean bos) {
    this.file = file;
    this.tokenizer = tokenizer;
    this.bos = bos;
  }

  /** The tokenizer of a model's folder. */
  public static Tokenizer open(Path modelFolder) {
    Path file = modelFolder.resolve(FILE);
    if (!Files.isRegularFile(file)) {
      throw new InputException(
          file, "no such file, but text needs a tokenizer; token ids (.npy) need none");
    }
    // The library ends the whole process where it meets malformed JSON.
    StrictJson.check(file);
    Path config = modelFolder.resolve(CONFIG);
    boolean bos = !Files.exists(config) || !StrictJson.read(config).raw("bos_token").isNull();
    try {
      return new Tokenizer(
          file,
          HuggingFaceTokenizer.newInstance(
              file, Map.of("addSpecialTokens", "false", "truncation", "false", "padding", "false")),
          bos);
    } catch (IOException | RuntimeException e) {
      throw new InputException(file, "not a tokenizer definition that can be read");
    }
  }

  public Path file() {
    return file;
  }

  /** Whether texts begin with BOS: {@code tokenizer_config.json} may say that they do not. */
  public boolean hasBos() {
    return bos;
  }

  /** Where texts may be cut without changing their ids. */
  Cuts cuts() {
    if (cuts == null) {
      cuts = CutRules.of(StrictJson.read(file));
    }
    return cuts;
  }

  public int[] encode(String text) {
    long[] ids = tokenizer.encode(text, false, false).getIds();
    int[] result = new int[ids.length];
    for (int i = 0; i < ids.length; i++) {
      result[i] = Math.toIntExact(ids[i]);
    }
    return result;
  }

  /** The text of the ids, without special tokens. */
  public String decode(int[] ids) {
    long[] wide = new long[ids.length];
    for (int i = 0; i < ids.length; i++) {
      wide[i] = ids[i];
    }
    return tokenizer.decode(wide, true);
  }

  @Override
  public void close() {
    tokenizer.close();
  }
}
