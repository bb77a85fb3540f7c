package espalier.distributed;

import java.util.Map;

/**
 * Which of a job's processes this one is, as the program that started it says in the environment.
 *
 * @param rank counted from 0
 * @param size of the job; 1: this process is alone and needs neither MPI nor NCCL
 * @param localRank among the processes of this machine
 * @param localSize processes on this machine
 */
public record Launch(Starter starter, int rank, int size, int localRank, int localSize) {

  /** Who starts processes. */
  public enum Starter {
    /** Nobody: a shell, say. */
    NONE,
    /** {@code mpirun} or {@code mpiexec} of Open MPI 4 or 5. */
    OPEN_MPI,
    /** {@code mpirun} or {@code mpiexec} of MPICH and what descends from it (Hydra). */
    MPICH,
    /** {@code srun}. */
    SLURM,
    /** {@code torchrun}, or whatever else sets PyTorch's variables. */
    TORCHRUN;

    @Override
    public String toString() {
      return switch (this) {
        case NONE -> "nobody";
        case OPEN_MPI -> "Open MPI";
        case MPICH -> "MPICH";
        case SLURM -> "Slurm";
        case TORCHRUN -> "torchrun";
      };
    }
  }

  /** A process of its own. */
  public static final Launch ALONE = new Launch(Starter.NONE, 0, 1, 0, 1);

  /**
   * @throws LaunchException if the variables contradict each other
   */
  public static Launch detect(Map<String, String> environment) {
    Launch launch = new Variables(environment).launch();
    if (launch.size < 1
        || launch.rank < 0
        || launch.rank >= launch.size
        || launch.localRank < 0
        || launch.localSize < 1) {
      throw new LaunchException("the environment contradicts itself: " + launch);
    }
    return launch;
  }

  public boolean isAlone() {
    return size == 1;
  }

  private record Variables(Map<String, String> environment) {

    Launch launch() {
      if (has("TORCHELASTIC_RUN_ID")) { // inside srun or mpirun, which start one torchrun a node
        return torchrun();
      }
      if (has("OMPI_COMM_WORLD_SIZE")) {
        return launch(
            Starter.OPEN_MPI,
            "OMPI_COMM_WORLD_RANK",
            "OMPI_COMM_WORLD_SIZE",
            "OMPI_COMM_WORLD_LOCAL_RANK",
            "OMPI_COMM_WORLD_LOCAL_SIZE");
      }
      if (has("PMI_SIZE") && has("MPI_LOCALNRANKS")) { // inside srun, which starts Hydra's proxies
        return launch(Starter.MPICH, "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS");
      }
      // A batch script has SLURM_PROCID too; only what srun starts is one of several.
      if (has("SLURM_STEP_NUM_TASKS") && has("SLURM_PROCID")) {
        return slurm();
      }
      if (has("RANK") && has("WORLD_SIZE") && has("MASTER_ADDR")) {
        return torchrun();
      }
      return ALONE;
    }

    private Launch torchrun() {
      return launch(Starter.TORCHRUN, "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE");
    }

    private Launch launch(
        Starter starter, String rank, String size, String localRank, String localSize) {
      return new Launch(
          starter,
          number(rank),
          number(size),
          has(localRank) ? number(localRank) : 0,
          has(localSize) ? number(localSize) : 1);
    }

    private Launch slurm() {
      return new Launch(
          Starter.SLURM,
          number("SLURM_PROCID"),
          number("SLURM_STEP_NUM_TASKS"),
          has("SLURM_LOCALID") ? number("SLURM_LOCALID") : 0,
          has("SLURM_STEP_TASKS_PER_NODE")
              ? tasksOnNode(environment.get("SLURM_STEP_TASKS_PER_NODE"))
              : 1);
    }

    /** Such as {@code 4(x2),3}: four tasks on the first two nodes, three on the next. */
    private int tasksOnNode(String perNode) {
      int node = has("SLURM_NODEID") ? number("SLURM_NODEID") : 0;
      for (String part : perNode.split(",")) {
        String[] taskAndTimes = part.split("\\(x|\\)");
        node -= taskAndTimes.length == 1 ? 1 : parse("SLURM_STEP_TASKS_PER_NODE", taskAndTimes[1]);
        if (node < 0) {
          return parse("SLURM_STEP_TASKS_PER_NODE", taskAndTimes[0]);
        }
      }
      throw new LaunchException("SLURM_STEP_TASKS_PER_NODE has no node like this one: " + perNode);
    }

    private boolean has(String name) {
      return !environment.getOrDefault(name, "").isBlank();
    }

    private int number(String name) {
      return parse(name, environment.getOrDefault(name, ""));
    }
  }

  /** The number that an environment variable holds. */
  static int parse(String name, String value) {
    try {
      return Integer.parseInt(value.strip());
    } catch (NumberFormatException e) {
      throw new LaunchException("%s is no number: \"%s\"".formatted(name, value), e);
    }
  }
}
