package espalier.kernels;

import static espalier.bindings.kernels.Kernels.ESP_CPU;
import static espalier.bindings.kernels.Kernels.esp_has_products;
import static espalier.bindings.kernels.Kernels.esp_library_backend;
import static espalier.bindings.kernels.Kernels.esp_set_gemm;
import static espalier.bindings.kernels.Kernels.esp_set_stream;
import static espalier.bindings.kernels.Kernels.esp_transfer;
import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import espalier.bindings.NativeException;
import espalier.device.ElementType;
import java.io.IOException;
import java.lang.foreign.MemorySegment;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.TreeSet;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;

class LibraryTest extends KernelTest {

  private static final Path HEADER = Path.of("../native/include/espalier.h");
  private static final Path TESTS = Path.of("src/test/java/espalier/kernels");

  /**
   * A kernel without a test fails here: each must be called by its Java name, or named, in this
   * package.
   */
  @Test
  void everyKernelHasATest() throws IOException {
    StringBuilder read = new StringBuilder();
    try (Stream<Path> files = Files.list(TESTS)) {
      for (Path file : files.sorted().toList()) read.append(Files.readString(file));
    }
    String tests = read.toString();
    TreeSet<String> untested = new TreeSet<>();
    Matcher declaration =
        Pattern.compile("ESP_API[^;(]*?\\b(esp_\\w+)\\(").matcher(Files.readString(HEADER));
    int found = 0;
    while (declaration.find()) {
      found++;
      String name = declaration.group(1);
      String call = "kernels." + javaName(name) + "(";
      if (Stream.of(call, '"' + name + '"', name + "(").noneMatch(tests::contains)) {
        untested.add(name);
      }
    }
    assertTrue(found > 30, "the header was read");
    assertEquals(new TreeSet<>(), untested);
  }

  private static String javaName(String name) {
    return Pattern.compile("_(\\w)")
        .matcher(name.substring("esp_".length()))
        .replaceAll(match -> match.group(1).toUpperCase());
  }

  @Test
  void threadsAreCountedAndRefused() {
    onTheCpuOnly("a GPU's kernels have no threads of the host");
    kernels.setThreads(3);
    assertEquals(3, kernels.threads());
    kernels.setThreads(0);
    String said = System.getenv("OMP_NUM_THREADS");
    assertEquals(
        said == null ? Runtime.getRuntime().availableProcessors() : Integer.parseInt(said),
        kernels.threads());
    NativeException e = assertThrows(NativeException.class, () -> kernels.setThreads(-1));
    assertEquals("esp_set_threads", e.operation());
    assertEquals(-1, e.status());
    assertTrue(e.getMessage().contains("got -1"), e.getMessage());
  }

  @Test
  void errorsBelongToTheirThread() throws InterruptedException {
    assertThrows(NativeException.class, () -> kernels.setThreads(-7));
    String[] seen = new String[1];
    Thread other =
        new Thread(() -> seen[0] = espalier.bindings.kernels.Kernels.esp_last_error().getString(0));
    other.start();
    other.join();
    assertEquals("", seen[0]);
    String here = espalier.bindings.kernels.Kernels.esp_last_error().getString(0);
    assertTrue(here.contains("got -7"), here);
  }

  @Test
  void productsOfTheCpuAreItsOwn() {
    onTheCpuOnly("a GPU's products are cuBLAS's");
    assertEquals(0, esp_set_gemm(MemorySegment.NULL, MemorySegment.NULL));
    assertEquals(-1, esp_set_gemm(buffers.floats(1), MemorySegment.NULL));
  }

  /** A CPU's are what it was compiled for, which it must have; a GPU multiplies either. */
  @Test
  void productsByInstructionsMadeForThem() throws IOException {
    boolean cpu = esp_library_backend() == ESP_CPU();
    int vectors = 1, unit = 2;
    assertEquals(cpu ? vectors : unit, esp_has_products(ElementType.F32.code()));
    assertEquals(0, esp_has_products(3));
    int bfloat16 = esp_has_products(ElementType.BF16.code());
    String processor = Files.readString(Path.of("/proc/cpuinfo"));
    if (!cpu) {
      assertEquals(unit, bfloat16);
    } else if (bfloat16 != 0) {
      assertTrue(processor.contains(bfloat16 == unit ? "amx_bf16" : "avx512_bf16"));
    }
  }

  /** The memory that tests take is the host's: both directions are copies within it. */
  @Test
  void transfersBytes() {
    MemorySegment target = buffers.floats(3);
    assertEquals(0, esp_transfer(target, buffers.input(1f, 2f, 3f), 12));
    assertArrayEquals(new float[] {1, 2, 3}, TestBuffers.toFloats(target));
    assertEquals(-1, esp_transfer(target, target, -1));
  }

  @Test
  void theCpuHasNoStreams() {
    assumeTrue(esp_library_backend() == ESP_CPU());
    assertEquals(0, esp_set_stream(NULL));
    assertEquals(-1, esp_set_stream(buffers.floats(1)));
  }

  @Test
  void theAbiIsTheHeaders() throws IOException {
    Matcher version =
        Pattern.compile("#define ESP_ABI_VERSION (\\d+)").matcher(Files.readString(HEADER));
    assertTrue(version.find());
    int found = espalier.bindings.kernels.Kernels.esp_abi_version(); // "esp_abi_version"
    assertEquals(Integer.parseInt(version.group(1)), found);
  }

  @Test
  void brokenContractsAreRefusedByTheLibraryToo() {
    MemorySegment x = buffers.floats(64);
    assertRefused(() -> kernels.convert(x, 9, x, 1), "no dtype 9");
    assertRefused(() -> kernels.dropout(x, x, 1, 1, buffers.longs(1), 0, false), "p must be in");
    assertRefused(() -> kernels.rope(x, 4, x, x, 2, 1, 1, 1, 4, 4), "sign must be 1 or -1");
    assertRefused(() -> kernels.rope(x, 4, x, x, 1, 1, 1, 1, 4, 3), "rotary_dim=3");
    assertRefused(() -> kernels.gatedForward(x, 4, x, 2, 1, 2), "no activation 4");
    assertRefused(() -> kernels.activationForward(x, -1, x, 1), "no activation -1");
  }

  @Test
  void idsOutsideTheTableAreRefused() {
    onTheCpuOnly("the host cannot look at what is in a GPU's memory");
    MemorySegment x = buffers.floats(64);
    assertRefused(
        () -> kernels.embeddingForward(buffers.input(0, 4), x, 1, x, 2, 4, 2), "ids[1] = 4");
    assertRefused(
        () -> kernels.embeddingBackward(buffers.input(-1), x, 1, x, 1, 4, 2), "ids[0] = -1");
  }

  private static void assertRefused(org.junit.jupiter.api.function.Executable call, String why) {
    NativeException e = assertThrows(NativeException.class, call);
    assertEquals(-1, e.status());
    assertTrue(e.getMessage().contains(why), e.getMessage());
  }
}
