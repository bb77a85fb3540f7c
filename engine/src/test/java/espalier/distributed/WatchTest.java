package espalier.distributed;

import static java.nio.charset.StandardCharsets.US_ASCII;
import static org.junit.jupiter.api.Assertions.assertEquals;

import espalier.distributed.Launch.Starter;
import java.io.IOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.util.concurrent.CompletableFuture;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

class WatchTest {

  /** Such as a scanner of ports, or a program that takes the port for another's. */
  @Test
  @Timeout(60)
  void strangersAtThePortDoNotKeepRanksFromMeeting() throws Exception {
    int port = freePort();
    CompletableFuture<Watch> first = CompletableFuture.supplyAsync(() -> start(0, port, "note"));
    for (String says : new String[] {"", "GET / HTTP/1.1\r\n\r\n", "\0\0\7job 1 x", "\0\0\3job"}) {
      try (Socket stranger = connect(port)) {
        stranger.getOutputStream().write(says.getBytes(US_ASCII));
      }
    }
    Watch second = start(1, port, "-");
    assertEquals("note", second.note());
    second.close();
    first.get().close();
  }

  private static Watch start(int rank, int port, String note) {
    String address = port + " secret " + InetAddress.getLoopbackAddress().getHostAddress();
    Watch.Meeting meeting = new Watch.Meeting(port, "secret", note, own -> address);
    return Watch.start(new Launch(Starter.TORCHRUN, rank, 2, rank, 2), meeting, code -> {});
  }

  private static int freePort() throws IOException {
    try (ServerSocket any = new ServerSocket(0)) {
      return any.getLocalPort();
    }
  }

  private static Socket connect(int port) throws Exception {
    while (true) {
      try {
        return new Socket(InetAddress.getLoopbackAddress(), port);
      } catch (IOException notYetThere) {
        Thread.sleep(20);
      }
    }
  }
}
