package espalier.report;

import com.fasterxml.jackson.databind.JsonNode;
import espalier.format.StrictJson;
import java.util.EnumMap;
import java.util.Map;

/**
 * A row of a table of numbers.
 *
 * @param values finite values; what was not measured is absent
 */
record Row(String name, Map<Column, Double> values) {

  Row(String name) {
    this(name, new EnumMap<>(Column.class));
  }

  /** The row of an object that has a name. */
  static Row of(StrictJson json) {
    Row row = new Row(json.text("name"));
    for (Column column : Column.values()) {
      if (json.has(column.field)) {
        row.put(column, json.number(column.field));
      }
    }
    return row;
  }

  /** The row of an evaluation, or of an SAE in one. */
  static Row of(String name, JsonNode fields) {
    Row row = new Row(name);
    for (Column column : Column.values()) {
      if (Metrics.isFinite(fields.path(column.field))) {
        row.put(column, fields.get(column.field).doubleValue());
      }
    }
    return row;
  }

  void put(Column column, double value) {
    values.put(column, value);
  }
}
