package espalier.recipe;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.OutputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.junit.jupiter.api.Test;

class ConsoleTest {

  /** Takes each write for itself, as a pipe does. */
  private static final class Pipe extends OutputStream {
    private final List<String> writes = new ArrayList<>();

    @Override
    public void write(int b) {
      writes.add(String.valueOf((char) b));
    }

    @Override
    public void write(byte[] bytes, int from, int count) {
      writes.add(new String(bytes, from, count, StandardCharsets.UTF_8));
    }
  }

  /** Several ranks write to one pipe: a line that is in pieces would get another's in between. */
  @Test
  void aLineIsOneWrite() {
    Pipe pipe = new Pipe();
    Console console = Console.to(new PrintStream(pipe, false, StandardCharsets.UTF_8));
    console.info("a job");
    console.warn("something");
    try (Console.Progress progress = console.progress("adapt", 20)) {
      progress.step(5, "kl 0.25");
      progress.step(6, "kl 0.24");
    }
    assertEquals(4, pipe.writes.size(), pipe.writes.toString());
    for (String line : pipe.writes) {
      assertEquals(line.length() - 1, line.indexOf('\n'), line);
    }
    assertTrue(pipe.writes.get(2).matches("adapt: 5 of 20 \\(.* s, .* s left\\)  kl 0\\.25\n"));
  }

  /** What an earlier process did took no time of this one. */
  @Test
  void theTimeLeftOfAResumedRun() throws InterruptedException {
    Pipe pipe = new Pipe();
    Console console = Console.to(new PrintStream(pipe, false, StandardCharsets.UTF_8));
    try (Console.Progress progress = console.progress("adapt", 100, 200)) {
      progress.step(101, "kl 0.25");
      Thread.sleep(300);
      progress.step(120, "kl 0.24");
    }
    assertEquals(1, pipe.writes.size(), pipe.writes.toString());
    Matcher times =
        Pattern.compile("adapt: 120 of 200 \\((.*) s, (.*) s left\\).*\n")
            .matcher(pipe.writes.getFirst());
    assertTrue(times.matches(), pipe.writes.toString());
    double seconds = Double.parseDouble(times.group(1));
    double left = Double.parseDouble(times.group(2)); // 80 steps, as 20 took that long
    assertEquals(4, left / seconds, 1.4, pipe.writes.toString()); // both are cut to tenths
  }
}
