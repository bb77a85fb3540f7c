package espalier.autograd;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import espalier.device.Device;
import espalier.device.ElementType;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class HeadChunkTest {

  @ParameterizedTest
  @CsvSource({
    "BF16, 1024, 256000, 2, 512",
    "BF16, 4096, 256000, 2, 512",
    "BF16, 700, 256000, 2, 384", // and 316, not 512 and 188
    "BF16, 1024, 256000, 1, 1024",
    "BF16, 4096, 49152, 2, 1024",
    "BF16, 100, 49152, 2, 100",
    "BF16, 5000, 4000000, 2, 128", // a tile, however many bytes it has
    "BF16, 0, 100, 2, 0",
    "F32, 1024, 256000, 2, 256",
  })
  void onGpus(ElementType type, long tokens, long vocab, int copies, long chunk) {
    assertEquals(chunk, LanguageModelHead.gpuChunk(type, tokens, vocab, copies));
  }

  @Test
  void moreTokensTakeNoMoreMemoryOnGpus() {
    for (long tokens = 1; tokens < 20_000; tokens += 37) {
      long chunk = LanguageModelHead.gpuChunk(ElementType.BF16, tokens, 256_000, 2);
      assertTrue(2 * chunk * 256_000 * Float.BYTES <= 1L << 30, () -> "chunk " + chunk);
    }
  }

  @Test
  void onTheProcessor() {
    try (Device device = Device.openCpu()) {
      assertEquals(256, LanguageModelHead.chunk(device, 4096, 49_152, 2));
      assertEquals(48, LanguageModelHead.chunk(device, 1024, 256_000, 2));
      assertEquals(16, LanguageModelHead.chunk(device, 1024, 10_000_000, 2));
      assertEquals(7, LanguageModelHead.chunk(device, 7, 100, 2));
    }
  }
}
