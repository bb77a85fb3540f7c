package espalier.cli;

import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;

/**
 * Runs commands in one process, for comparisons with other programs, which run hundreds: each line
 * of standard input is a JSON array of arguments, and is answered by a line with the {@link
 * Outcome} as JSON.
 */
final class RunCommands {
  private RunCommands() {}

  public static void main(String[] none) throws IOException {
    ObjectMapper json = new ObjectMapper();
    PrintStream answers = System.out;
    var lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    for (String line; (line = lines.readLine()) != null; ) {
      answers.write(json.writeValueAsBytes(Outcome.of(json.readValue(line, String[].class))));
      answers.write('\n');
      answers.flush();
    }
  }
}
