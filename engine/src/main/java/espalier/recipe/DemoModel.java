package espalier.recipe;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.data.ByteTokenizer;
import espalier.data.JavaCorpus;
import espalier.format.AtomicFiles;
import espalier.train.Schedule;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Optional;
import java.util.OptionalInt;

/**
 * A byte-level language model small enough for any machine, and the Java source text that it
 * learns.
 */
public final class DemoModel {

  public static final int LAYERS = 6;
  public static final int CONTEXT = 256;
  public static final int BATCH = 16;

  /** Steps of pretraining after which it is worth an SAE. */
  public static final int STEPS = 200;

  public static final int HIDDEN = 128;

  private DemoModel() {}

  /** The text to train on, in a folder that {@link #writeData} filled. */
  public static Path train(Path folder) {
    return folder.resolve("train.jsonl");
  }

  /** The text that is held out. */
  public static Path eval(Path folder) {
    return folder.resolve("eval.jsonl");
  }

  /** Writes texts, tokenizer and the model's configuration. */
  public static void writeData(Path folder) {
    try {
      Files.createDirectories(folder);
    } catch (IOException e) {
      throw new UncheckedIOException(folder + " cannot be made", e);
    }
    JavaCorpus.write(folder);
    ObjectNode config =
        JsonNodeFactory.instance
            .objectNode()
            .put("model_type", "llama")
            .put("hidden_size", HIDDEN)
            .put("num_hidden_layers", LAYERS)
            .put("num_attention_heads", 4)
            .put("num_key_value_heads", 2)
            .put("head_dim", HIDDEN / 4)
            .put("intermediate_size", 3 * HIDDEN)
            .put("vocab_size", ByteTokenizer.VOCAB)
            .put("rms_norm_eps", 1e-5)
            .put("max_position_embeddings", CONTEXT)
            .put("tie_word_embeddings", true)
            .put("hidden_act", "silu")
            .put("bos_token_id", ByteTokenizer.BOS)
            .put("eos_token_id", ByteTokenizer.EOS)
            .put("rope_theta", 10_000.0);
    AtomicFiles.write(folder.resolve("config.json"), config);
    AtomicFiles.write(
        folder.resolve("tokenizer.json"), ByteTokenizer.definition().toPrettyString());
    AtomicFiles.write(
        folder.resolve("tokenizer_config.json"), ByteTokenizer.configuration().toPrettyString());
  }

  /**
   * How the model is trained.
   *
   * @param data a folder that {@link #writeData} filled
   */
  public static PretrainSettings pretraining(
      Path data, Path out, int steps, long seed, boolean resume) {
    return new PretrainSettings(
        data.resolve("config.json"),
        List.of(train(data)),
        out,
        BATCH,
        CONTEXT,
        OptionalInt.of(steps),
        3e-3,
        Schedule.COSINE,
        Math.min(50, steps / 4),
        0.1,
        1,
        seed,
        resume,
        steps,
        Optional.of(eval(data)));
  }
}
