package espalier.format;

import static espalier.Refused.assertRefused;
import static org.junit.jupiter.api.Assertions.assertEquals;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.StringJoiner;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** Files whose sizes no SAE has. */
class LlamaScopeTest {

  private static final String CONFIG =
      """
      {"hook_point_in": "blocks.1.hook_resid_post", "hook_point_out": "blocks.1.hook_resid_post",
       "use_decoder_bias": false, "act_fn": "topk", "top_k": %d, "norm_activation": "dataset-wise",
       "dataset_average_activation_norm": {"in": 3.0, "out": 3.0}}
      """;

  @TempDir Path folder;

  @Test
  void readsTheShapesOfAnSae() throws IOException {
    write("[3, 2]", "[2, 3]", 3);
    try (SaeFile file = SaeFile.open(folder)) {
      assertEquals(3, file.weights().dSae());
      assertEquals(3, file.weights().k());
    }
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      textBlock =
          """
          []     | [2, 3]          | tensor encoder.weight is no matrix
          [3, 2] | []              | tensor decoder.weight is no matrix
          [3, 2] | [2]             | tensor decoder.weight is no matrix
          [0, 2] | [2, 0]          | the SAE's number of latents is 0, not in [1, 2^31)
          [3, 0] | [0, 3]          | the SAE's width of the input is 0, not in [1, 2^31)
          [3, 2] | [0, 3]          | the SAE's width of the output is 0, not in [1, 2^31)
          [0, 2] | [2147483639, 0] | the SAE's number of latents is 0, not in [1, 2^31)
          [3, 2] | [2147483657, 0] | the SAE's width of the output is 2147483657, not in [1, 2^31)
          """)
  void refusesSizes(String encoder, String decoder, String fault) throws IOException {
    write(encoder, decoder, 1);
    assertRefused(
        folder.resolve("checkpoints/final.safetensors"), () -> SaeFile.open(folder), fault);
  }

  @Test
  void refusesMoreActiveLatentsThanThereAre() throws IOException {
    write("[3, 2]", "[2, 3]", 4);
    assertRefused(
        folder.resolve("hyperparams.json"), () -> SaeFile.open(folder), "top_k is 4 of 3 latents");
  }

  /** Ones of these shapes. */
  private void write(String encoder, String decoder, int k) throws IOException {
    Files.writeString(folder.resolve("hyperparams.json"), CONFIG.formatted(k));
    String bias = encoder.equals("[]") ? "[]" : encoder.replaceFirst(",.*", "]");
    StringJoiner header = new StringJoiner(", ", "{", "}");
    long at = 0;
    for (String[] tensor :
        new String[][] {
          {"encoder.weight", encoder}, {"encoder.bias", bias}, {"decoder.weight", decoder}
        }) {
      long end = at + Float.BYTES * elements(tensor[1]);
      header.add(
          "\"%s\": {\"dtype\": \"F32\", \"shape\": %s, \"data_offsets\": [%d, %d]}"
              .formatted(tensor[0], tensor[1], at, end));
      at = end;
    }
    byte[] json = header.toString().getBytes(StandardCharsets.UTF_8);
    ByteBuffer bytes =
        ByteBuffer.allocate(Long.BYTES + json.length + (int) at).order(ByteOrder.LITTLE_ENDIAN);
    bytes.putLong(json.length).put(json);
    while (bytes.hasRemaining()) {
      bytes.putFloat(1);
    }
    Files.createDirectories(folder.resolve("checkpoints"));
    Files.write(folder.resolve("checkpoints/final.safetensors"), bytes.array());
  }

  private static long elements(String shape) {
    long product = 1;
    for (String size : shape.replaceAll("[\\[\\] ]", "").split(",")) {
      product *= size.isEmpty() ? 1 : Long.parseLong(size);
    }
    return product;
  }
}
