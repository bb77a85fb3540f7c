package espalier.recipe;

import espalier.autograd.Tape;
import espalier.autograd.Var;
import espalier.format.SaeSite;
import espalier.lora.OutputAdapter;
import espalier.model.LanguageModel;
import espalier.model.TokenBatch;
import espalier.nn.Adapters;
import espalier.nn.Taps;
import espalier.sae.Push;
import espalier.sae.Sae;
import espalier.sae.Sparsity;
import espalier.sae.Splice;
import espalier.sae.SteeredLatents;
import espalier.sae.TrainableSae;
import espalier.sae.TrainedSplice;
import espalier.sae.ZeroAblation;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.function.Function;

/**
 * Several passes of the same tokens through variants of one model: the original, the one with SAEs,
 * the one with SAEs and adapters. As long as two variants have not differed they are one
 * computation: a block runs once for all streams that reach it with the same activations and the
 * same weights. From there on, if nobody compares the streams block by block, the original's blocks
 * run {@linkplain Tape#beside beside} the others': each fills what the other's small kernels leave
 * idle of a GPU.
 */
final class Streams {

  /**
   * A variant of the model.
   *
   * @param steering latents held at values, by layer
   * @param ablated whether zeros stand in for the SAEs' reconstructions
   * @param trained SAEs in training, by layer, in the place of those
   * @param outputs adapters at the SAEs' outputs, by layer
   * @param pushes what is added to the residual stream after blocks, SAEs included, by layer
   */
  record Variant(
      SortedMap<Integer, Sae> saes,
      Adapters adapters,
      Map<Integer, List<Steering>> steering,
      boolean ablated,
      Map<Integer, TrainableSae> trained,
      Map<Integer, OutputAdapter> outputs,
      Map<Integer, Push> pushes) {

    static final Variant ORIGINAL = new Variant(new TreeMap<>(), Adapters.NONE);

    Variant(SortedMap<Integer, Sae> saes, Adapters adapters) {
      this(saes, adapters, Map.of(), false, Map.of(), Map.of());
    }

    /** Not pushed. */
    Variant(
        SortedMap<Integer, Sae> saes,
        Adapters adapters,
        Map<Integer, List<Steering>> steering,
        boolean ablated,
        Map<Integer, TrainableSae> trained,
        Map<Integer, OutputAdapter> outputs) {
      this(saes, adapters, steering, ablated, trained, outputs, Map.of());
    }

    static Variant steered(
        SortedMap<Integer, Sae> saes, Adapters adapters, Map<Integer, List<Steering>> steering) {
      return new Variant(saes, adapters, steering, false, Map.of(), Map.of());
    }

    /** The original with zeros wherever these SAEs would be applied. */
    static Variant ablated(SortedMap<Integer, Sae> saes) {
      return new Variant(saes, Adapters.NONE, Map.of(), true, Map.of(), Map.of());
    }

    /** The same, pushed. */
    Variant pushed(int layer, Push push) {
      return new Variant(saes, adapters, steering, ablated, trained, outputs, Map.of(layer, push));
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

  /** What happens at an SAE's site. */
  private record Replacement(
      Sae sae,
      boolean ablated,
      List<Steering> steering,
      TrainableSae trained,
      OutputAdapter adapter) {

    /** What a variant has at a layer; null for nothing. */
    static Replacement of(Variant variant, int layer) {
      Sae sae = variant.saes.get(layer);
      return sae == null
          ? null
          : new Replacement(
              sae,
              variant.ablated,
              variant.steering.getOrDefault(layer, List.of()),
              variant.trained.get(layer),
              variant.outputs.get(layer));
    }

    boolean isInsideBlock() {
      return sae.site() != SaeSite.Kind.RESIDUAL;
    }

    Replaced record(Tape tape, Var x, TokenBatch batch) {
      if (ablated) {
        return new Replaced(ZeroAblation.into(tape, x, batch.keep()), null);
      }
      if (trained != null) {
        return new Replaced(adapted(tape, training(tape, x, batch), batch), null);
      }
      Splice splice = Splice.into(tape, x, sae, batch.keep());
      Var out = splice.output();
      for (Steering held : steering) {
        out = SteeredLatents.hold(tape, splice, out, held.latent(), held.value());
      }
      return new Replaced(adapted(tape, out, batch), splice);
    }

    /** What comes behind it is all that the SAE learns from. */
    private Var training(Tape tape, Var x, TokenBatch batch) {
      Sparsity none = new Sparsity(tape.device(), 1);
      TrainedSplice.Losses nothing = new TrainedSplice.Losses(0, 0);
      return TrainedSplice.into(tape, x, trained, batch.keep(), none, nothing, null).output();
    }

    private Var adapted(Tape tape, Var out, TokenBatch batch) {
      return adapter == null ? out : adapter.apply(tape, out, batch.keep());
    }
  }

  /**
   * @param splice null where nothing frozen is spliced in
   */
  private record Replaced(Var out, Splice splice) {}

  /** Where two variants have the same, they share it. */
  private record BlockInput(Var x, Adapters adapters, Replacement inside) {}

  private record SiteInput(Var x, Replacement replacement) {}

  private record PushInput(Var x, Push push) {}

  private Streams() {}

  /** Records all variants, each up to the final norm; passes come back in the variants' order. */
  static List<Pass> record(
      Tape tape, LanguageModel model, TokenBatch batch, List<Variant> variants) {
    return record(tape, model, batch, variants, (layer, outputs, splices) -> {}, true);
  }

  static List<Pass> record(
      Tape tape, LanguageModel model, TokenBatch batch, List<Variant> variants, Observer observer) {
    return record(tape, model, batch, variants, observer, false);
  }

  private static List<Pass> record(
      Tape tape,
      LanguageModel model,
      TokenBatch batch,
      List<Variant> variants,
      Observer observer,
      boolean beside) {
    Var embedded = model.embed(tape, batch);
    List<Var> streams = new ArrayList<>();
    List<SortedMap<Integer, Splice>> splices = new ArrayList<>();
    for (int i = 0; i < variants.size(); i++) {
      streams.add(embedded);
      splices.add(new TreeMap<>());
    }
    for (int layer = 0; layer < model.layers(); layer++) {
      int at = layer;
      List<Replacement> replacements = new ArrayList<>();
      List<BlockInput> inputs = new ArrayList<>();
      for (int i = 0; i < variants.size(); i++) {
        replacements.add(Replacement.of(variants.get(i), layer));
        inputs.add(input(model, layer, streams.get(i), variants.get(i), replacements.get(i)));
      }
      Map<BlockInput, Replaced> blocks = new HashMap<>();
      Map<SiteInput, Replaced> replaced = new HashMap<>();
      Map<PushInput, Var> pushed = new HashMap<>();
      for (int i = 0; i < variants.size(); i++) {
        Variant variant = variants.get(i);
        Replacement replacement = replacements.get(i);
        tape.beside(beside && variant == Variant.ORIGINAL && parts(inputs, i));
        Replaced result =
            blocks.computeIfAbsent(inputs.get(i), in -> block(tape, model, at, batch, in));
        tape.beside(false);
        if (replacement != null && !replacement.isInsideBlock()) {
          result =
              replaced.computeIfAbsent(
                  new SiteInput(result.out, replacement),
                  in -> in.replacement.record(tape, in.x, batch));
        }
        if (result.splice != null) {
          splices.get(i).put(layer, result.splice);
        }
        Var out = result.out;
        if (variant.pushes.containsKey(layer)) {
          out =
              pushed.computeIfAbsent(
                  new PushInput(out, variant.pushes.get(layer)),
                  in -> in.push.record(tape, in.x, batch.keep()));
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

  private static BlockInput input(
      LanguageModel model, int layer, Var x, Variant variant, Replacement replacement) {
    Adapters adapters =
        variant.adapters.touch(model.blockPath(layer)) ? variant.adapters : Adapters.NONE;
    boolean inside = replacement != null && replacement.isInsideBlock();
    return new BlockInput(x, adapters, inside ? replacement : null);
  }

  /** Whether there are others, and none has the same block. */
  private static boolean parts(List<BlockInput> inputs, int i) {
    return inputs.size() > 1 && inputs.stream().filter(inputs.get(i)::equals).count() == 1;
  }

  /** A block, and what is spliced in inside it. */
  private static Replaced block(
      Tape tape, LanguageModel model, int layer, TokenBatch batch, BlockInput in) {
    if (in.inside == null) {
      return new Replaced(model.block(tape, layer, in.x, batch, in.adapters), null);
    }
    SiteTap tap = new SiteTap(in.inside.sae.site(), x -> in.inside.record(tape, x, batch));
    Var out = model.block(tape, layer, in.x, batch, in.adapters, tap);
    return new Replaced(out, tap.replaced.splice);
  }

  /** Replaces what a block computes at one site. */
  private static final class SiteTap implements Taps {
    private final SaeSite.Kind site;
    private final Function<Var, Replaced> replacement;
    private Replaced replaced;

    SiteTap(SaeSite.Kind site, Function<Var, Replaced> replacement) {
      this.site = site;
      this.replacement = replacement;
    }

    private Var at(SaeSite.Kind here, Var x) {
      if (here != site) {
        return x;
      }
      replaced = replacement.apply(x);
      return replaced.out;
    }

    @Override
    public Var attentionHeads(Var x) {
      return at(SaeSite.Kind.ATTENTION_HEADS, x);
    }

    @Override
    public Var attentionModuleOut(Var x) {
      return at(SaeSite.Kind.ATTENTION_MODULE_OUT, x);
    }

    @Override
    public Var attentionOut(Var x) {
      return at(SaeSite.Kind.ATTENTION_OUT, x);
    }

    @Override
    public Var mlpModuleOut(Var x) {
      return at(SaeSite.Kind.MLP_MODULE_OUT, x);
    }

    @Override
    public Var mlpOut(Var x) {
      return at(SaeSite.Kind.MLP_OUT, x);
    }
  }
}
