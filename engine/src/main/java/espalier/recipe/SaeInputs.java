package espalier.recipe;

import espalier.autograd.Tape;
import espalier.autograd.Var;
import espalier.device.Device;
import espalier.device.Transfer;
import espalier.model.LanguageModel;
import espalier.model.TokenBatch;
import espalier.nn.Adapters;
import espalier.tensor.Tensor;
import java.lang.foreign.MemorySegment;
import java.util.SortedMap;
import java.util.SortedSet;
import java.util.TreeMap;

/**
 * Activations of some layers for batches of rows. They come from a cache where it holds all rows of
 * a batch, and else from the model; then the cache keeps them.
 */
final class SaeInputs {

  private final Device device;
  private final ActivationCache cache;
  private final BatchSource source;
  private final TokenBatch batch;
  private final Tape tape;
  private final SortedMap<Integer, Var> computed = new TreeMap<>();
  private final SortedMap<Integer, Tensor> inputs = new TreeMap<>();
  private final SortedMap<Integer, MemorySegment> prepared = new TreeMap<>(); // [slots] of inputs
  private final long rowBytes;

  /**
   * @param slots batches of a step
   */
  SaeInputs(
      Device device,
      LanguageModel model,
      SortedSet<Integer> layers,
      ActivationCache cache,
      BatchSource source,
      TokenBatch batch,
      int slots) {
    this.device = device;
    this.cache = cache;
    this.source = source;
    this.batch = batch;
    tape = new Tape(device);
    rowBytes = (long) batch.seqLen() * model.config().hiddenSize() * device.type().bytes();
    Var x = model.embed(tape, batch);
    for (int layer = 0; layer <= layers.last(); layer++) {
      x = model.block(tape, layer, x, batch, Adapters.NONE);
      if (layers.contains(layer)) {
        computed.put(layer, tape.output(x));
        inputs.put(layer, Tensor.allocate(device, x.rows(), x.cols(), device.type()));
        prepared.put(layer, device.allocateStaging(slots * batchBytes()));
      }
    }
    tape.bind(device);
  }

  private long batchBytes() {
    return batch.batch() * rowBytes;
  }

  /** {@code [tokens, d]}, of the batch that was {@link #upload}ed last. */
  Tensor of(int layer) {
    return inputs.get(layer);
  }

  /**
   * Brings the activations of batch {@code index}, whose tokens are in their slot, into the host's
   * memory.
   */
  void prepare(long index, int slot) {
    int[] rows = source.rows(index, batch.batch());
    for (int row : rows) {
      if (!cache.holds(row)) {
        compute(rows, slot);
        return;
      }
    }
    prepared.forEach(
        (layer, slots) -> {
          for (int i = 0; i < rows.length; i++) {
            part(slots, slot, i).copyFrom(cache.row(layer, rows[i]));
          }
        });
  }

  /** The model runs here and now, outside the work that a step queues. */
  private void compute(int[] rows, int slot) {
    batch.upload(slot);
    tape.forward();
    prepared.forEach(
        (layer, slots) -> {
          MemorySegment target = slots.asSlice(slot * batchBytes(), batchBytes());
          Transfer.copy(computed.get(layer).value().bytes(), target);
          for (int i = 0; i < rows.length; i++) {
            cache.row(layer, rows[i]).copyFrom(part(slots, slot, i));
          }
        });
    for (int row : rows) {
      cache.add(row);
    }
  }

  private MemorySegment part(MemorySegment slots, int slot, int row) {
    return slots.asSlice(slot * batchBytes() + row * rowBytes, rowBytes);
  }

  /** Queues the copy of a slot to the device. */
  void upload(int slot) {
    inputs.forEach(
        (layer, input) ->
            device.upload(
                prepared.get(layer).asSlice(slot * batchBytes(), batchBytes()), input.data()));
  }
}
