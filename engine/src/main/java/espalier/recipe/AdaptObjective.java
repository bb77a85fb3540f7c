package espalier.recipe;

import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.autograd.LanguageModelHead;
import espalier.autograd.Tape;
import espalier.autograd.Var;
import espalier.device.Device;
import espalier.model.LanguageModel;
import espalier.model.TokenBatch;
import espalier.train.Objective;
import espalier.train.Seeds;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.List;

/**
 * KL(original || spliced and adapted), summed over a sequence and averaged over the batch (Chen,
 * Engels and Tegmark 2025, section 3); or the cross-entropy of the spliced and adapted model, for
 * which the original does not run. Teacher and student share everything below the first SAE and the
 * first adapter.
 */
final class AdaptObjective implements Objective {

  /** What the student learns from. */
  enum Loss {
    /** The original's predictions. */
    KL,
    /** The text. */
    CE
  }

  private final Tape tape;
  private final TokenBatch batch;
  private final BatchSource source;
  private final Loss kind;
  private final Var loss;
  private final Device device;
  private final long seed;
  private final MemorySegment seeds; // uint64, one a slot

  AdaptObjective(
      Device device,
      LanguageModel model,
      Streams.Variant student,
      Loss kind,
      BatchSource source,
      TokenBatch batch,
      int accumulate,
      long seed) {
    this.device = device;
    this.batch = batch;
    this.source = source;
    this.kind = kind;
    this.seed = seed;
    seeds = device.allocateStaging((long) accumulate * Long.BYTES);
    tape = new Tape(device);
    float scale = 1f / (batch.batch() * accumulate);
    loss =
        switch (kind) {
          case KL -> divergence(model, student, scale);
          case CE -> crossEntropy(model, student, scale);
        };
  }

  private Var divergence(LanguageModel model, Streams.Variant student, float scale) {
    List<Streams.Pass> passes =
        Streams.record(tape, model, batch, List.of(Streams.Variant.ORIGINAL, student));
    return LanguageModelHead.kl(
            tape,
            passes.get(1).hidden(),
            passes.get(0).hidden(),
            model.head(),
            model.finalSoftcap(),
            MemorySegment.NULL,
            scale)
        .kl();
  }

  private Var crossEntropy(LanguageModel model, Streams.Variant student, float scale) {
    Streams.Pass pass = Streams.record(tape, model, batch, List.of(student)).getFirst();
    return LanguageModelHead.crossEntropy(
        tape, pass.hidden(), model.head(), model.finalSoftcap(), batch.targets(), scale);
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
    device.kernels().sum(loss.data(), loss.size(), numbers);
    device.kernels().sum(loss.data(), loss.size(), device.control().lossData(), true);
  }

  @Override
  public void grow(int entries) {
    tape.grow(entries);
  }

  @Override
  public void describe(ObjectNode line, double[] sums, long microBatches) {
    switch (kind) {
      case KL -> line.put("kl", sums[0] / (microBatches * batch.tokens()));
      case CE -> line.put("ce", sums[0] / (microBatches * batch.predictions()));
    }
  }
}
