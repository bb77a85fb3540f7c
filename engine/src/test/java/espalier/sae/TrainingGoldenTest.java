package espalier.sae;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import espalier.Golden;
import espalier.autograd.Parameter;
import espalier.autograd.ParameterSet;
import espalier.autograd.Tape;
import espalier.autograd.Var;
import espalier.device.Device;
import espalier.device.Transfer;
import espalier.distributed.Ranks;
import espalier.format.Safetensors;
import espalier.format.TensorEntry;
import espalier.tensor.Tensor;
import java.io.IOException;
import java.lang.foreign.MemorySegment;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

/**
 * The losses and every gradient of each architecture against PyTorch in float64 (written by
 * bench/reference/make_sae_training_fixtures.py). The sums are of a few hundred terms of one size:
 * float32 errs by a few 1e-7 of the largest.
 */
class TrainingGoldenTest {

  private static final double GRADIENT = 2e-6;
  private static final double LOSS = 1e-6;
  private static final Path FOLDER = Path.of("src/test/resources/sae-training");

  private final Device device = Device.openCpu();
  private final JsonNode expected = json();
  private final int tokens = expected.at("/sizes/tokens").intValue();
  private final int d = expected.at("/sizes/d").intValue();
  private final int m = expected.at("/sizes/m").intValue();
  private final float bandwidth = coefficient("bandwidth");

  @AfterEach
  void close() {
    device.close();
  }

  private static JsonNode json() {
    try {
      return new ObjectMapper().readTree(FOLDER.resolve("expected.json").toFile());
    } catch (IOException e) {
      throw new IllegalStateException(e);
    }
  }

  private float coefficient(String name) {
    return (float) expected.at("/coefficients/" + name).doubleValue();
  }

  private float[] values(String name) {
    try (Safetensors file = Safetensors.open(FOLDER.resolve("architectures.safetensors"))) {
      TensorEntry entry = file.tensor(name);
      Tensor copy = Tensor.allocate(device, 1, entry.size());
      entry.copyTo(device, copy);
      return copy.toArray();
    }
  }

  /** An SAE with the fixture's parameters, and a tape that has gone there and back. */
  private final class Trained {
    final Architecture architecture;
    final JsonNode losses;
    final ParameterSet parameters;
    final TrainableSae sae;
    final Tape tape = new Tape(device);
    final TrainedSplice splice;
    final Var auxiliary;

    Trained(Architecture architecture) {
      this.architecture = architecture;
      String name = architecture.name().toLowerCase(Locale.ROOT);
      losses = expected.get(name);
      List<Integer> prefixes = new ArrayList<>();
      expected.at("/sizes/prefixes").forEach(size -> prefixes.add(size.intValue()));
      boolean nested = architecture == Architecture.MATRYOSHKA;
      int k =
          expected.at(architecture.isCounted() ? "/sizes/k" : "/coefficients/target").intValue();
      SaeDesign design =
          new SaeDesign(
              architecture,
              m,
              k,
              nested ? prefixes : List.of(m),
              bandwidth,
              expected.at("/sizes/dead_after").intValue());
      parameters = new ParameterSet(device, TrainableSae.shapes("", design, d));
      sae = TrainableSae.over(device, parameters, "", design, true, 1, 1, true);
      for (Parameter parameter : parameters.parameters()) {
        parameter.value().copyFrom(values(name + "/" + parameter.name()));
      }
      sae.silent().copyFrom(values("silent"));
      Tensor x = Tensor.allocate(device, tokens, d);
      x.copyFrom(values("x"));
      Sparsity sparsity = new Sparsity(device, 1);
      float l1 = architecture.hasL1() ? coefficient("l1") / tokens : 0;
      sparsity.prepare(0, l1, 0, coefficient("strength"));
      sparsity.upload(0);
      float perElement = 1f / (tokens * d);
      Course course = new Course(device, sae, 1, Ranks.alone());
      course.begin(0);
      splice =
          TrainedSplice.into(
              tape,
              tape.constant(x),
              sae,
              keep(),
              sparsity,
              new TrainedSplice.Losses(perElement, perElement),
              course);
      auxiliary =
          AuxiliaryLoss.record(
              tape,
              splice,
              expected.at("/sizes/aux_k").intValue(),
              coefficient("alpha") * perElement);
      tape.bind(device);
      tape.forward();
      tape.backward();
      course.follow();
    }

    double mean(Var losses) {
      double sum = 0;
      for (float loss : losses.value().toArray()) {
        sum += loss;
      }
      return sum / (tokens * d);
    }
  }

  private MemorySegment keep() {
    byte[] flags = new byte[tokens];
    expected.at("/sizes/kept").forEach(token -> flags[token.intValue()] = 1);
    MemorySegment keep = device.allocate(tokens);
    Transfer.copy(host(flags), keep);
    return keep;
  }

  private MemorySegment host(byte[] flags) {
    MemorySegment staging = device.allocateStaging(flags.length);
    staging.copyFrom(MemorySegment.ofArray(flags));
    return staging;
  }

  @ParameterizedTest
  @EnumSource(Architecture.class)
  void everyGradient(Architecture architecture) {
    Trained trained = new Trained(architecture);
    String name = architecture.name().toLowerCase(Locale.ROOT);
    for (Parameter parameter : trained.parameters.parameters()) {
      String key = name + "/grad/" + parameter.name();
      Golden.assertClose(key, values(key), parameter.gradient().toArray(), GRADIENT);
    }
  }

  @ParameterizedTest
  @EnumSource(Architecture.class)
  void everyLoss(Architecture architecture) {
    Trained trained = new Trained(architecture);
    JsonNode losses = trained.losses;
    if (architecture != Architecture.MATRYOSHKA) { // its error is reported of the last prefix
      close(losses.get("error"), trained.mean(trained.splice.error()));
    }
    double alpha = coefficient("alpha");
    close(losses.get("auxiliary"), alpha * trained.mean(trained.auxiliary));
    Activity.Counts activity = trained.splice.activity().read();
    assertEquals(losses.get("active").intValue(), activity.active());
    assertEquals(losses.get("dead").intValue(), activity.dead());
    assertEquals(tokens - expected.at("/sizes/kept").size(), activity.tokens());
    float threshold = trained.sae.batchThreshold().toArray()[0];
    if (architecture.isBatchwide()) {
      close(losses.get("threshold"), threshold);
    } else {
      assertEquals(-1, threshold);
    }
  }

  private static void close(JsonNode expected, double actual) {
    assertEquals(expected.doubleValue(), actual, LOSS * Math.abs(expected.doubleValue()));
  }

  /** What evaluations see is what training computes, batchwide thresholds aside. */
  @ParameterizedTest
  @EnumSource(
      value = Architecture.class,
      names = {"STANDARD", "GATED", "JUMPRELU", "TOPK"})
  void foldedComputesTheSame(Architecture architecture) {
    Trained trained = new Trained(architecture);
    Tensor x = Tensor.allocate(device, tokens, d);
    x.copyFrom(values("x"));
    Tape tape = new Tape(device);
    Sae folded = trained.sae.folded(device);
    Var out = tape.output(Splice.into(tape, tape.constant(x), folded, keep()).output());
    tape.bind(device).forward();
    Golden.assertClose(
        "output", trained.splice.output().value().toArray(), out.value().toArray(), 2e-6);
  }

  /** A batchwide SAE keeps what is above the smallest value that its batch kept. */
  @Test
  void aBatchwideSaeBecomesAJumpRelu() {
    Trained trained = new Trained(Architecture.BATCHTOPK);
    Sae folded = trained.sae.folded(device);
    float threshold = trained.sae.batchThreshold().toArray()[0];
    float[] expectedThresholds = new float[m];
    java.util.Arrays.fill(expectedThresholds, threshold);
    assertArrayEquals(expectedThresholds, folded.threshold().value().toArray());
    Tensor x = Tensor.allocate(device, tokens, d);
    x.copyFrom(values("x"));
    Tape tape = new Tape(device);
    Splice splice = Splice.into(tape, tape.constant(x), folded, keep());
    tape.bind(device).forward();
    Latents.Lists lists = splice.latents().read();
    int active = 0;
    for (int t = 0; t < tokens; t++) {
      active += lists.active(t);
    }
    // Strictly above: the one latent at the threshold is left out.
    assertEquals(trained.losses.get("active").intValue() - 1, active);
  }
}
