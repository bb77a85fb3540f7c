package espalier.format;

import espalier.format.SaeWeights.Activation;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.OptionalDouble;
import java.util.Set;

/**
 * Reads SAEs of dictionary_learning: {@code ae.pt}, a state dictionary, and {@code config.json}
 * with the trainer's settings. The tensors say what a file is; the class's name is needed only if
 * two classes have the same tensors. Weights are taken as they are, while the library's own
 * load_dictionary may normalise them.
 */
final class DictionaryLearning {

  static final String WEIGHTS = "ae.pt";

  private static final Set<String> AUTO_ENCODER =
      Set.of("bias", "encoder.weight", "encoder.bias", "decoder.weight");
  private static final Set<String> AUTO_ENCODER_NEW =
      Set.of("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias");
  private static final Set<String> GATED =
      Set.of("decoder_bias", "encoder.weight", "r_mag", "gate_bias", "mag_bias", "decoder.weight");
  private static final Set<String> JUMP_RELU =
      Set.of("W_enc", "b_enc", "W_dec", "b_dec", "threshold");
  private static final Set<String> MATRYOSHKA =
      Set.of("W_enc", "b_enc", "W_dec", "b_dec", "threshold", "k", "group_sizes");
  private static final Set<String> TOP_K =
      Set.of("encoder.weight", "encoder.bias", "decoder.weight", "b_dec", "k");
  private static final Set<String> TOP_K_WITH_THRESHOLD =
      Set.of("encoder.weight", "encoder.bias", "decoder.weight", "b_dec", "k", "threshold");

  private DictionaryLearning() {}

  static SaeWeights read(Path folder, TensorFile file) {
    boolean checkpoint = folder.endsWith("checkpoints") && folder.getParent() != null;
    Path config = (checkpoint ? folder.getParent() : folder).resolve("config.json");
    StrictJson trainer =
        Files.exists(config) ? StrictJson.read(config).object("trainer").orElse(null) : null;
    String declared = trainer == null ? "" : trainer.text("dict_class", "");
    Set<String> names = file.tensors().keySet();
    SaeDraft sae;
    if (names.equals(AUTO_ENCODER)) {
      sae = linear(folder, file, "AutoEncoder");
      sae.bEnc = sae.vector("encoder.bias", sae.dSae);
      sae.bDec = sae.vector("bias", sae.dOut);
      sae.bPre = sae.bDec.clone();
    } else if (names.equals(AUTO_ENCODER_NEW)) {
      sae = linear(folder, file, "AutoEncoderNew");
      sae.bEnc = sae.vector("encoder.bias", sae.dSae);
      sae.bDec = sae.vector("decoder.bias", sae.dOut);
    } else if (names.equals(GATED)) {
      sae = linear(folder, file, "GatedAutoEncoder");
      sae.bDec = sae.vector("decoder_bias", sae.dOut);
      sae.bPre = sae.bDec.clone();
      sae.gated(
          sae.vector("gate_bias", sae.dSae),
          sae.vector("mag_bias", sae.dSae),
          sae.vector("r_mag", sae.dSae));
    } else if (names.equals(JUMP_RELU)) {
      sae = matrices(folder, file, "JumpReluAutoEncoder");
      sae.jumpRelu(sae.vector("threshold", sae.dSae));
    } else if (names.equals(MATRYOSHKA)) {
      sae = matrices(folder, file, "MatryoshkaBatchTopKSAE");
      sae.bPre = sae.bDec.clone();
      scalarThreshold(sae);
    } else if (names.equals(TOP_K) || names.equals(TOP_K_WITH_THRESHOLD)) {
      sae = topK(folder, file, config, declared);
    } else {
      throw new InputException(
          file.file(), "its tensors are those of no known dictionary: " + String.join(", ", names));
    }
    if (!declared.isEmpty() && !declared.equals(sae.architecture)) {
      sae.warnings.add(
          "config.json calls it a %s, its tensors are those of a %s"
              .formatted(declared, sae.architecture));
    }
    if (trainer != null) {
      sae.at(trainer.text("submodule_name", ""));
      if (sae.site.isEmpty() && trainer.has("layer")) {
        sae.at("layer_" + trainer.integer("layer"));
      }
    }
    return sae.finish();
  }

  private static SaeDraft topK(Path folder, TensorFile file, Path config, String declared) {
    SaeDraft sae = linear(folder, file, declared);
    sae.bEnc = sae.vector("encoder.bias", sae.dSae);
    sae.bDec = sae.vector("b_dec", sae.dOut);
    sae.bPre = sae.bDec.clone();
    switch (declared) {
      case "AutoEncoderTopK" -> {
        sae.activation = Activation.TOPK;
        sae.k = k(sae);
        sae.expectedL0 = OptionalDouble.of(sae.k);
      }
      case "BatchTopKSAE" -> scalarThreshold(sae);
      default ->
          throw new InputException(
              config,
              "trainer.dict_class must be AutoEncoderTopK or BatchTopKSAE: "
                  + file.file().getFileName()
                  + " fits both");
    }
    return sae;
  }

  /**
   * One threshold for all latents. A negative one was never set, and keeps every positive latent.
   */
  private static void scalarThreshold(SaeDraft sae) {
    double threshold = sae.file.tensor("threshold", new long[0]).value(0);
    sae.jumpRelu(sae.constant(threshold));
    sae.expectedL0 = OptionalDouble.of(k(sae));
    if (threshold < 0) {
      sae.warnings.add("its threshold was never set: every positive latent is active");
    }
  }

  private static int k(SaeDraft sae) {
    TensorEntry entry = sae.file.tensor("k");
    long k = entry.size() == 1 ? entry.integer(0) : -1;
    if (k < 1 || k > sae.dSae) {
      throw new InputException(entry.file(), "tensor k is " + k + " of " + sae.dSae + " latents");
    }
    return (int) k;
  }

  /** An SAE whose two matrices are weights of torch Linear layers. */
  private static SaeDraft linear(Path folder, TensorFile file, String architecture) {
    SaeDraft sae = draft(folder, file, architecture, "encoder.weight", false);
    return sae.encoderOfRows("encoder.weight").decoderOfColumns("decoder.weight");
  }

  private static SaeDraft matrices(Path folder, TensorFile file, String architecture) {
    SaeDraft sae = draft(folder, file, architecture, "W_enc", true);
    sae.encoderOfColumns("W_enc").decoderOfRows("W_dec");
    sae.bEnc = sae.vector("b_enc", sae.dSae);
    sae.bDec = sae.vector("b_dec", sae.dOut);
    return sae;
  }

  private static SaeDraft draft(
      Path folder, TensorFile file, String architecture, String encoder, boolean columns) {
    long[] shape = SaeDraft.matrix(file, encoder);
    long dIn = shape[columns ? 0 : 1];
    long dSae = shape[columns ? 1 : 0];
    return new SaeDraft(folder, file, "dictionary_learning", architecture, dIn, dIn, dSae);
  }
}
