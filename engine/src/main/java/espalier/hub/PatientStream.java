package espalier.hub;

import java.io.FilterInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.time.Duration;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;

/**
 * The body of an answer, which waits for the next byte only for a limited time. If a server or a
 * line stalls while the connection stays open, nothing else tells that no more will come.
 */
final class PatientStream extends FilterInputStream {

  private final Duration patience;

  /**
   * @param in a stream whose read ends with an exception when it is closed meanwhile
   * @param patience how long a read may wait
   */
  PatientStream(InputStream in, Duration patience) {
    super(in);
    this.patience = patience;
  }

  @Override
  public int read() throws IOException {
    byte[] one = new byte[1];
    return read(one, 0, 1) < 0 ? -1 : Byte.toUnsignedInt(one[0]);
  }

  /**
   * Reads some bytes.
   *
   * @throws IOException also if nothing has come for too long
   */
  @Override
  public int read(byte[] target, int offset, int length) throws IOException {
    CompletableFuture<Void> come =
        new CompletableFuture<Void>().orTimeout(patience.toMillis(), TimeUnit.MILLISECONDS);
    come.whenComplete((nothing, late) -> closeIf(late != null));
    int read = -1;
    IOException fault = null;
    try {
      read = in.read(target, offset, length);
    } catch (IOException e) {
      fault = e;
    }
    if (!come.complete(null)) {
      throw new IOException("no byte came for %.3g s".formatted(patience.toMillis() / 1e3), fault);
    }
    if (fault != null) {
      throw fault;
    }
    return read;
  }

  private void closeIf(boolean late) {
    if (late) {
      try {
        in.close();
      } catch (IOException e) {
        return; // it is given up anyway
      }
    }
  }
}
