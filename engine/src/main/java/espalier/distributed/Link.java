package espalier.distributed;

import java.io.BufferedOutputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.Socket;

/** A connection between rank 0 and another rank, over which each hears that the other is alive. */
final class Link {

  /** What is said over a link. */
  enum Kind {
    /** First of all: who this is; of others than rank 0, the secret of the job, too. */
    HELLO,
    /** Still alive. */
    BEAT,
    /** Of rank 0: the file of a checkpoint that is written. */
    CHECKPOINT,
    /** The rank has failed; the exit code and why. */
    FAILED,
    /** Somebody has said why the job ends: what is left is to end, with an exit code. */
    END,
    /** No more is to come, and that is all right. */
    BYE
  }

  record Message(Kind kind, String text) {}

  private final Socket socket;
  private final DataInputStream in;
  private final DataOutputStream out;

  /**
   * @param patienceMillis after which {@link #receive} gives up
   */
  Link(Socket socket, int patienceMillis) throws IOException {
    this.socket = socket;
    socket.setTcpNoDelay(true);
    socket.setSoTimeout(patienceMillis);
    in = new DataInputStream(socket.getInputStream());
    // A message leaves whole: who waits for the rest of one would have to know what came before.
    out = new DataOutputStream(new BufferedOutputStream(socket.getOutputStream()));
  }

  static Link to(InetSocketAddress address, int connectMillis, int patienceMillis)
      throws IOException {
    Socket socket = new Socket();
    try {
      socket.connect(address, connectMillis);
      return new Link(socket, patienceMillis);
    } catch (IOException e) {
      socket.close();
      throw e;
    }
  }

  /** Whether it could be sent; who cannot be reached is missed by {@link #receive}. */
  synchronized boolean send(Kind kind, String text) {
    try {
      out.writeByte(kind.ordinal());
      out.writeUTF(text.length() > 4000 ? text.substring(0, 4000) : text);
      out.flush();
      return true;
    } catch (IOException e) {
      return false;
    }
  }

  /**
   * @throws java.net.SocketTimeoutException if nothing has come for too long
   * @throws IOException if the other process is gone
   */
  Message receive() throws IOException {
    int kind = in.readByte();
    if (kind < 0 || kind >= Kind.values().length) {
      throw new IOException("not a rank of this job");
    }
    return new Message(Kind.values()[kind], in.readUTF());
  }

  void close() throws IOException {
    socket.close();
  }
}
