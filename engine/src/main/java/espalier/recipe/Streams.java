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
 * the one with SAEs and adapters. As long as two variants do not differ they are one computation: a
 * block runs once for all variants that reach it with the same activations and the same weights.
 * Once they differ, and if nobody compares the streams block by block, the original's blocks run
 * {@linkplain Tape#beside beside} the others': small kernels leave parts of a GPU idle, which the
 * other side's can use.
 */
final class Streams {

  /**
   * A variant of the model. All maps are by layer.
   *
   * @param saes spliced in; empty for none
   * @param steering latents held at values
   * @param ablated whether zeros stand in for the SAEs' reconstructions
   * @param trained SAEs in training, each used instead of the one of its layer in {@code saes}
   * @param outputs adapters behind the SAEs' outputs
   * @param pushes what is added to the residual stream after a block and its SAE
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

    /** The model with frozen SAEs and with adapters. */
    Variant(SortedMap<Integer, Sae> saes, Adapters adapters) {
      this(saes, adapters, Map.of(), false, Map.of(), Map.of(), Map.of());
    }

    /** The original with zeros wherever these SAEs would be applied. */
    static Variant ablated(SortedMap<Integer, Sae> saes) {
      return new Variant(saes, Adapters.NONE, Map.of(), true, Map.of(), Map.of(), Map.of());
    }

    /** The same with latents held at values. */
    Variant steered(Map<Integer, List<Steering>> held) {
      return new Variant(saes, adapters, held, ablated, trained, outputs, pushes);
    }

    /** The same with some of its SAEs in training. */
    Variant training(Map<Integer, TrainableSae> inTraining) {
      return new Variant(saes, adapters, steering, ablated, inTraining, outputs, pushes);
    }

    /** The same with adapters behind its SAEs' outputs. */
    Variant adaptedOutputs(Map<Integer, OutputAdapter> behind) {
      return new Variant(saes, adapters, steering, ablated, trained, behind, pushes);
    }

    /** The same, pushed after one block. */
    Variant pushed(int layer, Push push) {
      return new Variant(saes, adapters, steering, ablated, trained, outputs, Map.of(layer, push));
    }
  }

  /**
   * @param hidden what the head reads, {@code [tokens, hidden]}
   * @param splices by layer
   */
  record Pass(Var hidden, SortedMap<Integer, Splice> splices) {}

  /**
   * Called when a block has been recorded, so that it can read the block's outputs there: they need
   * not live any longer.
   */
  @FunctionalInterface
  interface Observer {
    /**
     * @param outputs each variant's residual stream, as its next block reads it
     * @param splices each variant's, up to this block
     */
    void blockRecorded(int layer, List<Var> outputs, List<SortedMap<Integer, Splice>> splices);
  }

  /** What takes the place of the activations at an SAE's site. */
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

    /** The SAE learns only from the loss at the end of the model: it has no losses of its own. */
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

  // All that decides what a block, a replacement or a push computes: variants for which it is equal
  // share the computation.

  /**
   * @param inside what is replaced inside the block; null for nothing
   */
  private record BlockInput(Var x, Adapters adapters, Replacement inside) {}

  private record SiteInput(Var x, Replacement replacement) {}

  private record PushInput(Var x, Push push) {}

  private Streams() {}

  /** Records all variants, each up to the final norm; passes come back in the variants' order. */
  static List<Pass> record(
      Tape tape, LanguageModel model, TokenBatch batch, List<Variant> variants) {
    Recording recording = new Recording(tape, model, batch, variants, true);
    for (int layer = 0; layer < model.layers(); layer++) {
      recording.block(layer);
    }
    return recording.passes();
  }

  /** Likewise, block by block, for an observer that compares the streams. */
  static List<Pass> record(
      Tape tape, LanguageModel model, TokenBatch batch, List<Variant> variants, Observer observer) {
    Recording recording = new Recording(tape, model, batch, variants, false);
    for (int layer = 0; layer < model.layers(); layer++) {
      recording.block(layer);
      observer.blockRecorded(layer, recording.streams, recording.splices);
    }
    return recording.passes();
  }

  /** The variants on their way through the model. */
  private static final class Recording {
    private final Tape tape;
    private final LanguageModel model;
    private final TokenBatch batch;
    private final List<Variant> variants;
    private final boolean originalBeside;
    private final List<Var> streams = new ArrayList<>(); // what each variant's next block reads
    private final List<SortedMap<Integer, Splice>> splices = new ArrayList<>(); // of each variant

    /**
     * @param originalBeside whether the original's blocks run beside the others', once they differ
     */
    Recording(
        Tape tape,
        LanguageModel model,
        TokenBatch batch,
        List<Variant> variants,
        boolean originalBeside) {
      this.tape = tape;
      this.model = model;
      this.batch = batch;
      this.variants = variants;
      this.originalBeside = originalBeside;
      Var embedded = model.embed(tape, batch);
      for (int i = 0; i < variants.size(); i++) {
        streams.add(embedded);
        splices.add(new TreeMap<>());
      }
    }

    /** Records one block of all variants, with what is spliced in and pushed there. */
    void block(int layer) {
      List<Replacement> replacements = new ArrayList<>();
      List<BlockInput> inputs = new ArrayList<>();
      for (int i = 0; i < variants.size(); i++) {
        replacements.add(Replacement.of(variants.get(i), layer));
        inputs.add(input(layer, i, replacements.get(i)));
      }
      Map<BlockInput, Replaced> blocks = new HashMap<>();
      Map<SiteInput, Replaced> replaced = new HashMap<>();
      Map<PushInput, Var> pushed = new HashMap<>();
      for (int i = 0; i < variants.size(); i++) {
        Variant variant = variants.get(i);
        Replacement replacement = replacements.get(i);
        tape.beside(originalBeside && variant == Variant.ORIGINAL && isAlone(inputs, i));
        Replaced result = blocks.computeIfAbsent(inputs.get(i), in -> block(layer, in));
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
    }

    private BlockInput input(int layer, int variant, Replacement replacement) {
      Adapters all = variants.get(variant).adapters;
      Adapters adapters = all.touch(model.blockPath(layer)) ? all : Adapters.NONE;
      boolean inside = replacement != null && replacement.isInsideBlock();
      return new BlockInput(streams.get(variant), adapters, inside ? replacement : null);
    }

    /** Whether there are others, and none of them has the same block. */
    private static boolean isAlone(List<BlockInput> inputs, int i) {
      return inputs.size() > 1 && inputs.stream().filter(inputs.get(i)::equals).count() == 1;
    }

    /** A block, and what is spliced in inside it. */
    private Replaced block(int layer, BlockInput in) {
      if (in.inside == null) {
        return new Replaced(model.block(tape, layer, in.x, batch, in.adapters), null);
      }
      SiteTap tap = new SiteTap(in.inside.sae.site(), x -> in.inside.record(tape, x, batch));
      Var out = model.block(tape, layer, in.x, batch, in.adapters, tap);
      return new Replaced(out, tap.replaced.splice);
    }

    /** Each variant's end: what the head reads, and the SAEs on the way. */
    List<Pass> passes() {
      Map<Var, Var> normed = new HashMap<>();
      List<Pass> passes = new ArrayList<>();
      for (int i = 0; i < variants.size(); i++) {
        Var hidden = normed.computeIfAbsent(streams.get(i), x -> model.finalNorm(tape, x));
        passes.add(new Pass(hidden, splices.get(i)));
      }
      return passes;
    }
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
