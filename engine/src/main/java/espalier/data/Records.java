package espalier.data;

import static java.nio.charset.StandardCharsets.UTF_8;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.format.InputException;
import espalier.format.StrictJson;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.CharacterCodingException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;

/**
 * Reads the records of data sets: {@code .jsonl} (also {@code .gz}, {@code .zst}), {@code .parquet}
 * with its nested columns, and {@code .csv}. Each record becomes a JSON object; its faults name
 * file and line.
 */
public final class Records {

  private Records() {}

  /**
   * Reads all records of a file.
   *
   * @param header the names of the columns for a {@code .csv} without a header line
   * @param headerStart if the first line of a {@code .csv} contains this, that line is the header
   */
  public static List<StrictJson> read(Path file, List<String> header, String headerStart) {
    if (!Files.isRegularFile(file)) {
      throw new InputException(file, "no such file");
    }
    String name = Unpacked.name(file);
    List<StrictJson> records;
    if (name.endsWith(".parquet")) {
      records = ParquetRecords.read(file);
    } else if (name.endsWith(".csv")) {
      records = csv(file, header, headerStart);
    } else if (name.endsWith(".jsonl")) {
      records = lines(file);
    } else {
      throw new InputException(file, "records are .jsonl, .parquet or .csv");
    }
    if (records.isEmpty()) {
      throw new InputException(file, "is empty");
    }
    return records;
  }

  private static List<StrictJson> lines(Path file) {
    List<StrictJson> records = new ArrayList<>();
    try (BufferedReader reader =
        new BufferedReader(new InputStreamReader(Unpacked.open(file), UTF_8.newDecoder()))) {
      long number = 0;
      for (String line = reader.readLine(); line != null; line = reader.readLine()) {
        number++;
        if (!line.isBlank()) {
          records.add(StrictJson.line(file, number, line));
        }
      }
    } catch (CharacterCodingException e) {
      throw new InputException(file, "not UTF-8 text");
    } catch (IOException e) {
      throw new InputException(file, "cannot be read");
    }
    return records;
  }

  private static List<StrictJson> csv(Path file, List<String> header, String headerStart) {
    List<List<String>> rows;
    try {
      rows = Csv.parse(file, Files.readString(file, UTF_8));
    } catch (IOException e) {
      throw new InputException(file, "cannot be read as text");
    }
    boolean hasHeader = !rows.isEmpty() && rows.getFirst().contains(headerStart);
    List<String> names = hasHeader ? rows.removeFirst() : header;
    List<StrictJson> records = new ArrayList<>();
    for (int i = 0; i < rows.size(); i++) {
      List<String> row = rows.get(i);
      long number = i + (hasHeader ? 2 : 1);
      if (row.size() != names.size()) {
        throw new InputException(
            file,
            "record %d has %d fields, expected %d".formatted(number, row.size(), names.size()));
      }
      ObjectNode object = JsonNodeFactory.instance.objectNode();
      for (int c = 0; c < row.size(); c++) {
        object.put(names.get(c), row.get(c));
      }
      records.add(StrictJson.line(file, number, object.toString()));
    }
    return records;
  }
}
