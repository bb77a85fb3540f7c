package espalier.format;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonLocation;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.core.JsonToken;
import com.fasterxml.jackson.core.StreamReadConstraints;
import com.fasterxml.jackson.core.json.JsonReadFeature;
import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.json.JsonMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * A JSON object from a file, read strictly. Duplicate keys and anything after the object are
 * refused, and every value must have the type as which it is fetched. Faults name the file and the
 * key.
 */
public final class StrictJson {

  private static final long LARGEST = 64L << 20;
  private static final Pattern DUPLICATE =
      Pattern.compile("Duplicate field '(.*)'", Pattern.DOTALL);

  /** In a string of Java's a whole pair is one character of an expression. */
  private static final Pattern HALF_PAIR = Pattern.compile("\\p{Cs}");

  private static final ObjectMapper MAPPER = mapper(new JsonFactory()).build();

  /**
   * For data: accepts the NaN and Infinity that Python's json.dumps writes, and texts of any
   * length.
   */
  private static final ObjectMapper LINES =
      mapper(
              JsonFactory.builder()
                  .streamReadConstraints(
                      StreamReadConstraints.builder().maxStringLength(Integer.MAX_VALUE).build())
                  .build())
          .enable(JsonReadFeature.ALLOW_NON_NUMERIC_NUMBERS)
          .build();

  private final Path file;
  private final String path;
  private final JsonNode node;

  private StrictJson(Path file, String path, JsonNode node) {
    this.file = file;
    this.path = path;
    this.node = node;
  }

  private static JsonMapper.Builder mapper(JsonFactory factory) {
    return JsonMapper.builder(factory)
        .enable(JsonParser.Feature.STRICT_DUPLICATE_DETECTION)
        .enable(DeserializationFeature.FAIL_ON_TRAILING_TOKENS);
  }

  /** Reads a whole file that must hold one object. */
  public static StrictJson read(Path file) {
    return parse(file, content(file));
  }

  /** Checks a file in the same way, before a less strict reader reads it. */
  public static void check(Path file) {
    String text = content(file);
    try (JsonParser parser = MAPPER.createParser(text)) {
      if (parser.nextToken() != JsonToken.START_OBJECT) {
        throw new InputException(file, "no JSON object");
      }
      parser.skipChildren();
      if (parser.nextToken() != null) {
        throw new InputException(file, "not valid JSON");
      }
    } catch (JsonProcessingException e) {
      throw malformed(file, e);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  private static String content(Path file) {
    try {
      if (Files.size(file) > LARGEST) {
        throw new InputException(
            file, "larger than " + (LARGEST >> 20) + " MiB, no JSON file here is");
      }
      return Files.readString(file, StandardCharsets.UTF_8);
    } catch (NoSuchFileException e) {
      throw new InputException(file, "no such file");
    } catch (IOException e) {
      throw new InputException(file, "cannot be read as text");
    }
  }

  /** Parses text that came from {@code file}. */
  public static StrictJson parse(Path file, String text) {
    try {
      JsonNode node = MAPPER.readTree(text);
      if (!node.isObject()) {
        throw new InputException(file, "no JSON object");
      }
      return new StrictJson(file, "", node);
    } catch (JsonProcessingException e) {
      throw malformed(file, e);
    }
  }

  /** Parses a line of a file of JSON lines, counted from 1. Faults name the line. */
  public static StrictJson line(Path file, long number, String text) {
    String where = "line " + number + ": ";
    JsonNode node = valueOfLine(file, number, text);
    if (!node.isObject()) {
      throw new InputException(file, where + "no JSON object");
    }
    return new StrictJson(file, where, node);
  }

  /**
   * The value on such a line, of any type.
   *
   * @throws InputException also for an escaped half of a surrogate pair. JSON's grammar allows it,
   *     but no text has it, and a tokenizer's library would spoil the text around it
   */
  public static JsonNode valueOfLine(Path file, long number, String text) {
    try {
      JsonNode value = LINES.readTree(text);
      Matcher half = HALF_PAIR.matcher(text.contains("\\u") ? value.toString() : "");
      if (half.find()) {
        throw new InputException(
            file,
            "line %d: \\u%04x is half of a surrogate pair, no character"
                .formatted(number, (int) half.group().charAt(0)));
      }
      return value;
    } catch (JsonProcessingException e) {
      throw new InputException(file, "line " + number + ": not valid JSON");
    }
  }

  private static InputException malformed(Path file, JsonProcessingException e) {
    JsonLocation at = e.getLocation();
    String where = at == null ? "" : "line " + at.getLineNr() + ": ";
    Matcher duplicate = DUPLICATE.matcher(e.getOriginalMessage());
    return new InputException(
        file,
        where
            + (duplicate.matches()
                ? "key " + duplicate.group(1) + " appears twice"
                : "not valid JSON"));
  }

  public Path file() {
    return file;
  }

  public List<String> keys() {
    return List.copyOf(node.propertyStream().map(Map.Entry::getKey).toList());
  }

  /** Whether the key is present and not null. */
  public boolean has(String key) {
    return node.hasNonNull(key);
  }

  /** A remark about a key, for what is odd but can be used, worded like {@link #fault}. */
  String remark(String key, String remark) {
    return fault(key, remark).getMessage();
  }

  /** A copy of everything in the object. */
  public ObjectNode copy() {
    return node.deepCopy();
  }

  /** A copy that may be changed and written. */
  public ObjectNode toObjectNode() {
    return node.deepCopy();
  }

  public JsonNode raw(String key) {
    return node.path(key);
  }

  public long integer(String key) {
    JsonNode value = required(key);
    if (!value.isIntegralNumber() || !value.canConvertToLong()) {
      throw fault(key, "is not an integer");
    }
    return value.longValue();
  }

  /** An integer in [1, 2^31). */
  public int positive(String key) {
    long value = integer(key);
    if (value < 1 || value > Integer.MAX_VALUE) {
      throw fault(key, "is " + value + ", not a positive size");
    }
    return (int) value;
  }

  public int positive(String key, int absent) {
    return has(key) ? positive(key) : absent;
  }

  public double number(String key) {
    JsonNode value = required(key);
    if (!value.isNumber() || !Double.isFinite(value.doubleValue())) {
      throw fault(key, "is not a number");
    }
    return value.doubleValue();
  }

  public double number(String key, double absent) {
    return has(key) ? number(key) : absent;
  }

  public boolean flag(String key, boolean absent) {
    if (!has(key)) {
      return absent;
    }
    if (!node.get(key).isBoolean()) {
      throw fault(key, "is neither true nor false");
    }
    return node.get(key).booleanValue();
  }

  public String text(String key) {
    JsonNode value = required(key);
    if (!value.isTextual()) {
      throw fault(key, "is not a string");
    }
    return value.textValue();
  }

  public String text(String key, String absent) {
    return has(key) ? text(key) : absent;
  }

  public Optional<StrictJson> object(String key) {
    if (!has(key)) {
      return Optional.empty();
    }
    if (!node.get(key).isObject()) {
      throw fault(key, "is not an object");
    }
    return Optional.of(new StrictJson(file, path + key + ".", node.get(key)));
  }

  /** The strings in an array. */
  public List<String> texts(String key) {
    JsonNode value = required(key);
    List<String> texts = new ArrayList<>();
    for (JsonNode element : value) {
      if (!element.isTextual()) {
        throw fault(key + "[" + texts.size() + "]", "is not a string");
      }
      texts.add(element.textValue());
    }
    if (!value.isArray()) {
      throw fault(key, "is not an array");
    }
    return texts;
  }

  /** The objects in an array; none if the key is absent. */
  public List<StrictJson> objects(String key) {
    if (!has(key)) {
      return List.of();
    }
    if (!node.get(key).isArray()) {
      throw fault(key, "is not an array");
    }
    List<StrictJson> objects = new ArrayList<>();
    for (JsonNode element : node.get(key)) {
      String name = key + "[" + objects.size() + "]";
      if (!element.isObject()) {
        throw fault(name, "is not an object");
      }
      objects.add(new StrictJson(file, path + name + ".", element));
    }
    return objects;
  }

  /** An exception that says what is wrong with a key's value. */
  public InputException fault(String key, String what) {
    return new InputException(file, path + key + " " + what);
  }

  private JsonNode required(String key) {
    if (!has(key)) {
      throw fault(key, "is missing");
    }
    return node.get(key);
  }
}
