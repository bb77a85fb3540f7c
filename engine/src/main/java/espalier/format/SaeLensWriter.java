package espalier.format;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.format.SaeWeights.Activation;
import espalier.tensor.Tensor;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;

/** Writes SAEs in the layout of SAELens 6. */
public final class SaeLensWriter {

  /**
   * The version that is written. Without it SAELens takes the configuration for an older one and
   * drops the metadata.
   */
  private static final String LAYOUT = "6.0.0";

  private SaeLensWriter() {}

  /**
   * An SAE to be written.
   *
   * @param wEnc {@code [dIn, dSae]}
   * @param wDec {@code [dSae, dIn]}
   * @param bEnc {@code [1, dSae]}; null for a gated SAE
   * @param threshold {@code [1, dSae]} for JumpReLU, else null
   * @param gates null unless gated
   * @param hook TransformerLens's name of the site
   * @param hasBos whether the sequences that it was trained on begin with BOS
   */
  public record Output(
      Activation activation,
      Tensor wEnc,
      Tensor bEnc,
      Tensor wDec,
      Tensor bDec,
      Tensor threshold,
      Gates gates,
      long k,
      boolean subtractDecoderBias,
      String hook,
      String modelName,
      int contextSize,
      boolean hasBos) {}

  /** What a gated SAE has instead of an encoder bias, each {@code [1, dSae]}. */
  public record Gates(Tensor bGate, Tensor rMag, Tensor bMag) {}

  /** Writes an SAE, the weights first, so that a folder with a configuration is complete. */
  public static void write(Path folder, Output sae) {
    try {
      Files.createDirectories(folder);
    } catch (IOException e) {
      throw new UncheckedIOException(folder + " cannot be made", e);
    }
    List<Safetensors.Output> tensors = new ArrayList<>();
    tensors.add(Safetensors.Output.matrix("W_enc", sae.wEnc));
    if (sae.gates == null) {
      tensors.add(Safetensors.Output.vector("b_enc", sae.bEnc));
    } else {
      tensors.add(Safetensors.Output.vector("b_gate", sae.gates.bGate));
      tensors.add(Safetensors.Output.vector("r_mag", sae.gates.rMag));
      tensors.add(Safetensors.Output.vector("b_mag", sae.gates.bMag));
    }
    tensors.add(Safetensors.Output.matrix("W_dec", sae.wDec));
    tensors.add(Safetensors.Output.vector("b_dec", sae.bDec));
    if (sae.threshold != null) {
      tensors.add(Safetensors.Output.vector("threshold", sae.threshold));
    }
    Safetensors.write(folder.resolve(SaeLens.WEIGHTS), tensors, Map.of("format", "pt"));
    AtomicFiles.write(folder.resolve(SaeLens.CONFIG), config(sae));
  }

  private static ObjectNode config(Output sae) {
    ObjectNode cfg = JsonNodeFactory.instance.objectNode();
    cfg.put("architecture", sae.gates == null ? architecture(sae.activation) : "gated");
    cfg.put("d_in", sae.wEnc.rows());
    cfg.put("d_sae", sae.wEnc.cols());
    cfg.put("dtype", "float32");
    cfg.put("device", "cpu");
    cfg.put("apply_b_dec_to_input", sae.subtractDecoderBias);
    cfg.put("normalize_activations", "none");
    cfg.put("reshape_activations", "none");
    if (sae.activation == Activation.TOPK) {
      cfg.put("k", sae.k);
      cfg.put("rescale_acts_by_decoder_norm", false);
    }
    ObjectNode metadata = cfg.putObject("metadata");
    metadata.put("sae_lens_version", LAYOUT);
    metadata.put("model_name", sae.modelName);
    metadata.put("hook_name", sae.hook);
    metadata.put("prepend_bos", sae.hasBos);
    metadata.put("context_size", sae.contextSize);
    metadata.put("exclude_special_tokens", true);
    return cfg;
  }

  private static String architecture(Activation activation) {
    return switch (activation) {
      case RELU -> "standard";
      case JUMPRELU -> "jumprelu";
      case TOPK -> "topk";
      case GROUPMAX -> throw new IllegalArgumentException("SAELens has no groupmax");
    };
  }
}
