package espalier.train;

/**
 * Thrown through an evaluation, on all ranks alike, when the user wants the run to stop: an
 * evaluation may take longer than anybody waits, and the resumed run can make up for it.
 */
public final class StoppedException extends RuntimeException {
  private static final long serialVersionUID = 1L;
}
