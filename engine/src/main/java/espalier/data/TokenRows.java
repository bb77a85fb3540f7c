package espalier.data;

import espalier.format.InputException;
import espalier.format.ModelConfig;
import espalier.format.Npy;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.OptionalInt;
import java.util.SplittableRandom;
import java.util.stream.IntStream;

/**
 * A data set as rows of token ids, all of one length, outside the Java heap.
 *
 * <p>Token files are used as they are. Texts are packed: the documents follow one another in order,
 * with EOS after each, and are cut into rows of {@code context} ids. If the model has BOS, the
 * first id of each row is BOS. What does not fill a row is dropped.
 */
public final class TokenRows {

  private final MemorySegment ids; // int32 [count, context]
  private final int count;
  private final int context;

  TokenRows(MemorySegment ids, int count, int context) {
    this.ids = ids;
    this.count = count;
    this.context = context;
  }

  /**
   * Reads data of one kind: token rows ({@code .npy}) or text.
   *
   * @param modelFolder where the tokenizer is; it is opened only for text
   * @param context the length of packed rows; token rows have their own
   * @param cache of texts that were tokenized before
   */
  public static TokenRows read(
      List<Path> files, ModelConfig config, Path modelFolder, int context, TokenCache cache) {
    long tokenFiles = files.stream().filter(TokenRows::isTokenFile).count();
    if (tokenFiles > 0 && tokenFiles < files.size()) {
      throw new InputException("--data: token files (.npy) and text cannot be mixed");
    }
    if (tokenFiles > 0) {
      return fromTokenFiles(files, config);
    }
    files.forEach(Documents::check);
    checkLength("--context", context, config);
    try (Tokenizer tokenizer = Tokenizer.open(modelFolder)) {
      return cache.rows(
          files, tokenizer, config, context, () -> pack(files, tokenizer, config, context));
    }
  }

  /** As above, without a cache. */
  public static TokenRows read(
      List<Path> files, ModelConfig config, Path modelFolder, int context) {
    return read(files, config, modelFolder, context, TokenCache.NONE);
  }

  /** Random ids, for measurements where only their number matters. */
  public static TokenRows random(int vocab, int count, int context, long seed) {
    SplittableRandom random = new SplittableRandom(seed);
    MemorySegment ids = Arena.ofAuto().allocate(ValueLayout.JAVA_INT, (long) count * context);
    for (long i = 0; i < (long) count * context; i++) {
      ids.setAtIndex(ValueLayout.JAVA_INT, i, random.nextInt(vocab));
    }
    return new TokenRows(ids, count, context);
  }

  private static boolean isTokenFile(Path file) {
    return file.getFileName().toString().endsWith(".npy");
  }

  private static TokenRows fromTokenFiles(List<Path> files, ModelConfig config) {
    List<Npy> arrays = files.stream().map(Npy::open).toList();
    long context = arrays.getFirst().cols();
    long count = 0;
    for (Npy array : arrays) {
      if (!array.isInteger()) {
        throw new InputException(array.file(), "holds " + array.type() + ", expected integer ids");
      }
      if (array.rows() == 0 || array.cols() < 2) {
        throw new InputException(
            array.file(),
            "has the shape [%d, %d]; at least one row of two ids is needed"
                .formatted(array.rows(), array.cols()));
      }
      if (array.cols() != context) {
        throw new InputException(
            array.file(),
            "has rows of %d ids, but those of %s have %d; all rows must have one length"
                .formatted(array.cols(), files.getFirst(), context));
      }
      checkLength(array.file().toString(), array.cols(), config);
      count += array.rows();
    }
    MemorySegment ids = Arena.ofAuto().allocate(ValueLayout.JAVA_INT, count * context);
    long at = 0;
    for (Npy array : arrays) {
      for (long r = 0; r < array.rows(); r++) {
        for (long c = 0; c < context; c++) {
          long id = array.integer(r, c);
          if (id < 0 || id >= config.vocabSize()) {
            throw new InputException(
                array.file(),
                "row %d, column %d (counted from 0): id %d is outside the vocabulary of %d"
                    .formatted(r, c, id, config.vocabSize()));
          }
          ids.setAtIndex(ValueLayout.JAVA_INT, at++, (int) id);
        }
      }
    }
    return new TokenRows(ids, Math.toIntExact(count), (int) context);
  }

  private static void checkLength(String what, long length, ModelConfig config) {
    if (length < 2) {
      throw new InputException(
          what + ": rows of %d ids predict nothing; at least 2 are needed".formatted(length));
    }
    if (length > config.maxPositionEmbeddings()) {
      throw new InputException(
          what
              + ": rows of %d ids are longer than the model's max_position_embeddings, %d"
                  .formatted(length, config.maxPositionEmbeddings()));
    }
  }

  private static TokenRows pack(
      List<Path> files, Tokenizer tokenizer, ModelConfig config, int context) {
    OptionalInt bos = tokenizer.hasBos() ? config.bos() : OptionalInt.empty();
    Packer packer = new Packer(context, bos, config.eos());
    files.forEach(file -> Pieces.check(file, tokenizer::cuts));
    for (Path file : files) {
      Documents.read(
          file,
          document -> {
            Pieces pieces = new Pieces(file, document, tokenizer::cuts);
            for (String piece = pieces.next(); piece != null; piece = pieces.next()) {
              add(tokenizer.encode(piece), packer, tokenizer, config);
            }
            packer.endDocument();
          });
    }
    if (packer.rows() == 0) {
      throw new InputException(
          files.getLast(),
          "too little text: it has %d tokens in all, but a row needs %d; give more text or a smaller --context"
              .formatted(packer.size, context));
    }
    MemorySegment ids =
        Arena.ofAuto().allocate(ValueLayout.JAVA_INT, (long) packer.rows() * context);
    MemorySegment.copy(packer.ids, 0, ids, ValueLayout.JAVA_INT, 0, packer.rows() * context);
    return new TokenRows(ids, packer.rows(), context);
  }

  private static void add(int[] ids, Packer packer, Tokenizer tokenizer, ModelConfig config) {
    for (int id : ids) {
      if (id >= config.vocabSize()) {
        throw new InputException(
            tokenizer.file(),
            "gives id %d, but the model's vocabulary has only %d ids: the two do not fit"
                .formatted(id, config.vocabSize()));
      }
      packer.add(id);
    }
  }

  /** Collects ids into rows. */
  private static final class Packer {
    private static final int LARGEST = 1 << 30;

    private final int context;
    private final OptionalInt bos;
    private final List<Integer> eos;
    private int[] ids = new int[1 << 16];
    private int size;

    Packer(int context, OptionalInt bos, List<Integer> eos) {
      this.context = context;
      this.bos = bos;
      this.eos = eos;
    }

    void add(int id) {
      if (size % context == 0 && bos.isPresent()) {
        append(bos.getAsInt());
      }
      append(id);
    }

    void endDocument() {
      if (!eos.isEmpty()) {
        add(eos.getFirst());
      }
    }

    int rows() {
      return size / context;
    }

    private void append(int id) {
      if (size == ids.length) {
        if (size == LARGEST) {
          throw new InputException(
              "--data: more than 2^30 tokens of text in one run; give fewer or smaller files");
        }
        ids = Arrays.copyOf(ids, 2 * size);
      }
      ids[size++] = id;
    }
  }

  /** All ids, row after row. */
  MemorySegment ids() {
    return ids;
  }

  /** The number of rows. */
  public int count() {
    return count;
  }

  /** Steps of one pass over the rows, of so many rows each; at least one. */
  public int onePass(int rowsAStep) {
    return Math.max(1, count / rowsAStep);
  }

  /** The number of ids in a row. */
  public int context() {
    return context;
  }

  /** Whether every row begins with {@code id}; false if that is empty. */
  public boolean beginWith(OptionalInt id) {
    return id.isPresent()
        && IntStream.range(0, count)
            .allMatch(
                row -> ids.getAtIndex(ValueLayout.JAVA_INT, (long) row * context) == id.getAsInt());
  }

  /** Copies row {@code index} into an array of {@link #context} ids. */
  public void copyRow(int index, int[] target) {
    MemorySegment.copy(
        ids, ValueLayout.JAVA_INT, (long) index * context * Integer.BYTES, target, 0, context);
  }

  /** {@code some} of the rows, in their order, evenly spread over all of them. */
  public TokenRows spread(int some) {
    if (some < 1 || some > count) {
      throw new IllegalArgumentException(some + " of " + count + " rows");
    }
    long bytes = (long) context * Integer.BYTES;
    MemorySegment chosen = Arena.ofAuto().allocate(some * bytes, Integer.BYTES);
    for (int i = 0; i < some; i++) {
      long row = (2L * i + 1) * count / (2L * some); // the middle of each part
      MemorySegment.copy(ids, row * bytes, chosen, i * bytes, bytes);
    }
    return new TokenRows(chosen, some, context);
  }

  /** Writes a token file, which {@link #read} takes. */
  public void write(Path file) {
    Npy.write(file, count, context, ids);
  }
}
