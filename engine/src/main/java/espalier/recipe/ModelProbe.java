package espalier.recipe;

import espalier.autograd.Tape;
import espalier.autograd.Var;
import espalier.data.TokenRows;
import espalier.device.Device;
import espalier.format.ModelFolder;
import espalier.format.Npy;
import espalier.model.LanguageModel;
import espalier.model.TokenBatch;
import espalier.nn.Adapters;
import espalier.tensor.Tensor;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;

/** Runs a model on given token ids and writes what it computes, to be compared elsewhere. */
final class ModelProbe {

  private ModelProbe() {}

  /**
   * @param computed called before anything is written
   */
  static void run(ModelFolder folder, Path input, InspectSettings settings, Runnable computed) {
    try (Device device = Device.open()) {
      TokenRows rows = TokenRows.read(List.of(input), folder.config(), folder.folder(), 0);
      LanguageModel model = LanguageModel.load(device, folder);
      TokenBatch batch =
          new TokenBatch(device, rows.count(), rows.context(), folder.config().specialIds());
      int[] row = new int[rows.context()];
      for (int i = 0; i < rows.count(); i++) {
        rows.copyRow(i, row);
        batch.set(i, row);
      }
      List<Tensor> stream = stream(device, model, batch);
      Optional<Tensor> logits = settings.output().map(file -> logits(device, model, stream));
      computed.run();
      settings.hidden().ifPresent(file -> write(file, stream));
      logits.ifPresent(all -> write(settings.output().orElseThrow(), List.of(all)));
    }
  }

  /**
   * The residual stream before the first block, after each but the last, and what the head reads.
   */
  private static List<Tensor> stream(Device device, LanguageModel model, TokenBatch batch) {
    Tape tape = new Tape(device);
    List<Var> stream = new ArrayList<>();
    Var x = model.embed(tape, batch);
    for (int layer = 0; layer < model.layers(); layer++) {
      stream.add(tape.output(x));
      x = model.block(tape, layer, x, batch, Adapters.NONE);
    }
    stream.add(tape.output(model.finalNorm(tape, x)));
    tape.bind(device);
    tape.forward();
    return stream.stream().map(Var::value).toList();
  }

  private static Tensor logits(Device device, LanguageModel model, List<Tensor> stream) {
    Tensor hidden = stream.getLast();
    Tensor logits = Tensor.allocate(device, hidden.rows(), model.head().rows());
    model.logits(device, hidden, logits);
    return logits;
  }

  private static void write(Path file, List<Tensor> matrices) {
    List<float[]> rows = new ArrayList<>();
    for (Tensor matrix : matrices) {
      for (long r = 0; r < matrix.rows(); r++) {
        rows.add(matrix.rows(r, 1).toArray());
      }
    }
    int cols = (int) matrices.getFirst().cols();
    Npy.write(file, rows.size(), cols, rows.toArray(float[][]::new));
  }
}
