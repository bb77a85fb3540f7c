package espalier.recipe;

import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.autograd.LanguageModelHead;
import espalier.autograd.Tape;
import espalier.device.Control;
import espalier.device.Device;
import espalier.model.LanguageModel;
import espalier.model.TokenBatch;
import espalier.nn.Adapters;
import espalier.sae.Sae;
import espalier.train.Objective;
import espalier.train.Seeds;
import java.lang.foreign.MemorySegment;
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
  private final Control control;
  private final long seed;
  private final Sum sum;

  AdaptObjective(
      Device device,
      LanguageModel model,
      SortedMap<Integer, Sae> saes,
      Adapters adapters,
      BatchSource source,
      TokenBatch batch,
      int accumulate,
      Control control,
      long seed) {
    this.batch = batch;
    this.source = source;
    this.control = control;
    this.seed = seed;
    sum = new Sum(device);
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
  public double[] accumulateGradients(long index) {
    source.load(index, batch);
    control.seed(Seeds.at(seed, index));
    tape.forward();
    tape.backward();
    return new double[] {sum.of(divergence.kl())};
  }

  @Override
  public void describe(ObjectNode line, double[] sums, long microBatches) {
    line.put("kl", sums[0] / (microBatches * batch.tokens()));
  }
}
