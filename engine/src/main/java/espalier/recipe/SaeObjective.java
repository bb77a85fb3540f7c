package espalier.recipe;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.autograd.Tape;
import espalier.autograd.Var;
import espalier.device.Device;
import espalier.distributed.Ranks;
import espalier.model.LanguageModel;
import espalier.model.TokenBatch;
import espalier.nn.Adapters;
import espalier.sae.TrainableSae;
import espalier.train.Objective;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.SortedMap;
import java.util.TreeSet;

/**
 * Trains SAEs of several layers of a frozen model, in one pass over its activations, batch by
 * batch. Each SAE is trained as if it were alone: where the loss goes through the rest of the
 * model, the blocks behind each SAE run once for that SAE. The original runs once for all.
 */
final class SaeObjective implements Objective {

  private final Device device;
  private final BatchSource source;
  private final TokenBatch batch;
  private final Tape tape;
  private final int accumulate;
  private final Ranks ranks;
  private final List<SaeTrainer> trainers = new ArrayList<>();
  private final Optional<SaeInputs> inputs;

  /**
   * @param accumulate batches of a step, of each rank
   * @param cache of activations, for losses that need no model; empty to run the model for every
   *     batch
   */
  SaeObjective(
      Device device,
      LanguageModel model,
      SortedMap<Integer, TrainableSae> saes,
      SaeLoss loss,
      SaeLossWeights weights,
      BatchSource source,
      TokenBatch batch,
      int accumulate,
      Ranks ranks,
      Optional<ActivationCache> cache) {
    this.device = device;
    this.source = source;
    this.batch = batch;
    this.accumulate = accumulate;
    this.ranks = ranks;
    tape = new Tape(device);
    inputs =
        cache.map(
            c ->
                new SaeInputs(
                    device, model, new TreeSet<>(saes.keySet()), c, source, batch, accumulate));
    if (inputs.isPresent()) {
      saes.forEach(
          (layer, sae) -> train(layer, tape.constant(inputs.get().of(layer)), sae, loss, weights));
    } else {
      throughModel(model, saes, loss, weights);
    }
  }

  private void throughModel(
      LanguageModel model,
      SortedMap<Integer, TrainableSae> saes,
      SaeLoss loss,
      SaeLossWeights weights) {
    int last = loss.hasKl() ? model.layers() - 1 : saes.lastKey();
    List<Var> streams = new ArrayList<>();
    Var x = model.embed(tape, batch);
    for (int layer = 0; layer <= last; layer++) {
      x = model.block(tape, layer, x, batch, Adapters.NONE);
      streams.add(x);
      TrainableSae sae = saes.get(layer);
      if (sae != null) {
        train(layer, x, sae, loss, weights);
      }
    }
    if (loss.hasKl()) {
      SaeTrainer.Teacher teacher = new SaeTrainer.Teacher(streams, model.finalNorm(tape, x));
      trainers.forEach(trainer -> trainer.throughModel(model, teacher));
    }
  }

  private void train(int layer, Var x, TrainableSae sae, SaeLoss loss, SaeLossWeights weights) {
    trainers.add(
        new SaeTrainer(device, tape, layer, x, sae, loss, weights, batch, accumulate, ranks));
  }

  Tape tape() {
    return tape;
  }

  @Override
  public long tokens() {
    return batch.tokens();
  }

  /** The sum of all losses, then {@link SaeTrainer#SUMS} of each SAE. */
  @Override
  public int numbers() {
    return start(trainers.size());
  }

  /** Where the sums of an SAE begin. */
  private static int start(int trainer) {
    return 1 + trainer * SaeTrainer.SUMS;
  }

  @Override
  public void prepare(long index, int slot) {
    source.prepare(index, batch, slot);
    inputs.ifPresent(in -> in.prepare(index, slot));
    long step = index / ((long) accumulate * ranks.size());
    trainers.forEach(trainer -> trainer.prepare(step, slot));
  }

  @Override
  public void accumulate(int slot, MemorySegment numbers) {
    batch.upload(slot);
    inputs.ifPresent(in -> in.upload(slot));
    trainers.forEach(trainer -> trainer.begin(slot));
    tape.forward();
    tape.backward();
    // Of a few float64, two floats each: zero is zero in both.
    device.kernels().fill(numbers, 0, 2L * numbers());
    for (int i = 0; i < trainers.size(); i++) {
      trainers.get(i).count(numbers, numbers.asSlice((long) start(i) * Double.BYTES));
    }
  }

  @Override
  public void grow(int entries) {
    tape.grow(entries);
  }

  @Override
  public void exchange() {
    trainers.forEach(trainer -> trainer.course().exchange());
  }

  @Override
  public void beforeUpdate() {
    trainers.forEach(trainer -> trainer.sae().projectDecoderGradient(device));
  }

  @Override
  public void afterUpdate() {
    trainers.forEach(
        trainer -> {
          trainer.sae().normalizeDecoder(device);
          trainer.course().follow();
        });
  }

  /** Means over the SAEs; where there are several, also each SAE's own numbers, by layer. */
  @Override
  public void describe(ObjectNode line, double[] sums, long microBatches) {
    ObjectNode means = line.objectNode();
    ObjectNode each = line.objectNode();
    for (int i = 0; i < trainers.size(); i++) {
      ObjectNode one = trainers.get(i).describe(sums, start(i), microBatches);
      each.set(String.valueOf(trainers.get(i).layer()), one);
      for (Map.Entry<String, JsonNode> field : one.properties()) {
        double sum = means.path(field.getKey()).asDouble(0) + field.getValue().doubleValue();
        means.put(field.getKey(), sum);
      }
    }
    means
        .fieldNames()
        .forEachRemaining(name -> line.put(name, means.get(name).doubleValue() / trainers.size()));
    if (trainers.size() > 1) {
      line.set("saes", each);
    }
  }
}
