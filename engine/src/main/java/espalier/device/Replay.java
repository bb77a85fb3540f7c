package espalier.device;

import java.util.Optional;

/**
 * The same kernel calls again and again, on the same memory. A device that can record them makes
 * one launch of all.
 */
public interface Replay {

  /** Queues the work once. */
  void run();

  /** Memory has moved: what was recorded holds no longer. */
  void forget();

  /** How the work is queued, for the user: as one graph, or why call by call. */
  String describe();

  /** Why work that might have been recorded was not; empty if it was, or nobody tried. */
  default Optional<String> refusal() {
    return Optional.empty();
  }
}
