package espalier.recipe;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.device.DeviceChoice;
import espalier.device.ElementType;
import espalier.format.AtomicFiles;
import espalier.format.InputException;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Locale;
import java.util.stream.Stream;

/**
 * The folder of a run: {@code run.json} with everything the run depends on, {@code metrics.jsonl},
 * {@code checkpoints}, {@code report.html}, and what the job makes.
 */
public record RunFolder(Path path) {

  private static final String RUN = "run.json";

  /**
   * Refuses a folder that holds anything, unless a run in it is to be resumed, or that cannot be
   * made. Writes nothing.
   *
   * @param resume whether {@code --resume} was given
   */
  public static RunFolder check(Path path, boolean resume) {
    OutputPath.refuseFile("--out", path);
    RunFolder folder = new RunFolder(path);
    if (Files.isDirectory(path) && !isEmpty(path)) {
      // The metrics are there first, and alone where the disk was full.
      boolean holdsRun = Files.exists(path.resolve(RUN)) || Files.exists(folder.metrics());
      if (!holdsRun) {
        throw new InputException(
            "--out " + path + ": holds other files; give a folder that is new or empty");
      }
      if (!resume) {
        throw new InputException("--out " + path + ": holds another run; --resume continues it");
      }
    }
    OutputPath.checkFolder("--out", path);
    return folder;
  }

  private static boolean isEmpty(Path path) {
    try (Stream<Path> files = Files.list(path)) {
      return files.findAny().isEmpty();
    } catch (IOException e) {
      throw new InputException("--out " + path + ": cannot be listed");
    }
  }

  /**
   * Everything that a run's result depends on, as text: a resumed run must have the same as the run
   * that it continues.
   */
  public static String fingerprint(Record settings, int steps) {
    return fingerprint(settings, steps, 1);
  }

  /**
   * Likewise, for a job on several ranks. Another number of ranks may continue it if a step has as
   * many batches in all.
   */
  static String fingerprint(Record settings, int steps, int ranks) {
    ObjectNode json = SettingsJson.of(settings);
    json.remove(
        List.of("out", "resume", "evalData", "evalEvery", "activationCache", "checkpointEvery"));
    json.put("steps", steps);
    if (json.has("accumulate")) {
      json.put("accumulate", json.get("accumulate").intValue() * ranks);
    }
    DeviceChoice device = DeviceChoice.current();
    if (device.type() != ElementType.F32) {
      json.put("dtype", device.type().label());
    }
    return json.toString();
  }

  public Path metrics() {
    return path.resolve("metrics.jsonl");
  }

  public Path checkpoints() {
    return path.resolve("checkpoints");
  }

  /** Makes the folder and writes {@code run.json}. */
  public void begin(String command, ObjectNode settings, long seed) {
    begin(command, settings, seed, 1);
  }

  /** Likewise, for a job on several ranks. */
  void begin(String command, ObjectNode settings, long seed, int ranks) {
    begin(command, settings, seed, ranks, new long[0]);
  }

  /**
   * Likewise, for a job with frozen SAEs.
   *
   * @param saeBytes of their weights, on each rank
   */
  void begin(String command, ObjectNode settings, long seed, long[] saeBytes) {
    begin(command, settings, seed, saeBytes.length, saeBytes);
  }

  private void begin(String command, ObjectNode settings, long seed, int ranks, long[] saeBytes) {
    ObjectNode run = JsonNodeFactory.instance.objectNode();
    run.put("command", command);
    run.set("settings", settings);
    run.put("seed", seed);
    run.put("ranks", ranks);
    for (long bytes : saeBytes) {
      run.withArray("sae_bytes").add(bytes);
    }
    run.set("versions", Versions.json());
    run.put("git_revision", Versions.revision());
    DeviceChoice device = DeviceChoice.current();
    run.put("device", device.kind().name().toLowerCase(Locale.ROOT));
    run.put("dtype", device.type().label());
    run.set("machine", Versions.machine());
    try {
      Files.createDirectories(path);
    } catch (IOException e) {
      throw new InputException("--out " + path + ": cannot be made");
    }
    write(RUN, run);
  }

  /** Writes a JSON file into the folder. */
  public void write(String name, ObjectNode json) {
    try {
      AtomicFiles.write(
          path.resolve(name),
          new ObjectMapper().writerWithDefaultPrettyPrinter().writeValueAsString(json) + "\n");
    } catch (JsonProcessingException e) {
      throw new UncheckedIOException(e);
    }
  }
}
