package espalier.report;

import espalier.format.InputException;
import java.nio.file.Path;
import java.util.HashSet;
import java.util.List;

/** Makes short names of runs: as much of the end of each path as is needed to tell them apart. */
final class RunNames {

  private RunNames() {}

  static List<String> of(List<Path> folders) {
    List<Path> paths = folders.stream().map(p -> p.toAbsolutePath().normalize()).toList();
    int longest = 1;
    for (Path path : paths) {
      longest = Math.max(longest, path.getNameCount());
    }
    for (int parts = 1; parts <= longest; parts++) {
      int length = parts;
      List<String> names = paths.stream().map(path -> end(path, length)).toList();
      if (new HashSet<>(names).size() == names.size()) {
        return names;
      }
    }
    HashSet<Path> seen = new HashSet<>();
    Path twice = paths.stream().filter(path -> !seen.add(path)).findFirst().orElseThrow();
    throw new InputException(twice, "is given twice");
  }

  private static String end(Path path, int parts) {
    int count = path.getNameCount();
    return count == 0 ? "/" : path.subpath(Math.max(0, count - parts), count).toString();
  }
}
