package espalier.recipe;

import espalier.autograd.Tape;
import espalier.autograd.Var;
import espalier.model.LanguageModel;
import espalier.model.TokenBatch;
import espalier.nn.Adapters;
import espalier.sae.Sae;
import espalier.sae.Splice;
import espalier.sae.SteeredLatents;
import espalier.sae.ZeroAblation;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.SortedMap;
import java.util.TreeMap;

/**
 * Several passes of the same tokens through variants of one model: the original, the one with SAEs,
 * the one with SAEs and adapters. As long as two variants have not differed they are one
 * computation: a block runs once for all streams that reach it with the same activations and the
 * same weights.
 */
final class Streams {

  /**
   * A variant of the model.
   *
   * @param steering latents held at values, by layer
   * @param ablated whether zeros stand in for the SAEs' reconstructions
   */
  record Variant(
      SortedMap<Integer, Sae> saes,
      Adapters adapters,
      Map<Integer, List<Steering>> steering,
      boolean ablated) {

    static final Variant ORIGINAL = new Variant(new TreeMap<>(), Adapters.NONE);

    Variant(SortedMap<Integer, Sae> saes, Adapters adapters) {
      this(saes, adapters, Map.of(), false);
    }

    /** The original with zeros wherever these SAEs would be applied. */
    static Variant ablated(SortedMap<Integer, Sae> saes) {
      return new Variant(saes, Adapters.NONE, Map.of(), true);
    }
  }

  /**
   * @param hidden what the head reads, {@code [tokens, hidden]}
   * @param splices by layer
   */
  record Pass(Var hidden, SortedMap<Integer, Splice> splices) {}

  /** Told of each block once it is recorded, so that what it leaves need not live any longer. */
  @FunctionalInterface
  interface Observer {
    /**
     * @param outputs of each variant, as its next block reads them
     * @param splices of each variant, up to this block
     */
    void blockRecorded(int layer, List<Var> outputs, List<SortedMap<Integer, Splice>> splices);
  }

  private record BlockInput(Var x, Adapters adapters) {}

  private record SpliceInput(Var x, Sae sae) {}

  private Streams() {}

  /** Records all variants, each up to the final norm; passes come back in the variants' order. */
  static List<Pass> record(
      Tape tape, LanguageModel model, TokenBatch batch, List<Variant> variants) {
    return record(tape, model, batch, variants, (layer, outputs, splices) -> {});
  }

  static List<Pass> record(
      Tape tape, LanguageModel model, TokenBatch batch, List<Variant> variants, Observer observer) {
    Var embedded = model.embed(tape, batch);
    List<Var> streams = new ArrayList<>();
    List<SortedMap<Integer, Splice>> splices = new ArrayList<>();
    for (int i = 0; i < variants.size(); i++) {
      streams.add(embedded);
      splices.add(new TreeMap<>());
    }
    for (int layer = 0; layer < model.layers(); layer++) {
      int at = layer;
      Map<BlockInput, Var> blocks = new HashMap<>();
      Map<SpliceInput, Splice> spliced = new HashMap<>();
      Map<Var, Var> ablated = new HashMap<>();
      for (int i = 0; i < variants.size(); i++) {
        Variant variant = variants.get(i);
        Adapters adapters =
            variant.adapters.touch(model.blockPath(layer)) ? variant.adapters : Adapters.NONE;
        Var out =
            blocks.computeIfAbsent(
                new BlockInput(streams.get(i), adapters),
                in -> model.block(tape, at, in.x, batch, in.adapters));
        Sae sae = variant.saes.get(layer);
        if (sae != null && variant.ablated) {
          out = ablated.computeIfAbsent(out, x -> ZeroAblation.into(tape, x, batch.keep()));
        } else if (sae != null) {
          Splice splice =
              spliced.computeIfAbsent(
                  new SpliceInput(out, sae), in -> Splice.into(tape, in.x, in.sae, batch.keep()));
          splices.get(i).put(layer, splice);
          out = splice.output();
          for (Steering held : variant.steering.getOrDefault(layer, List.of())) {
            out = SteeredLatents.hold(tape, splice, out, held.latent(), held.value());
          }
        }
        streams.set(i, out);
      }
      observer.blockRecorded(layer, streams, splices);
    }
    Map<Var, Var> normed = new HashMap<>();
    List<Pass> passes = new ArrayList<>();
    for (int i = 0; i < variants.size(); i++) {
      Var hidden = normed.computeIfAbsent(streams.get(i), x -> model.finalNorm(tape, x));
      passes.add(new Pass(hidden, splices.get(i)));
    }
    return passes;
  }
}
