package espalier.train;

import java.nio.file.Path;
import java.util.Optional;

/**
 * A loss or gradient that is not finite: training has stopped before it could spoil the parameters.
 */
public final class TrainingDivergedException extends RuntimeException {

  private static final long serialVersionUID = 1L;

  TrainingDivergedException(long step, double loss, double norm, Optional<Path> checkpoint) {
    super(
        "step %d: the loss is %s, the gradient norm %s; training stopped, %s"
            .formatted(
                step,
                loss,
                norm,
                checkpoint
                    .map(file -> "the last good checkpoint is " + file)
                    .orElse("no checkpoint was written yet")));
  }
}
