package espalier.format;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.nio.file.Path;
import java.util.List;
import java.util.OptionalInt;
import java.util.Set;
import java.util.TreeSet;
import java.util.function.Consumer;

/**
 * What {@code config.json} says of a language model, whatever its family calls it.
 *
 * @param normEps added to the mean square (or variance) under the root of every norm
 * @param bos id that begins a text, if the model has one
 * @param eos ids that end one
 * @param attentionScale of the scores, usually 1/sqrt(headDim)
 * @param attentionSoftcap of the scores; 0 for none
 * @param finalSoftcap of the logits; 0 for none
 * @param rotaryDim elements of each head that are rotated; 0 where positions are learned
 * @param layers what differs from block to block
 * @param queryKeyValueBias whether the projections have biases
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
   * Attention of one block.
   *
   * @param window how many tokens back a query sees, itself included; 0 for all
   * @param rope rotary positions; null where positions are learned
   */
  public record Layer(int window, RopeConfig rope) {}

  /**
   * @param warn told of what is odd but can be used
   */
  public static ModelConfig read(Path file, Consumer<String> warn) {
    return ModelConfigReader.read(StrictJson.read(file), warn);
  }

  /** A configuration made here; {@code name} is what faults would be reported of. */
  public static ModelConfig of(Path name, ObjectNode json) {
    return ModelConfigReader.read(StrictJson.parse(name, json.toString()), warning -> {});
  }

  public int numLayers() {
    return layers.size();
  }

  /** BOS and EOS: positions where an SAE is not applied. */
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
