package espalier.recipe;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.device.Device;
import espalier.device.ElementType;
import espalier.device.Profile;
import espalier.format.ModelConfig;
import espalier.model.LanguageModel;
import espalier.sae.Sae;
import espalier.tensor.Tensor;
import espalier.train.StepProfiler;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.OptionalInt;
import java.util.Set;
import java.util.TreeSet;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Figures that are measured, where they can be checked: by counting, and against each other. */
class BenchTest {

  private static ObjectNode step(String layers) {
    return new StepBench(
            new BenchSettings("tiny", 24, 2, 128, OptionalInt.empty(), 4, layers, 8, 2),
            Optional.empty(),
            Console.silent())
        .run();
  }

  /**
   * Every call lies within its step, and what the calls say they compute is what the step needs,
   * counted from the other end.
   */
  @Test
  void theProfileHoldsTheWholeStep(@TempDir Path folder) throws IOException {
    Path file = folder.resolve("trace.json");
    ByteArrayOutputStream said = new ByteArrayOutputStream();
    ObjectNode line =
        new StepBench(
                new BenchSettings("tiny", 24, 2, 128, OptionalInt.empty(), 4, "after", 8, 2),
                Optional.of(file),
                Console.to(new PrintStream(said, true, StandardCharsets.UTF_8)))
            .run();
    JsonNode events = new ObjectMapper().readTree(file.toFile()).get("traceEvents");
    int steps = 0;
    double end = 0;
    double flops = 0;
    Set<String> operations = new HashSet<>();
    for (JsonNode event : events) {
      double from = event.get("ts").doubleValue();
      double to = from + event.get("dur").doubleValue();
      switch (event.get("cat").textValue()) {
        case "step" -> {
          steps++;
          assertTrue(from >= end - 1e-3, "steps follow each other");
          end = to;
        }
        case "operation" -> operations.add(event.get("name").textValue());
        default -> {
          assertTrue(to <= end + 1e-3, () -> "within its step: " + event);
          if (COUNTED.contains(event.get("name").textValue())) {
            double ofCall = event.get("args").get("flops").doubleValue();
            flops += ofCall;
            if (!event.get("name").textValue().startsWith("esp_attention")) {
              assertEquals(ofCall, flopsOfProducts(event), 1e-9 * ofCall, event::toString);
            }
          }
        }
      }
    }
    assertEquals(StepProfiler.STEPS, steps);
    assertTrue(
        operations.containsAll(List.of("linear backward", "attention forward", "headKl forward")),
        operations::toString);
    double sparse = 2 * 48 * 64 * 8; // decoding depends on the data
    double needed = line.get("needed_tflop").doubleValue() * 1e12 - sparse;
    assertEquals(needed, flops / steps, 1e-9 * needed);
    String table = said.toString(StandardCharsets.UTF_8);
    assertTrue(table.contains("linear backward") && table.contains("outside kernels"), table);
  }

  private static double flopsOfProducts(JsonNode event) {
    double flops = 0;
    for (JsonNode product : event.get("args").get("products")) {
      String[] words = product.textValue().split(" ");
      assertTrue(words[0].matches("[NT]{2}"), words[0]);
      double m = Long.parseLong(words[1]);
      flops += 2 * m * Long.parseLong(words[2]) * Long.parseLong(words[3]);
    }
    return flops;
  }

  /** The kernels that StepFlops counts. */
  private static final Set<String> COUNTED =
      Set.of(
          "esp_linear",
          "esp_gemm",
          "esp_attention_forward",
          "esp_attention_backward",
          "esp_head_kl",
          "esp_sae_encode");

  /** What is asked of the library that is no kernel costs nothing, and says nothing. */
  @Test
  void aProfileHoldsKernelsOnly() {
    try (Device device = Device.open()) {
      Tensor x = Tensor.allocate(device, 1, 4, ElementType.F32);
      device.beginProfile();
      device.kernels().setThreads(device.kernels().threads());
      device.kernels().fill(x.data(), 0, 4);
      List<Profile.Call> calls = device.endProfile();
      assertEquals(List.of("esp_fill"), calls.stream().map(Profile.Call::kernel).toList());
      assertEquals(16, calls.getFirst().bytes());
    }
  }

  @Test
  void aProfileChangesNothing(@TempDir Path folder) {
    BenchSettings settings =
        new BenchSettings("tiny", 24, 2, 128, OptionalInt.empty(), 4, "all", 8, 12);
    JsonNode without =
        new StepBench(settings, Optional.empty(), Console.silent()).run().get("last_kl");
    JsonNode with =
        new StepBench(settings, Optional.of(folder.resolve("t.json")), Console.silent())
            .run()
            .get("last_kl");
    assertEquals(without, with);
  }

  @Test
  void aStepIsMeasured() {
    ObjectNode line = step("after");
    assertEquals(1, line.get("sae_layer").intValue());
    assertEquals(
        48 / line.get("step_ms").doubleValue() * 1e3,
        line.get("tokens_per_second").doubleValue(),
        1e-6);
    assertTrue(line.get("fastest_ms").doubleValue() <= line.get("step_ms").doubleValue());
    double share =
        line.get("needed_tflop").doubleValue()
            / (line.get("step_ms").doubleValue() * 1e-3)
            / line.get("gemm_tflops").doubleValue();
    assertEquals(share, line.get("share_of_gemm_rate").doubleValue(), 1e-9 * share);
    assertTrue(line.get("last_kl").doubleValue() > 0, "the SAE changes what the model predicts");
    assertTrue(line.get("peak_bytes").longValue() > 300 * 64 * 2, "at least the embedding");
  }

  /** The weights and tokens are a function of the settings, and training learns from them. */
  @Test
  void theSameStepsAgain() {
    JsonNode first = step("all").get("last_kl");
    assertEquals(first, step("all").get("last_kl"));
  }

  /** By hand: 2 layers of width 64, SAE behind block 0, an adapter of rank 4 in block 1. */
  @Test
  void floatingPointOperationsAreCounted() {
    ModelConfig config = BenchShape.of("tiny");
    try (Device device = Device.open()) {
      LanguageModel model = LanguageModel.random(device, config, 24, 1, Map.of());
      double tokens = 48;
      // q, k, v: 64 to 128; o: 64 to 64; gate, up: 64 to 256; down: 128 to 64.
      double qkv = 2 * tokens * 64 * 128;
      double rest = 2 * tokens * (64 * 64 + 64 * 256 + 128 * 64);
      // A query sees at most 16 keys in layers 0 and 2, all before it in layers 1 and 3.
      double windowed = 4 * 2 * (16 * 17 / 2.0 + 8 * 16) * 64;
      double whole = 4 * 2 * (24 * 25 / 2.0) * 64;
      double head = 3 * 2 * tokens * 64 * 300;
      double encode = 2 * tokens * 64 * 128;
      double sparse = 2 * tokens * 64 * 8;
      // Inputs of 3, 1, 2, 1 projections; outputs as above.
      double loraA = 2 * tokens * 4 * (3 * 64 + 64 + 2 * 64 + 128);
      double loraB = 2 * tokens * 4 * (128 + 64 + 256 + 64);
      double lowestA = 2 * tokens * 4 * 3 * 64;

      double behind =
          head
              + encode
              + sparse
              + 2 * (qkv + rest) // blocks 0 and 1, once
              + windowed
              + whole
              + 4 * (qkv + rest) // blocks 2 and 3, forward of teacher and student
              + 2 * (windowed + whole)
              + 2 * (qkv + rest)
              - qkv // backward
              + 2.5 * (windowed + whole)
              + 2 * (3 * loraA + 3 * loraB)
              - lowestA;
      assertEquals(
          behind,
          new StepFlops(model, 2, 24, 1, 128, 8, new TreeSet<>(List.of(2, 3)), 4).total(),
          1);
      double everywhere =
          head
              + encode
              + 3 * sparse
              + 4 * 3 * (qkv + rest)
              - qkv
              + 4.5 * 2 * (windowed + whole)
              + 4 * (3 * loraA + 3 * loraB)
              - lowestA;
      assertEquals(
          everywhere,
          new StepFlops(model, 2, 24, 1, 128, 8, new TreeSet<>(List.of(0, 1, 2, 3)), 4).total(),
          1);
    }
  }

  @Test
  void theThresholdGivesTheL0() {
    try (Device device = Device.open()) {
      Tensor x = Tensor.of(new Rates(device).random(64 * 32, 1), 64, 32, device.type());
      Sae sae = RandomSae.of(device, 32, 512, 2);
      RandomSae.fit(device, sae, x, 20);
      Tensor z = Tensor.allocate(device, 64, 512, device.type());
      device
          .kernels()
          .gemm(
              false,
              true,
              64,
              512,
              32,
              1,
              x.data(),
              32,
              sae.wEnc().value().data(),
              32,
              0,
              z.data(),
              512);
      float threshold = sae.threshold().value().get(0, 0);
      int active = 0;
      for (float value : z.toArray()) {
        if (value > threshold) active++;
      }
      assertEquals(20, active / 64.0, 3); // 16 of the 64 tokens decide
    }
  }

  @Test
  void everyKernelIsMeasured() {
    List<ObjectNode> lines = new ArrayList<>();
    new KernelBench(lines::add).run();
    List<String> kernels = lines.stream().map(line -> line.get("kernel").textValue()).toList();
    for (int headDim : new int[] {64, 128, 256}) {
      assertTrue(kernels.contains("attention forward, head_dim " + headDim), "" + kernels);
      assertTrue(kernels.contains("attention backward, head_dim " + headDim), "" + kernels);
    }
    for (String kernel :
        List.of("gemm", "copy", "SAE encode", "SAE decode", "LoRA linear", "head with KL")) {
      assertTrue(kernels.contains(kernel), kernel);
    }
    List<ObjectNode> linear =
        lines.stream()
            .filter(line -> line.get("kernel").textValue().equals("linear with terms"))
            .toList();
    assertEquals(2 * 4, linear.size());
    for (ObjectNode line : linear) {
      double chosen = line.get(line.get("chosen").textValue() + "_ms").doubleValue();
      double fastest = line.get(line.get("fastest").textValue() + "_ms").doubleValue();
      assertTrue(fastest <= chosen, line::toString);
      assertTrue(fastest <= line.get("extra_columns_ms").doubleValue(), line::toString);
      assertTrue(line.get("rule_holds").booleanValue() || fastest < chosen, line::toString);
    }
    for (ObjectNode line : lines) {
      line.properties()
          .forEach(
              field -> {
                if (field.getValue().isDouble()) {
                  assertTrue(field.getValue().doubleValue() > 0, () -> line.toString());
                }
              });
    }
  }
}
