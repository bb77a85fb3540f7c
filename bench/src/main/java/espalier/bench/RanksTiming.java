package espalier.bench;

import espalier.device.Device;
import espalier.device.ElementType;
import espalier.distributed.Launch;
import espalier.distributed.Ranks;
import espalier.tensor.Tensor;
import java.util.Arrays;
import java.util.Locale;

/**
 * What a sum of gradients over ranks costs, in the fixed order and in MPI's own: {@code mpirun -np
 * 2 java -cp … espalier.bench.RanksTiming FLOATS}. The least of 31: other work on the machine only
 * adds.
 */
public final class RanksTiming {

  private static final int TIMES = 31;

  private RanksTiming() {}

  public static void main(String[] arguments) {
    long n = Long.parseLong(arguments[0]);
    try (Ranks started = Ranks.join(Launch.detect(System.getenv()));
        Device device = Device.open()) {
      Ranks ranks = started.on(device);
      long slice = (n + ranks.size() - 1) / ranks.size();
      Tensor gradients = Tensor.allocate(device, 1, n);
      Tensor received = Tensor.allocate(device, 1, slice * ranks.size());
      device.kernels().fill(gradients.data(), 1, n);
      double fixed =
          least(
              ranks,
              () -> {
                ranks.exchange(gradients.data(), received.data(), n, slice);
                Tensor sum = received.columns(0, slice);
                for (int r = 1; r < ranks.size(); r++) {
                  device
                      .kernels(ElementType.F32)
                      .axpy(1, received.columns(r * slice, slice).data(), sum.data(), slice);
                }
                ranks.collect(gradients.data(), n, slice);
                device.synchronize();
              });
      double fastest =
          least(
              ranks,
              () -> {
                ranks.sum(gradients.data(), n);
                device.synchronize();
              });
      if (ranks.isFirst()) {
        System.out.printf(
            Locale.ROOT,
            "%d ranks, %d floats: fixed order %.2f ms, fastest %.2f ms%n",
            ranks.size(),
            n,
            fixed,
            fastest);
      }
      ranks.detach();
    }
  }

  private static double least(Ranks ranks, Runnable work) {
    double[] millis = new double[TIMES];
    for (int i = 0; i < TIMES; i++) {
      ranks.gather(new byte[1]);
      long start = System.nanoTime();
      work.run();
      millis[i] = (System.nanoTime() - start) * 1e-6;
    }
    return Arrays.stream(millis).min().orElseThrow();
  }
}
