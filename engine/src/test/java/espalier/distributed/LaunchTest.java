package espalier.distributed;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import espalier.distributed.Launch.Starter;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;

class LaunchTest {

  private static final Map<String, String> OPEN_MPI =
      Map.of(
          "OMPI_COMM_WORLD_RANK", "5",
          "OMPI_COMM_WORLD_SIZE", "8",
          "OMPI_COMM_WORLD_LOCAL_RANK", "1",
          "OMPI_COMM_WORLD_LOCAL_SIZE", "4");

  private static final Map<String, String> SLURM =
      Map.of(
          "SLURM_PROCID", "9",
          "SLURM_STEP_NUM_TASKS", "11",
          "SLURM_LOCALID", "1",
          "SLURM_NODEID", "2",
          "SLURM_STEP_TASKS_PER_NODE", "4(x2),3");

  private static final Map<String, String> TORCHRUN =
      Map.of(
          "RANK", "3",
          "WORLD_SIZE", "4",
          "LOCAL_RANK", "1",
          "LOCAL_WORLD_SIZE", "2",
          "MASTER_ADDR", "node1",
          "MASTER_PORT", "29500");

  @Test
  void nobodyStartedIt() {
    assertEquals(Launch.ALONE, Launch.detect(Map.of("PATH", "/bin")));
    assertTrue(Launch.ALONE.isAlone());
  }

  @Test
  void launchersSayWhoThisIs() {
    assertEquals(new Launch(Starter.OPEN_MPI, 5, 8, 1, 4), Launch.detect(OPEN_MPI));
    assertEquals(
        new Launch(Starter.MPICH, 1, 2, 1, 2),
        Launch.detect(
            Map.of(
                "PMI_RANK", "1", "PMI_SIZE", "2", "MPI_LOCALRANKID", "1", "MPI_LOCALNRANKS", "2")));
    assertEquals(new Launch(Starter.SLURM, 9, 11, 1, 3), Launch.detect(SLURM));
    assertEquals(new Launch(Starter.TORCHRUN, 3, 4, 1, 2), Launch.detect(TORCHRUN));
  }

  @Test
  void aBatchScriptOfSlurmIsOneProcess() {
    assertEquals(Launch.ALONE, Launch.detect(Map.of("SLURM_PROCID", "0", "SLURM_NTASKS", "8")));
  }

  /** Launchers inside launchers: the innermost counts. */
  @Test
  void theInnermostLauncherCounts() {
    Map<String, String> inSlurm = new HashMap<>(SLURM);
    inSlurm.putAll(TORCHRUN);
    assertEquals(Starter.SLURM, Launch.detect(inSlurm).starter()); // PyTorch's set by hand
    inSlurm.put("TORCHELASTIC_RUN_ID", "none");
    assertEquals(Starter.TORCHRUN, Launch.detect(inSlurm).starter());
    Map<String, String> mpi = new HashMap<>(SLURM);
    mpi.putAll(OPEN_MPI);
    assertEquals(Starter.OPEN_MPI, Launch.detect(mpi).starter());
  }

  @Test
  void nonsenseIsRefused() {
    Map<String, String> noNumber = new HashMap<>(OPEN_MPI);
    noNumber.put("OMPI_COMM_WORLD_RANK", "x");
    assertTrue(refused(noNumber).contains("OMPI_COMM_WORLD_RANK"));
    Map<String, String> outside = new HashMap<>(OPEN_MPI);
    outside.put("OMPI_COMM_WORLD_RANK", "8");
    assertTrue(refused(outside).contains("contradicts itself"));
    Map<String, String> unknownNode = new HashMap<>(SLURM);
    unknownNode.put("SLURM_NODEID", "3");
    assertTrue(refused(unknownNode).contains("SLURM_STEP_TASKS_PER_NODE"));
  }

  @Test
  void onCpusTorchrunIsRefusedByName() {
    Launch launch = Launch.detect(TORCHRUN);
    LaunchException e = assertThrows(LaunchException.class, () -> Ranks.join(launch));
    assertTrue(e.getMessage().contains("mpirun"), e.getMessage());
  }

  @Test
  void torchrunsRanksMeetAtThePortBehindItsOwn() {
    assertEquals(29501, TorchRanks.port(Map.of()));
    assertEquals(65535, TorchRanks.port(Map.of("MASTER_PORT", "65534")));
    for (String wrong : List.of("x", "", "65535", "-1")) {
      LaunchException e =
          assertThrows(
              LaunchException.class, () -> TorchRanks.port(Map.of("MASTER_PORT", wrong)), wrong);
      assertTrue(e.getMessage().startsWith("MASTER_PORT is "), e.getMessage());
    }
  }

  private static String refused(Map<String, String> environment) {
    return assertThrows(LaunchException.class, () -> Launch.detect(environment)).getMessage();
  }
}
