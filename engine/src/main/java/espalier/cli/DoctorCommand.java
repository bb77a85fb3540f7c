package espalier.cli;

import espalier.device.Diagnosis;
import java.util.Map;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;

@Command(name = "doctor", description = "Says what was found here: JDK, native libraries, GPU.")
final class DoctorCommand implements Callable<Integer> {

  @Mixin private Common common;

  @Override
  public Integer call() {
    Diagnosis diagnosis = Diagnosis.make();
    System.out.printf("%-10s %s%n", "version", new Main.Version().getVersion()[0]);
    for (Map.Entry<String, String> line : diagnosis.findings().entrySet()) {
      System.out.printf("%-10s %s%n", line.getKey(), line.getValue());
    }
    return diagnosis.usable() ? 0 : 1;
  }
}
