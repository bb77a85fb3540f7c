package espalier.recipe;

import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.autograd.LanguageModelHead;
import espalier.autograd.Tape;
import espalier.autograd.Var;
import espalier.device.Device;
import espalier.model.LanguageModel;
import espalier.model.TokenBatch;
import espalier.nn.Adapters;
import espalier.sae.Sae;
import espalier.train.Objective;
import espalier.train.Seeds;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.List;
import java.util.SortedMap;

/**
 * KL(original || spliced and adapted), summed over a sequence and averaged over the batch (Chen,
 * Engels and Tegmark 2025, section 3). Teacher and student share everything below the first SAE and
 * the first adapter.
 */
final class AdaptObjective implements Objective {

  private final Tape tape;
  private final TokenBatch batch;
  private final BatchSource source;
  private final LanguageModelHead.Divergence divergence;
  private final Device device;
  private final long seed;
  private final MemorySegment seeds; // uint64, one a slot

  AdaptObjective(
      Device device,
      LanguageModel model,
      SortedMap<Integer, Sae> saes,
      Adapters adapters,
      BatchSource source,
      TokenBatch batch,
      int accumulate,
      long seed) {
    this.device = device;
    this.batch = batch;
    this.source = source;
    this.seed = seed;
    seeds = device.allocateStaging((long) accumulate * Long.BYTES);
    tape = new Tape(device);
    List<Streams.Pass> passes =
        Streams.record(
            tape,
            model,
            batch,
            List.of(Streams.Variant.ORIGINAL, new Streams.Variant(saes, adapters)));
    divergence =
        LanguageModelHead.kl(
            tape,
            passes.get(1).hidden(),
            passes.get(0).hidden(),
            model.head(),
            model.finalSoftcap(),
            MemorySegment.NULL,
            1f / (batch.batch() * accumulate));
  }

  Tape tape() {
    return tape;
  }

  @Override
  public long tokens() {
    return batch.tokens();
  }

  @Override
  public int numbers() {
    return 1;
  }

  @Override
  public void prepare(long index, int slot) {
    source.prepare(index, batch, slot);
    seeds.setAtIndex(ValueLayout.JAVA_LONG, slot, Seeds.at(seed, index));
  }

  @Override
  public void accumulate(int slot, MemorySegment numbers) {
    batch.upload(slot);
    MemorySegment own = seeds.asSlice((long) slot * Long.BYTES, Long.BYTES);
    device.upload(own, device.control().seedData());
    tape.forward();
    tape.backward();
    Var kl = divergence.kl();
    device.kernels().sum(kl.data(), kl.size(), numbers);
    device.kernels().sum(kl.data(), kl.size(), device.control().lossData(), true);
  }

  @Override
  public void grow(int entries) {
    tape.grow(entries);
  }

  @Override
  public void describe(ObjectNode line, double[] sums, long microBatches) {
    line.put("kl", sums[0] / (microBatches * batch.tokens()));
  }
}
