package espalier.bench;

import espalier.autograd.Parameter;
import espalier.autograd.ParameterSet;
import espalier.autograd.Tape;
import espalier.device.Device;
import espalier.device.ElementType;
import espalier.device.Kernels;
import espalier.device.Transfer;
import espalier.sae.ActivationSample;
import espalier.sae.Architecture;
import espalier.sae.Sae;
import espalier.sae.SaeDesign;
import espalier.sae.Sparsity;
import espalier.sae.TrainableSae;
import espalier.sae.TrainedSplice;
import espalier.tensor.Tensor;
import espalier.train.AdamW;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.List;
import java.util.SplittableRandom;

/**
 * A step of training a TopK SAE on activations that are there already: encode, decode, squared
 * error, all gradients, AdamW, decoder rows of norm 1. By the engine's own operation, on lists of
 * active latents; and with every product dense, over matrices of zeros with a few latents in them.
 * Both choose the latents with the same kernel.
 */
final class SaeTrainingWork {

  private static final double LEARNING_RATE = 1e-4;

  /** As {@code native/include/espalier.h} numbers it. */
  private static final int RELU = 3;

  private final Device device;
  private final Kernels kernels;
  private final Operands operands;
  private final Tensor x; // [tokens, d]
  private final TrainableSae trained;
  private final ParameterSet parameters;
  private final AdamW optimizer;
  private final TrainedSplice splice;
  private final Tape tape;
  private final float lossScale; // of squared errors: their mean
  private final Tensor centred; // [tokens, d], x - b_dec
  private final Tensor dense; // [tokens, m], latents
  private final Tensor dDense;
  private final Tensor y; // [tokens, d]
  private final Tensor dY;
  private final Tensor error; // [1, tokens]
  private long steps;

  SaeTrainingWork(Device device, long tokens, int d, int m, int k) {
    if (device.type() != ElementType.F32) {
      throw new IllegalArgumentException("dtype: SAEs are trained in f32");
    }
    this.device = device;
    kernels = device.kernels();
    operands = new Operands(device);
    x = operands.random(tokens, d, 1);
    SaeDesign design = new SaeDesign(Architecture.TOPK, m, k, List.of(m), 1, 10_000_000);
    parameters = new ParameterSet(device, TrainableSae.shapes("", design, d));
    trained =
        TrainableSae.create(
            device,
            parameters,
            "",
            design,
            new ActivationSample(x.toArray(), d),
            ActivationSample.Centre.MEAN,
            new SplittableRandom(1));
    optimizer = AdamW.create(device, parameters, AdamW.Hyperparameters.of(0, 0));
    lossScale = 1f / (tokens * d);
    tape = new Tape(device);
    splice =
        TrainedSplice.into(
            tape,
            tape.constant(x),
            trained,
            MemorySegment.NULL,
            new Sparsity(device, 1),
            new TrainedSplice.Losses(lossScale, 0),
            null);
    tape.bind(device);
    centred = operands.empty(tokens, d);
    dense = operands.empty(tokens, m);
    dDense = operands.empty(tokens, m);
    y = operands.empty(tokens, d);
    dY = operands.empty(tokens, d);
    error = operands.floats(1, tokens);
  }

  void stepOnLists() {
    gradientsOnLists();
    update();
  }

  void stepDense() {
    gradientsDense();
    update();
  }

  void gradientsOnLists() {
    clearGradients();
    tape.forward();
    tape.backward();
  }

  /** Needs memory that Java can read. */
  void gradientsDense() {
    operands.requireHost();
    clearGradients();
    Sae sae = trained.sae();
    tape.forward(); // for the lists; what else it does is a small part
    spread();
    long tokens = x.rows();
    long d = x.cols();
    long m = sae.latents();
    kernels.fillRows(sae.bDec().data(), y.data(), tokens, d);
    operands.product(dense, sae.wDec().value(), 1, 1, y);
    kernels.saeMse(
        x.data(), y.data(), MemorySegment.NULL, error.data(), dY.data(), lossScale, tokens, d);

    operands.transposedProduct(dense, dY, 1, 0, sae.wDec().gradient());
    operands.productTransposed(dY, sae.wDec().value(), 1, 0, dDense);
    kernels.activationBackward(dense.data(), RELU, dDense.data(), dDense.data(), dDense.size());
    kernels.fillRows(sae.bDec().data(), centred.data(), tokens, d);
    kernels.axpy(-1, x.data(), centred.data(), centred.size()); // b_dec - x
    operands.transposedProduct(dDense, centred, -1, 0, sae.wEnc().gradient());
    columnSum(dDense, sae.bEnc());
    columnSum(dY, sae.bDec());
    // b_dec is taken off the input, too.
    operands.product(sae.bEnc().gradient(), sae.wEnc().value(), -1, 1, sae.bDec().gradient());
  }

  private void columnSum(Tensor from, Parameter to) {
    kernels.columnSum(
        from.data(),
        from.stride(),
        MemorySegment.NULL,
        1,
        to.gradientData(),
        from.rows(),
        from.cols());
  }

  /** The lists as a matrix. */
  private void spread() {
    kernels.fill(dense.data(), 0, dense.size());
    int[] counts = Transfer.ints(splice.latents().count());
    MemorySegment indices = splice.latents().index();
    MemorySegment values = splice.latents().value();
    long capacity = splice.latents().capacity();
    for (int t = 0; t < counts.length; t++) {
      for (int j = 0; j < counts[t]; j++) {
        int latent = indices.getAtIndex(ValueLayout.JAVA_INT, t * capacity + j);
        float value = values.getAtIndex(ValueLayout.JAVA_FLOAT, t * capacity + j);
        dense.data().setAtIndex(ValueLayout.JAVA_FLOAT, t * dense.cols() + latent, value);
      }
    }
  }

  private void clearGradients() {
    kernels.fill(parameters.gradients().data(), 0, parameters.size());
  }

  private void update() {
    device.control().clearResults();
    device.control().step(++steps);
    device.control().learningRate(LEARNING_RATE);
    device.control().upload();
    trained.projectDecoderGradient(device);
    optimizer.update(device);
    trained.normalizeDecoder(device);
  }

  /** Of all parameters. */
  float[] gradients() {
    return parameters.gradients().toArray();
  }

  float[] parameters() {
    return parameters.values().toArray();
  }
}
