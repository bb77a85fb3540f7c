package espalier.distributed;

import espalier.distributed.Link.Kind;
import espalier.distributed.Link.Message;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.NetworkInterface;
import java.net.ServerSocket;
import java.net.SocketTimeoutException;
import java.security.SecureRandom;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.function.IntConsumer;
import java.util.function.UnaryOperator;

/**
 * Ends the job on all ranks soon after one dies, hangs or fails, with one line that says which rank
 * it was and which checkpoint is left. MPI itself does not notice dead ranks: the others would wait
 * for ever.
 *
 * <p>Each rank has a connection to rank 0, and both sides say every second that they are alive. If
 * the connection ends, the process is dead; if it is silent, the process has been stopped or the
 * machine is lost; a rank whose own work makes no progress says so itself. Rank 0 prints the line
 * for all, or rank 1 if rank 0 itself is gone.
 *
 * <p>A process counts silence and the time that its work takes in beats of its own. If the whole
 * job is stopped for a while, as Slurm suspends one, its beats stop as well, so nobody is taken for
 * silent meanwhile.
 */
final class Watch implements AutoCloseable {

  private static final int BEAT_MILLIS = 1_000;
  private static final int SILENCE_MILLIS = 15_000;

  /** Of its own beats, how many a process that was not stopped has at least in a silence. */
  private static final int LEAST_BEATS = SILENCE_MILLIS / BEAT_MILLIS / 2;

  private static final int CONNECT_MILLIS = 3_000;
  private static final int JOIN_MILLIS = 60_000;
  private static final int RETRY_MILLIS = 200;

  /** How long a rank that knows that the job ends waits for others to end it. */
  private static final int LAST_WAIT_MILLIS = 5_000;

  private static final int GOODBYE_MILLIS = 300;

  private static final long BEAT_NANOS = BEAT_MILLIS * 1_000_000L;

  /** Work that takes less time than this is never considered to hang. */
  private static final long LEAST_PATIENCE_NANOS = 20_000_000_000L;

  private static final long IDLE = -1;

  /** How many times longer than any piece before it a piece of work may take. */
  private static final int PATIENCE_FACTOR = 10;

  private final Launch launch;
  private final IntConsumer abort;
  private final List<Link> links = Collections.synchronizedList(new ArrayList<>());
  private final AtomicBoolean over = new AtomicBoolean();
  private final Thread goodbye = new Thread(this::sayGoodbye, "watch-goodbye");
  private String note;
  private volatile String lastCheckpoint = "";
  private volatile long beats;
  private volatile long workSince = IDLE; // beats
  private volatile long longestWork; // ns

  private Watch(Launch launch, IntConsumer abort) {
    this.launch = launch;
    this.abort = abort;
  }

  /**
   * How ranks find rank 0.
   *
   * @param port that rank 0 listens at; 0: any
   * @param secret that strangers do not know
   * @param note one word that rank 0 gives to each
   * @param address tells every rank where rank 0 is: a port, the secret and addresses of its
   *     machine, which is what rank 0 passes to it
   */
  record Meeting(int port, String secret, String note, UnaryOperator<String> address) {

    static Meeting anywhere(UnaryOperator<String> address) {
      return new Meeting(0, Long.toHexString(new SecureRandom().nextLong()), "-", address);
    }
  }

  /**
   * Connects all ranks.
   *
   * @param abort ends all processes of the job with an exit code, if it can
   */
  static Watch start(Launch launch, Meeting meeting, IntConsumer abort) {
    Watch watch = new Watch(launch, abort);
    watch.note = meeting.note;
    try {
      if (launch.rank() == 0) {
        watch.listen(meeting);
      } else {
        watch.connect(meeting.address.apply(""));
      }
    } catch (IOException e) {
      throw new LaunchException("the ranks cannot connect: " + e.getMessage(), e);
    }
    Runtime.getRuntime().addShutdownHook(watch.goodbye);
    watch.daemon("watch-beat", watch::beat);
    return watch;
  }

  /** The word that rank 0 gave. */
  String note() {
    return note;
  }

  private void listen(Meeting meeting) throws IOException {
    boolean oneMachine = meeting.port == 0 && launch.localSize() == launch.size();
    InetAddress bound = oneMachine ? InetAddress.getLoopbackAddress() : null;
    try (ServerSocket server = new ServerSocket(meeting.port, launch.size(), bound)) {
      List<String> hosts =
          oneMachine ? List.of(InetAddress.getLoopbackAddress().getHostAddress()) : ownAddresses();
      meeting.address.apply(
          server.getLocalPort() + " " + meeting.secret + " " + String.join(" ", hosts));
      server.setSoTimeout(JOIN_MILLIS);
      while (links.size() < launch.size() - 1) {
        Link link = new Link(server.accept(), SILENCE_MILLIS);
        String[] words = greeting(link).split(" ", 3);
        if (words.length < 3 || !words[0].equals(meeting.secret)) {
          link.close();
          continue;
        }
        link.send(Kind.HELLO, note + " " + processName());
        links.add(link);
        int peer = Integer.parseInt(words[1]);
        daemon("watch-" + peer, () -> hear(link, peer, words[2]));
      }
    } catch (SocketTimeoutException e) {
      throw new IOException(
          "after %d s only %d of %d have connected to rank 0"
              .formatted(JOIN_MILLIS / 1000, links.size() + 1, launch.size()),
          e);
    }
  }

  /** What whoever connected says first; empty of a stranger, who may be anybody on the network. */
  private static String greeting(Link link) {
    try {
      Message hello = link.receive();
      return hello.kind() == Kind.HELLO ? hello.text() : "";
    } catch (IOException e) {
      return "";
    }
  }

  private static List<String> ownAddresses() throws IOException {
    List<String> addresses =
        NetworkInterface.networkInterfaces()
            .flatMap(NetworkInterface::inetAddresses)
            .filter(a -> !a.isLoopbackAddress() && !a.isLinkLocalAddress())
            .map(InetAddress::getHostAddress)
            .toList();
    if (addresses.isEmpty()) {
      throw new IOException("the machine of rank 0 has no network address");
    }
    return addresses;
  }

  /**
   * @param address port, secret, and the addresses of rank 0's machine, which need not all be
   *     reachable from here
   */
  private void connect(String address) throws IOException {
    String[] words = address.split(" ");
    IOException last = null;
    for (int waited = 0; waited < JOIN_MILLIS; waited += RETRY_MILLIS) {
      for (int i = 2; i < words.length; i++) {
        try {
          connect(new InetSocketAddress(words[i], Integer.parseInt(words[0])), words[1]);
          return;
        } catch (IOException e) {
          last = e;
        }
      }
      pause(RETRY_MILLIS); // rank 0 may be slower than this one
    }
    throw new IOException(
        "rank %d cannot reach rank 0 at port %s of %s"
            .formatted(launch.rank(), words[0], address.split(" ", 3)[2]),
        last);
  }

  private void connect(InetSocketAddress address, String secret) throws IOException {
    Link link = Link.to(address, CONNECT_MILLIS, SILENCE_MILLIS);
    link.send(Kind.HELLO, "%s %d %s".formatted(secret, launch.rank(), processName()));
    String[] noteAndName = link.receive().text().split(" ", 2);
    note = noteAndName[0];
    links.add(link);
    daemon("watch-0", () -> hear(link, 0, noteAndName[1]));
  }

  private static String processName() {
    String host;
    try {
      host = InetAddress.getLocalHost().getHostName();
    } catch (IOException e) {
      host = "unknown host";
    }
    return "process %d on %s".formatted(ProcessHandle.current().pid(), host);
  }

  /** What a peer says, until it ends. */
  private void hear(Link link, int peer, String name) {
    String died = "%s died (%s)".formatted(rank(peer), name);
    try {
      while (true) {
        Message message = next(link);
        switch (message.kind()) {
          case BEAT -> {}
          case CHECKPOINT -> remember(message.text());
          case FAILED -> {
            String[] codeAndReason = message.text().split(" ", 2);
            end(rank(peer) + ": " + codeAndReason[1], Integer.parseInt(codeAndReason[0]));
            return;
          }
          case END -> {
            over.set(true); // it has been said why
            pause(LAST_WAIT_MILLIS); // the launcher is faster if it ends all
            Runtime.getRuntime().halt(Integer.parseInt(message.text()));
          }
          case BYE -> {
            return;
          }
          case HELLO -> throw new IOException("a second greeting");
        }
      }
    } catch (SocketTimeoutException e) {
      lost(
          "%s has not been heard of for %d s (%s)"
              .formatted(rank(peer), SILENCE_MILLIS / 1000, name));
    } catch (IOException e) {
      lost(died);
    }
  }

  /**
   * @throws SocketTimeoutException if nothing has come for too long, while this process was there
   */
  private Message next(Link link) throws IOException {
    while (true) {
      long before = beats;
      try {
        return link.receive();
      } catch (SocketTimeoutException e) {
        if (beats - before >= LEAST_BEATS) {
          throw e;
        }
      }
    }
  }

  private void lost(String how) {
    if (launch.rank() > 1) { // rank 0 is lost to all: rank 1 speaks first
      pause(LAST_WAIT_MILLIS);
    }
    end(how, 1);
  }

  private String rank(int rank) {
    return "rank %d of %d".formatted(rank, launch.size());
  }

  private void beat() {
    while (!over.get()) {
      for (Link link : List.copyOf(links)) {
        link.send(Kind.BEAT, "");
      }
      checkOwnWork();
      pause(BEAT_MILLIS);
      beats++; // by this thread alone
    }
  }

  private void checkOwnWork() {
    long since = workSince;
    long took = (beats - since) * BEAT_NANOS;
    long patience = Math.max(LEAST_PATIENCE_NANOS, PATIENCE_FACTOR * longestWork);
    if (since != IDLE && longestWork > 0 && took > patience) {
      fail("hangs: nothing done for %d s".formatted(took / 1_000_000_000), 1);
    }
  }

  /** Runs a piece of work; {@link #beat} looks at how long it takes. */
  void work(Runnable piece) {
    long start = System.nanoTime();
    long before = beats;
    workSince = before;
    try {
      piece.run();
    } finally {
      workSince = IDLE;
    }
    long counted = (beats - before + 1) * BEAT_NANOS; // less than by the clock if it was stopped
    longestWork = Math.max(longestWork, Math.min(System.nanoTime() - start, counted));
  }

  /** Runs what waits for other ranks, within a piece of work or not: it is not this one's to do. */
  void waitFor(Runnable others) {
    boolean working = workSince != IDLE;
    workSince = IDLE;
    others.run();
    workSince = working ? beats : IDLE;
  }

  private void remember(String file) {
    lastCheckpoint = file.isEmpty() ? "" : "; the last checkpoint is " + file;
  }

  void checkpoint(String file) {
    remember(file);
    links.forEach(link -> link.send(Kind.CHECKPOINT, file));
  }

  /** This rank has failed. Does not return. */
  void fail(String message, int exitCode) {
    if (launch.rank() == 0) {
      end(rank(0) + ": " + message, exitCode);
    } else {
      links.getFirst().send(Kind.FAILED, exitCode + " " + message);
      // Rank 0 ends all, or was about to: what fails here may fail there too.
      pause(LAST_WAIT_MILLIS);
      end(rank(launch.rank()) + ": " + message, exitCode);
    }
  }

  /** Says why the job ends, once, and ends it. Does not return. */
  private void end(String why, int exitCode) {
    if (!over.compareAndSet(false, true)) {
      pause(LAST_WAIT_MILLIS); // another thread is at it
      Runtime.getRuntime().halt(exitCode);
    }
    // A launcher may be about to kill this rank as well: no formatting, which first loads classes.
    byte[] line = "espalier: ".concat(why).concat(lastCheckpoint).concat("\n").getBytes();
    System.err.write(line, 0, line.length);
    System.err.flush();
    links.forEach(link -> link.send(Kind.END, String.valueOf(exitCode)));
    daemon("watch-abort", () -> abort.accept(exitCode));
    pause(LAST_WAIT_MILLIS);
    Runtime.getRuntime().halt(exitCode);
  }

  /** The virtual machine ends because it was told to. */
  private void sayGoodbye() {
    if (launch.rank() == 0) {
      pause(GOODBYE_MILLIS); // a launcher that ends all because one died is no faster than its link
    }
    links.forEach(link -> link.send(Kind.BYE, ""));
  }

  /** The job is over on all ranks. */
  @Override
  public void close() {
    over.set(true);
    links.forEach(link -> link.send(Kind.BYE, ""));
    try {
      Runtime.getRuntime().removeShutdownHook(goodbye);
    } catch (IllegalStateException shuttingDown) {
      return; // and it has said the same
    }
  }

  private void daemon(String name, Runnable work) {
    Thread.ofPlatform().name(name).daemon().start(work);
  }

  private static void pause(int millis) {
    try {
      Thread.sleep(millis);
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    }
  }
}
