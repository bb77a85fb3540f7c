package espalier.sae;

import java.util.List;

/**
 * The design of an SAE to be trained.
 *
 * @param latents m
 * @param k active latents a token: exactly (topk), on average (batchtopk, matryoshka), or aimed at
 *     (jumprelu); not used by others. 0 for a JumpReLU that aims at nothing
 * @param prefixes ascending numbers of latents that reconstruct by themselves, the last m: one
 *     unless matryoshka
 * @param bandwidth of the straight-through gradient of thresholds
 * @param deadAfter tokens without activity after which a latent is dead, below 2^24
 */
public record SaeDesign(
    Architecture architecture,
    int latents,
    int k,
    List<Integer> prefixes,
    float bandwidth,
    int deadAfter) {

  public SaeDesign {
    if (architecture.isCounted() && (k < 1 || k > latents)) {
      throw new IllegalArgumentException("k = " + k + " of " + latents + " latents");
    }
    for (int i = 0; i < prefixes.size(); i++) {
      if (prefixes.get(i) <= (i == 0 ? 0 : prefixes.get(i - 1))) {
        throw new IllegalArgumentException("prefixes do not ascend: " + prefixes);
      }
    }
    if (prefixes.isEmpty() || prefixes.getLast() != latents) {
      throw new IllegalArgumentException("the last of the prefixes is not all: " + prefixes);
    }
    if (prefixes.size() > 1 && architecture != Architecture.MATRYOSHKA) {
      throw new IllegalArgumentException(architecture + " has no prefixes");
    }
  }
}
