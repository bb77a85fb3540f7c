package espalier.distributed;

import static org.junit.jupiter.api.Assertions.fail;
import static org.junit.jupiter.api.Assumptions.abort;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import java.io.IOException;
import java.lang.management.ManagementFactory;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import java.util.stream.Stream;

/** Real processes under a real {@code mpirun}. */
public final class MpiJob implements AutoCloseable {

  private static final int TIMEOUT_SECONDS = 240;

  private final Process process;
  private final Path out;
  private final Path err;
  private final long start = System.nanoTime();

  private MpiJob(Process process, Path out, Path err) {
    this.process = process;
    this.out = out;
    this.err = err;
  }

  /** How a job ended. */
  public record Outcome(int code, String out, String err, double seconds) {}

  /** What ranks need in their environment to compute on the emulator. */
  public static final Map<String, String> EMULATOR = emulator("f32");

  /** As {@link #EMULATOR}, with activations and weights of a type. */
  public static Map<String, String> emulator(String dtype) {
    return Map.of("JAVA_TOOL_OPTIONS", "-Despalier.device=emulator -Despalier.dtype=" + dtype);
  }

  /** Tests of NCCL's stand-in run where this process is on the emulator, too. */
  public static void requireEmulator() {
    assumeTrue(
        "emulator".equals(System.getProperty("espalier.device")),
        "runs with -Despalier.device=emulator only");
  }

  /** The MPIs that tests run with. */
  public static Stream<String> implementations() {
    return Stream.of("openmpi", "mpich");
  }

  /**
   * Starts a class of the test's class path on {@code ranks} processes.
   *
   * @param mpi one of {@link #implementations}
   */
  public static MpiJob start(
      String mpi, int ranks, Map<String, String> environment, Class<?> main, String... arguments)
      throws IOException {
    Path mpirun = require(mpi);
    List<String> command = new ArrayList<>(List.of(mpirun.toString(), "-np", "" + ranks));
    if (mpi.equals("openmpi")) {
      command.addAll(List.of("--allow-run-as-root", "--oversubscribe"));
    }
    // As the launcher does.
    command.addAll(List.of("sh", "-c", ". ../.mvn/tools.sh; espalier_become \"$@\"", "sh"));
    command.addAll(
        List.of(
            Path.of(System.getProperty("java.home"), "bin", "java").toString(),
            "-XX:+UseSerialGC",
            // Ranks live for seconds: what C2 would compile for them takes the processors from
            // them.
            "-XX:TieredStopAtLevel=1",
            "-Xlog:disable",
            "-Duser.language=en", // of programs that are no commands: see TestLocale
            "--enable-native-access=ALL-UNNAMED",
            "-cp",
            System.getProperty("surefire.test.class.path", System.getProperty("java.class.path"))));
    // Classes from the archive that this JVM has, if any: loading them is a third of what a rank
    // of a second takes.
    ManagementFactory.getRuntimeMXBean().getInputArguments().stream()
        .filter(option -> option.startsWith("-XX:SharedArchiveFile="))
        .forEach(command::add);
    command.add(main.getName());
    command.addAll(List.of(arguments));
    Path out = Files.createTempFile("mpi", ".out");
    Path err = Files.createTempFile("mpi", ".err");
    ProcessBuilder builder =
        new ProcessBuilder(command).redirectOutput(out.toFile()).redirectError(err.toFile());
    builder.environment().putAll(environment);
    return new MpiJob(builder.start(), out, err);
  }

  public static Outcome run(String mpi, int ranks, Class<?> main, String... arguments)
      throws IOException, InterruptedException {
    return start(mpi, ranks, Map.of(), main, arguments).await();
  }

  public Outcome await() throws IOException, InterruptedException {
    boolean ended = process.waitFor(TIMEOUT_SECONDS, TimeUnit.SECONDS);
    if (!ended) {
      close();
      fail("the job has not ended after %d s: %s".formatted(TIMEOUT_SECONDS, error()));
    }
    double seconds = (System.nanoTime() - start) * 1e-9;
    Outcome outcome = new Outcome(process.exitValue(), Files.readString(out), error(), seconds);
    Files.delete(out);
    Files.delete(err);
    return outcome;
  }

  /** Kills what is left of the job, if it has not ended: a test that fails leaves none behind. */
  @Override
  public void close() {
    process.descendants().forEach(ProcessHandle::destroyForcibly);
    process.destroyForcibly();
  }

  public boolean isAlive() {
    return process.isAlive();
  }

  /** What the job has said on the error stream so far. */
  public String error() throws IOException {
    return Files.readString(err);
  }

  /** The process of a rank. */
  public ProcessHandle rank(int rank) {
    return process
        .descendants()
        .filter(p -> p.info().command().orElse("").endsWith("/java") && isRank(p, rank))
        .findFirst()
        .orElseThrow(() -> new AssertionError("there is no process of rank " + rank));
  }

  private static boolean isRank(ProcessHandle candidate, int rank) {
    try {
      List<String> variables =
          List.of(Files.readString(Path.of("/proc", "" + candidate.pid(), "environ")).split("\0"));
      return variables.contains("OMPI_COMM_WORLD_RANK=" + rank)
          || variables.contains("PMI_RANK=" + rank);
    } catch (IOException gone) {
      return false;
    }
  }

  /**
   * A test that cannot run here says so; where {@code espalier.mpi.required} is set (in CI), it
   * fails.
   */
  private static Path require(String mpi) {
    for (String folder : System.getenv("PATH").split(":")) {
      Path program = Path.of(folder, "mpirun." + mpi);
      if (Files.isExecutable(program)) {
        return program;
      }
    }
    String missing = "no mpirun.%s: install Debian's %s".formatted(mpi, packages(mpi));
    if (Boolean.getBoolean("espalier.mpi.required")) {
      return fail(missing);
    }
    return abort(missing);
  }

  private static String packages(String mpi) {
    return mpi.equals("openmpi") ? "openmpi-bin and libopenmpi-dev" : "mpich and libmpich-dev";
  }
}
