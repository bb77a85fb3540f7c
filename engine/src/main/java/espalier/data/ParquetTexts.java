package espalier.data;

import dev.hardwood.InputFile;
import dev.hardwood.metadata.PhysicalType;
import dev.hardwood.reader.ParquetFileReader;
import dev.hardwood.reader.RowReader;
import dev.hardwood.schema.ColumnProjection;
import dev.hardwood.schema.ColumnSchema;
import espalier.format.InputException;
import java.io.IOException;
import java.nio.file.Path;
import java.util.List;
import java.util.function.Consumer;
import java.util.logging.Level;
import java.util.logging.Logger;

/**
 * Reads the column {@code text} of a parquet file, in which each row is a document. Other columns
 * are not read.
 */
final class ParquetTexts {

  private static final String COLUMN = "text";

  /**
   * The library's logger, which reports to standard error how it unpacks. This field keeps it
   * alive, because loggers are held weakly.
   */
  private static final Logger LIBRARY = Logger.getLogger("dev.hardwood");

  private ParquetTexts() {}

  /** Silences the library's messages on standard error. */
  static void quieten() {
    LIBRARY.setLevel(Level.WARNING);
  }

  static void read(Path file, Consumer<String> use) {
    quieten();
    try (ParquetFileReader reader = of(file, () -> ParquetFileReader.open(InputFile.of(file)))) {
      check(file, of(file, () -> reader.getFileSchema().getColumns()));
      ColumnProjection projection = ColumnProjection.columns(COLUMN);
      try (RowReader rows =
          of(file, () -> reader.buildRowReader().projection(projection).build())) {
        long row = 0;
        for (String text = next(file, rows, 1); text != null; text = next(file, rows, row + 1)) {
          row++;
          use.accept(text);
        }
        if (row == 0) {
          throw new InputException(file, "is empty");
        }
      }
    } catch (IOException e) {
      throw new InputException(file, "cannot be closed");
    }
  }

  /** The text of the next row; null behind the last row. */
  private static String next(Path file, RowReader rows, long row) {
    return of(
        file,
        () -> {
          if (!rows.hasNext()) {
            return null;
          }
          rows.next();
          if (rows.isNull(COLUMN)) {
            throw new InputException(file, "row " + row + ": its text is null");
          }
          return rows.getString(COLUMN);
        });
  }

  private interface Call<T> {
    T run() throws IOException;
  }

  /**
   * Calls the library and translates what it throws at a damaged file, of whatever class, into our
   * own words.
   */
  private static <T> T of(Path file, Call<T> call) {
    try {
      return call.run();
    } catch (InputException e) {
      throw e;
    } catch (IOException | RuntimeException e) {
      throw new InputException(file, "no parquet file that can be read: damaged or cut off");
    }
  }

  private static void check(Path file, List<ColumnSchema> columns) {
    ColumnSchema column =
        columns.stream()
            .filter(c -> c.fieldPath().toString().equals(COLUMN))
            .findFirst()
            .orElseThrow(() -> new InputException(file, "no column \"text\""));
    if (column.type() != PhysicalType.BYTE_ARRAY || column.maxRepetitionLevel() > 0) {
      throw new InputException(file, "column \"text\" holds no strings");
    }
  }
}
