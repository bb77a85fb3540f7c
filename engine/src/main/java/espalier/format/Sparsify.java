package espalier.format;

import espalier.format.SaeWeights.Architecture;
import java.nio.file.Path;
import java.util.List;
import java.util.OptionalLong;
import java.util.Set;

/**
 * EleutherAI sparsify: {@code cfg.json} and {@code sae.safetensors} in a folder named after the
 * hook point. A TopK SAE whose encoder is a torch Linear, {@code [dSae, dIn]}, applied to x -
 * b_dec.
 */
final class Sparsify {

  static final String WEIGHTS = "sae.safetensors";

  private Sparsify() {}

  static SaeWeights read(Path folder, Safetensors file) {
    StrictJson cfg = StrictJson.read(folder.resolve("cfg.json"));
    if (!cfg.text("activation", "topk").equals("topk")) {
      throw cfg.fault("activation", "is " + cfg.text("activation") + ", only topk is supported");
    }
    for (String flag : List.of("skip_connection", "transcode")) {
      if (cfg.flag(flag, false)) {
        throw cfg.fault(flag, "is true, which is not supported");
      }
    }
    SaeFile.requireOnly(file, Set.of("encoder.weight", "encoder.bias", "W_dec", "b_dec"));
    long dIn = cfg.positive("d_in");
    long dSae = latents(cfg, dIn);
    int k = cfg.positive("k");
    if (k > dSae) {
      throw cfg.fault("k", "is " + k + " of " + dSae + " latents");
    }
    String name = folder.toAbsolutePath().normalize().getFileName().toString();
    String hook = SaeFile.blockOf(name).isPresent() ? name : "";
    return new SaeWeights(
        folder,
        "sparsify",
        Architecture.TOPK,
        dIn,
        dSae,
        file.tensor("encoder.weight", dSae, dIn),
        true,
        file.tensor("encoder.bias", dSae),
        file.tensor("W_dec", dSae, dIn),
        file.tensor("b_dec", dIn),
        null,
        OptionalLong.of(k),
        true,
        false,
        hook,
        SaeFile.blockOf(hook),
        List.of());
  }

  /** num_latents, or expansion_factor times the width where that is 0 or absent. */
  private static long latents(StrictJson cfg, long dIn) {
    long explicit = cfg.has("num_latents") ? cfg.integer("num_latents") : 0;
    if (explicit < 0) {
      throw cfg.fault("num_latents", "is negative");
    }
    return explicit > 0 ? explicit : dIn * cfg.positive("expansion_factor");
  }
}
