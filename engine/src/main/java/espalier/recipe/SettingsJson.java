package espalier.recipe;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.lang.reflect.RecordComponent;
import java.util.Collection;
import java.util.Locale;
import java.util.Optional;
import java.util.OptionalInt;

/** A settings record as JSON, its components under their own names. */
public final class SettingsJson {

  private SettingsJson() {}

  public static ObjectNode of(Record settings) {
    ObjectNode json = JsonNodeFactory.instance.objectNode();
    for (RecordComponent component : settings.getClass().getRecordComponents()) {
      try {
        put(json, component.getName(), component.getAccessor().invoke(settings));
      } catch (ReflectiveOperationException e) {
        throw new IllegalStateException("settings are public records", e);
      }
    }
    return json;
  }

  private static void put(ObjectNode json, String name, Object value) {
    switch (value) {
      case OptionalInt i when i.isPresent() -> json.put(name, i.getAsInt());
      case OptionalInt none -> json.putNull(name);
      case Optional<?> o when o.isEmpty() -> json.putNull(name);
      case Record nested when !(value instanceof SaeSpec) -> json.set(name, of(nested));
      case Collection<?> all -> all.forEach(element -> json.withArray(name).add(text(element)));
      case Integer i -> json.put(name, i);
      case Long l -> json.put(name, l);
      case Double d -> json.put(name, d);
      case Boolean b -> json.put(name, b);
      default -> json.put(name, text(value));
    }
  }

  private static String text(Object value) {
    return switch (value) {
      case Optional<?> o -> o.map(SettingsJson::text).orElse("");
      case SaeSpec sae -> sae.layer() + "=" + sae.path();
      case Enum<?> constant -> constant.name().toLowerCase(Locale.ROOT);
      default -> String.valueOf(value);
    };
  }
}
