package espalier.format;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.nio.file.Path;
import java.util.List;
import java.util.OptionalInt;
import java.util.Set;
import java.util.TreeSet;
import java.util.function.Consumer;

/**
 * What {@code config.json} says about a language model, in the same terms for every family.
 *
 * @param normEps added to the mean square (or variance) under the root in every norm
 * @param bos the id that begins a text, if the model has one
 * @param eos the ids that end a text
 * @param attentionScale the factor of the scores, usually 1/sqrt(headDim)
 * @param attentionSoftcap the cap of the scores; 0 for none
 * @param finalSoftcap the cap of the logits; 0 for none
 * @param rotaryDim how many elements of each head are rotated; 0 if positions are learned
 * @param layers what differs from block to block
 * @param queryKeyValueBias whether the projections to queries, keys and values have biases
 * @param parallelResidual whether attention and MLP both read the block's input
 * @param source the configuration as it was read
 */
public record ModelConfig(
    ModelFamily family,
    int hiddenSize,
    int numHeads,
    int numKvHeads,
    int headDim,
    int intermediateSize,
    int vocabSize,
    double normEps,
    int maxPositionEmbeddings,
    boolean tieWordEmbeddings,
    OptionalInt bos,
    List<Integer> eos,
    MlpActivation activation,
    double attentionScale,
    double attentionSoftcap,
    double finalSoftcap,
    int rotaryDim,
    List<Layer> layers,
    boolean queryKeyValueBias,
    boolean attentionOutBias,
    boolean mlpBias,
    boolean parallelResidual,
    ObjectNode source) {

  /** The key of {@code tieWordEmbeddings}. */
  static final String TIED = "tie_word_embeddings";

  /** The function of the MLP. */
  public enum MlpActivation {
    SILU,
    /** GELU by its approximation with tanh. */
    GELU_TANH,
    /** GELU by the error function. */
    GELU_ERF,
    RELU
  }

  /**
   * The attention of one block.
   *
   * @param window how many tokens back a query sees, itself included; 0 for all
   * @param rope rotary positions; null if positions are learned
   */
  public record Layer(int window, RopeConfig rope) {}

  /**
   * Reads a configuration.
   *
   * @param warn told about what is odd but can be used
   */
  public static ModelConfig read(Path file, Consumer<String> warn) {
    return ModelConfigReader.read(StrictJson.read(file), warn);
  }

  /** A configuration that was made here. Faults name {@code name} instead of a file. */
  public static ModelConfig of(Path name, ObjectNode json) {
    return ModelConfigReader.read(StrictJson.parse(name, json.toString()), warning -> {});
  }

  public int numLayers() {
    return layers.size();
  }

  /** The ids of BOS and EOS, at whose positions an SAE is not applied. */
  public Set<Integer> specialIds() {
    Set<Integer> ids = new TreeSet<>(eos);
    bos.ifPresent(ids::add);
    return ids;
  }

  /** A {@code config.json} for the model with float32 weights, which transformers loads. */
  public ObjectNode toJson() {
    ObjectNode json = source.deepCopy();
    json.putArray("architectures").add(family.architecture());
    json.remove("dtype");
    json.put("torch_dtype", "float32");
    return json;
  }
}
