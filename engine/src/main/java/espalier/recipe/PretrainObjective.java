package espalier.recipe;

import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.autograd.LanguageModelHead;
import espalier.autograd.Tape;
import espalier.autograd.Var;
import espalier.device.Device;
import espalier.model.LanguageModel;
import espalier.model.TokenBatch;
import espalier.train.Objective;
import java.lang.foreign.MemorySegment;
import java.util.List;

/** Mean cross-entropy of the next token. */
final class PretrainObjective implements Objective {

  private final Tape tape;
  private final TokenBatch batch;
  private final BatchSource source;
  private final Var ce;
  private final Device device;

  PretrainObjective(
      Device device, LanguageModel model, BatchSource source, TokenBatch batch, int accumulate) {
    this.batch = batch;
    this.source = source;
    this.device = device;
    tape = new Tape(device);
    Var hidden =
        Streams.record(tape, model, batch, List.of(Streams.Variant.ORIGINAL)).getFirst().hidden();
    ce =
        LanguageModelHead.crossEntropy(
            tape,
            hidden,
            model.head(),
            model.finalSoftcap(),
            batch.targets(),
            1f / (batch.predictions() * accumulate));
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
  }

  @Override
  public void accumulate(int slot, MemorySegment numbers) {
    batch.upload(slot);
    tape.forward();
    tape.backward();
    device.kernels().sum(ce.data(), ce.size(), numbers);
    device.kernels().sum(ce.data(), ce.size(), device.control().lossData(), true);
  }

  @Override
  public void grow(int entries) {
    tape.grow(entries);
  }

  @Override
  public void describe(ObjectNode line, double[] sums, long microBatches) {
    line.put("ce", sums[0] / (microBatches * batch.predictions()));
  }
}
