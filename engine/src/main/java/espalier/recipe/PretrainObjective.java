package espalier.recipe;

import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.autograd.LanguageModelHead;
import espalier.autograd.Tape;
import espalier.autograd.Var;
import espalier.device.Device;
import espalier.model.LanguageModel;
import espalier.model.TokenBatch;
import espalier.train.Objective;
import java.util.List;

/** Mean cross-entropy of the next token. */
final class PretrainObjective implements Objective {

  private final Tape tape;
  private final TokenBatch batch;
  private final BatchSource source;
  private final Var ce;
  private final Sum sum;

  PretrainObjective(
      Device device, LanguageModel model, BatchSource source, TokenBatch batch, int accumulate) {
    this.batch = batch;
    this.source = source;
    sum = new Sum(device);
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
  public double[] accumulateGradients(long index) {
    source.load(index, batch);
    tape.forward();
    tape.backward();
    return new double[] {sum.of(ce), batch.predictions()};
  }

  @Override
  public void describe(ObjectNode line, double[] sums, long microBatches) {
    line.put("ce", sums[0] / sums[1]);
  }
}
