package espalier.recipe;

import java.nio.file.Path;

/**
 * Everything that {@code espalier merge} is told.
 *
 * @param toF32 whether all weights are written as float32, not as the model has them
 */
public record MergeSettings(Path model, Path adapter, Path out, boolean toF32) {}
