package espalier.recipe;

import java.util.OptionalInt;

/**
 * A step of {@code adapt} to be measured.
 *
 * @param shape see {@link BenchShape}
 * @param context tokens of a sequence
 * @param saeLayer block whose output the SAE replaces; the middle one where absent
 * @param layers which blocks have adapters: see {@link AdapterChoice}
 * @param l0 active latents of a token, on average
 * @param steps that are measured, after three that are not
 */
public record BenchSettings(
    String shape,
    int context,
    int batch,
    int saeWidth,
    OptionalInt saeLayer,
    int rank,
    String layers,
    int l0,
    int steps) {}
