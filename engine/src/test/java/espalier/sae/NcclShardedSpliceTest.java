package espalier.sae;

import espalier.WideSae;
import espalier.distributed.MpiJob;
import espalier.format.SaeWeights.Activation;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** SAEs that GPUs hold together, on the emulator and its stand-in for NCCL: the bits of one. */
@Tag("mpi")
class NcclShardedSpliceTest {

  @TempDir private Path temp;

  @BeforeEach
  void onTheEmulator() {
    MpiJob.requireEmulator();
  }

  @Test
  void everyFormat() throws Exception {
    ShardedSpliceTest.run(
        "openmpi", 3, MpiJob.EMULATOR, "narrow", 11, ShardedSpliceTest.everyKind());
  }

  /** As {@link ShardedSpliceTest#wideOnes}; in bfloat16 with the kernel that makes no dense z. */
  @ParameterizedTest
  @CsvSource({"2, f32, 75", "3, f32, 75", "2, bf16, 72", "3, bf16, 75"})
  void wideOnes(int ranks, String dtype, int width) throws Exception {
    List<Path> saes = new ArrayList<>();
    for (Activation activation : List.of(Activation.TOPK, Activation.JUMPRELU, Activation.RELU)) {
      Path folder = temp.resolve(activation.label());
      WideSae.write(folder, activation, width, 1203, 33);
      saes.add(folder);
    }
    ShardedSpliceTest.run("openmpi", ranks, MpiJob.emulator(dtype), "wide", 37, saes);
  }
}
