package espalier.data;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.hardwood.InputFile;
import dev.hardwood.reader.ParquetFileReader;
import dev.hardwood.reader.RowReader;
import dev.hardwood.row.PqList;
import dev.hardwood.row.StructAccessor;
import espalier.format.InputException;
import espalier.format.StrictJson;
import java.io.IOException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;

/**
 * Reads the rows of a parquet file with all their columns: text, numbers, and lists and structures
 * of these.
 */
final class ParquetRecords {

  private ParquetRecords() {}

  static List<StrictJson> read(Path file) {
    ParquetTexts.quieten();
    List<StrictJson> records = new ArrayList<>();
    try (ParquetFileReader reader = ParquetFileReader.open(InputFile.of(file));
        RowReader rows = reader.buildRowReader().build()) {
      while (rows.hasNext()) {
        rows.next();
        records.add(StrictJson.line(file, records.size() + 1, object(rows).toString()));
      }
    } catch (InputException e) {
      throw e;
    } catch (IOException | RuntimeException e) { // whatever the library throws at a damaged file
      throw new InputException(file, "no parquet file that can be read: damaged or cut off");
    }
    return records;
  }

  private static ObjectNode object(StructAccessor struct) {
    ObjectNode object = JsonNodeFactory.instance.objectNode();
    for (int i = 0; i < struct.getFieldCount(); i++) {
      object.set(struct.getFieldName(i), json(struct.isNull(i) ? null : struct.getValue(i)));
    }
    return object;
  }

  private static JsonNode json(Object value) {
    return switch (value) {
      case null -> JsonNodeFactory.instance.nullNode();
      case StructAccessor struct -> object(struct);
      case PqList list -> {
        ArrayNode array = JsonNodeFactory.instance.arrayNode();
        for (int i = 0; i < list.size(); i++) {
          array.add(json(list.isNull(i) ? null : list.get(i)));
        }
        yield array;
      }
      case Integer number -> JsonNodeFactory.instance.numberNode(number);
      case Long number -> JsonNodeFactory.instance.numberNode(number);
      case Float number -> JsonNodeFactory.instance.numberNode(number);
      case Double number -> JsonNodeFactory.instance.numberNode(number);
      case Boolean flag -> JsonNodeFactory.instance.booleanNode(flag);
      default -> JsonNodeFactory.instance.textNode(String.valueOf(value));
    };
  }
}
