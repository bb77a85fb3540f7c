package espalier.sae;

import espalier.WideSae;
import espalier.device.Device;
import espalier.distributed.CollectivesProgram;
import espalier.distributed.OneRank;
import espalier.distributed.Ranks;
import espalier.format.SaeWeights.Activation;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/**
 * One process and NCCL, for machines with one GPU: the collectives, and SAEs of which the one rank
 * holds the only part. All that ranks do is done, their messages go from it to itself, and as
 * products have the shapes that they have where the SAE is whole, bits are the same with real
 * cuBLAS, too.
 */
class NcclOneRankTest {

  private static final List<Activation> KINDS =
      List.of(Activation.TOPK, Activation.JUMPRELU, Activation.RELU);

  @TempDir private Path temp;

  @FunctionalInterface
  private interface Check {
    void on(Device device, Ranks ranks) throws Exception;
  }

  private static void check(Check check) throws Exception {
    try (Device device = Device.open()) {
      Ranks ranks = OneRank.on(device);
      check.on(device, ranks);
      ranks.detach();
    }
  }

  @Test
  void collectives() throws Exception {
    check((device, ranks) -> CollectivesProgram.run(ranks, device));
  }

  @Test
  void everyFormat() throws Exception {
    check(
        (device, ranks) -> {
          for (Path sae : ShardedSpliceTest.everyKind()) {
            ShardedSpliceProgram.compare(device, ranks, true, 11, sae);
          }
        });
  }

  @Test
  void wideOnes() throws Exception {
    for (Activation activation : KINDS) {
      WideSae.write(temp.resolve(activation.label()), activation, 75, 1203, 33);
    }
    check(
        (device, ranks) -> {
          for (Activation activation : KINDS) {
            Path sae = temp.resolve(activation.label());
            ShardedSpliceProgram.compare(device, ranks, false, 96, sae);
          }
        });
  }
}
